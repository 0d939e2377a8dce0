"""Archives that somebody made to do harm: nothing gets out of the store, or into it unverified."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, MemoryCacheConfig, _core
from cogcache.archives import tar
from cogcache.archives.layout import MANIFEST, entry_name
from cogcache.keys import Key

MIB = 1 << 20
VALUES: dict[str, Any] = {"text": "grüße", "blob": b"\x00\xff" * 5000, "none": None}
Member = tuple[tarfile.TarInfo, bytes]


def over_memory() -> CacheManager:
    return CacheManager(CacheConfig([MemoryCacheConfig(max_size_mb=64)], default_ttl=None))


@cache
def archive() -> bytes:
    manager = over_memory()
    for key, value in VALUES.items():
        manager.sync.store(key, value, ttl=0)
    target = io.BytesIO()
    manager.sync.export_archive(target)
    return target.getvalue()


def members() -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(archive())) as opened:
        return [(one, opened.extractfile(one).read()) for one in opened]  # type: ignore[union-attr]


def packed(all_of_them: list[Member], form: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as opened:
        for info, data in all_of_them:
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return target.getvalue()


def named(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, data


def container(key: bytes, value: Any = "forged", **meta: Any) -> bytes:
    fields: dict[int | str, Any] = {1: 1, **{int(k[1:]): v for k, v in meta.items()}}
    draft = _core.Draft(value, key, meta=fields, refreshed_ms=1, ttl_ms=None)
    return draft.compose().tobytes()


def entry_of(data: bytes, digest: bytes | None = None) -> Member:
    key = _core.Entry.from_bytes(data).key if digest is None else b""
    return named(entry_name(digest or _core.hash128(key), _core.hash128(data).hex()), data)


RAW = Key.parse("forged").encoded
ANY_PATH = "cogcache-archive/entries/"
FAR = 1 << 62  # microseconds
HOSTILE: dict[str, tuple[Callable[[], Member], str]] = {
    "absolute name": (lambda: named("/tmp/evil", b"x"), "unknown-name"),
    "dots": (lambda: named(f"{ANY_PATH}../../../../evil", b"x"), "unknown-name"),
    "dots behind a name": (lambda: named(members()[1][0].name + "/../x", b"x"), "unknown-name"),
    "long name": (lambda: named("a/" * 4000, b"x"), "unknown-name"),
    "second manifest": (lambda: named(MANIFEST, b"{}"), "unknown-name"),
    "symlink": (lambda: named(f"{ANY_PATH}x", kind=tarfile.SYMTYPE, link="/etc"), "not-a-file"),
    "link": (
        lambda: named(members()[1][0].name, kind=tarfile.LNKTYPE, link="/etc/passwd"),
        "not-a-file",
    ),
    "device": (lambda: named("dev", kind=tarfile.BLKTYPE), "not-a-file"),
    "fifo": (lambda: named("fifo", kind=tarfile.FIFOTYPE), "not-a-file"),
    "duplicate": (lambda: members()[1], "duplicate"),
    "wrong digest": (
        lambda: named(entry_name(_core.hash128(RAW), "0" * 32), container(RAW)),
        "wrong-digest",
    ),
    "cut short": (lambda: entry_of(container(RAW)[:-1], _core.hash128(RAW)), "damaged"),
    "no bytes": (lambda: entry_of(b"", _core.hash128(RAW)), "damaged"),
    "zeros": (lambda: entry_of(bytes(20 * MIB), _core.hash128(RAW)), "damaged"),
    "another key": (lambda: entry_of(container(RAW), b"k" * 16), "wrong-key"),
    "no key at all": (lambda: entry_of(container(b"\xc1junk")), "wrong-key"),
    "another source": (
        lambda: entry_of(
            container(
                Key(None, b"s" * 16, "transcript").encoded, m9=["stat", "file:///a.mp4", 1, 2]
            )
        ),
        "wrong-source",
    ),
    "tag of the future": (lambda: entry_of(container(RAW, m3=[["t", FAR]])), "future-tag"),
    "sums do not fit": (
        lambda: entry_of(container(RAW).replace(b"forged", b"FORGED"), _core.hash128(RAW)),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_one_bad_member_is_refused_and_the_others_come(name: str, tmp_path: Path) -> None:
    made, reason = HOSTILE[name]
    manager = CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path / "here")]))
    first, *others = members()
    data = packed([first, *others[:2], made(), *others[2:]])
    report = await manager.import_archive(io.BytesIO(data))
    assert (report.entries, dict(report.refused)) == (3, {reason: 1})
    assert report.complete and len(report.refusals) == 1
    assert await manager.get_many(list(VALUES)) == VALUES
    assert len(await manager.list_keys()) == 3
    await manager.aclose()
    assert [one.name for one in tmp_path.iterdir()] == ["here"]
    assert [one.name for one in (tmp_path / "here").iterdir()] == ["v1"]
    objects = tmp_path / "here" / "v1" / "objects"
    assert len([one for one in objects.rglob("*") if one.is_file()]) == 3


async def test_sparse_files_are_not_expanded() -> None:
    info, data = entry_of(container(RAW))
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(1 << 50)}
    first, *others = members()
    report = await over_memory().import_archive(io.BytesIO(packed([first, (info, data), *others])))
    assert (report.entries, dict(report.refused)) == (3, {"not-a-file": 1})


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_packed_anew_by_another_tar_it_is_still_an_archive(form: int) -> None:
    first, *others = members()
    folder = named("./cogcache-archive", kind=tarfile.DIRTYPE)
    for info, _ in [first, *others]:
        info.name = f"./{info.name}"
    report = await over_memory().import_archive(io.BytesIO(packed([first, folder, *others], form)))
    assert (report.entries, dict(report.refused), report.complete) == (3, {}, True)


@pytest.mark.parametrize("size", [0o77777777777, 1 << 40, 1 << 61])
async def test_a_size_that_is_not_there_costs_nothing(size: int) -> None:
    """Of an entry: what is missing shows, and what came before is kept."""
    head = tar.header(entry_name(b"k" * 16, "0" * 32), size, 0)
    first, *others = members()
    whole = packed([first, *others])
    data = whole[: whole.rindex(b"ustar") - 257] + head + bytes(64 * 1024)
    tracemalloc.start()
    try:
        manager = over_memory()
        report = await manager.import_archive(io.BytesIO(data), max_entry_bytes=1 << 62)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (report.entries, report.complete) == (2, False)
    assert report.problem is not None and "ends in the middle" in report.problem
    assert peak < 8 * MIB


async def test_limits_hold() -> None:
    data = archive()
    assert (await over_memory().import_archive(io.BytesIO(data), max_entries=2)).refused == {
        "too-many": 1
    }
    report = await over_memory().import_archive(io.BytesIO(data), max_entry_bytes=1000)
    assert (report.entries, dict(report.refused)) == (2, {"too-large": 1})


@pytest.mark.parametrize("cut", [512, 1024, 3000])
async def test_a_cut_archive_says_so(cut: int) -> None:
    report = await over_memory().import_archive(io.BytesIO(archive()[:-cut]))
    assert not report.complete and report.problem is not None
    assert "incomplete: " in str(report)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it ends"),
        (b"no tar at all" * 100, "header of a member"),
        (gzip.compress(b"anything" * 500, mtime=0), "compressed \\(gzip\\)"),
        (packed([named("readme", b"x")]), "its first member is not"),
        (packed([named(MANIFEST, b"{" * 4000)]), "its manifest is none"),
        (packed([named(MANIFEST, b"[" * 4000 + b"\n")]), "its manifest is none"),
        (
            packed([named(MANIFEST, b'{"format":"cogcache archive","version":2}\n')]),
            "version 2; .* install a later one",
        ),
    ],
    ids=["empty", "text", "gzip", "no manifest", "open", "nested", "later version"],
)
async def test_what_is_no_archive_is_told(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        await over_memory().import_archive(io.BytesIO(data))


async def test_extended_headers_are_bounded() -> None:
    first, *others = members()
    info, data = others[0]
    info.pax_headers = {"comment": "x" * 100_000}
    report = await over_memory().import_archive(io.BytesIO(packed([first, (info, data)])))
    assert report.entries == 0 and report.problem is not None
    assert "an extended header of 100," in report.problem


def test_a_very_large_file_is_written_as_tar_wants_it(tmp_path: Path) -> None:
    size = (8 << 30) + 1
    head = tar.header("cogcache-archive/large", size, 7)
    with open(tmp_path / "large.tar", "wb") as file:  # but for the headers it is a hole
        file.write(head)
        file.truncate(len(head) + size + len(tar.padding(size)) + len(tar.END))
    listed = subprocess.run(
        ["tar", "tvf", tmp_path / "large.tar"], capture_output=True, text=True, check=True
    )
    assert f" {size} " in listed.stdout and "cogcache-archive/large" in listed.stdout
    member = tar.TarReader(io.BytesIO(head).read).next()
    assert member == tar.Member("cogcache-archive/large", size, "file")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real archive of which some bytes are others, missing, doubled or moved."""
    data = bytearray(archive())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        some = draw(st.integers(1, 700))
        match draw(st.sampled_from(["set", "cut", "double", "zero", "end", "number"])):
            case "set":
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + some]
            case "double":
                data[at:at] = data[at : at + some]
            case "zero":
                data[at : at + some] = bytes(some)
            case "end":
                del data[at:]
            case "number":
                block = at // 512 * 512
                data[block + 124 : block + 136] = draw(st.binary(min_size=12, max_size=12))
                _sum(data, block)
        if not data:
            break
    return bytes(data)


def _sum(data: bytearray, block: int) -> None:
    """Make a header believable again."""
    data[block + 148 : block + 156] = b" " * 8
    data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])


@settings(max_examples=100, deadline=None)
@given(mutated())
def test_no_damage_brings_in_a_wrong_value(data: bytes) -> None:
    manager = over_memory()
    try:
        report = manager.sync.import_archive(io.BytesIO(data))
    except ValueError:
        assert manager.sync.list_keys() == []
        return
    found = manager.sync.get_many([key for key, _ in manager.sync.list_keys()])
    assert found == {key: VALUES[key] for key in found}
    assert len(found) == report.entries


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_damaged_container_gets_in_under_a_fitting_name(draws: st.DataObject) -> None:
    whole = members()[1:]
    number = draws.draw(st.integers(0, len(whole) - 1))
    original = _core.Entry.from_bytes(whole[number][1])
    data = bytearray(whole[number][1])
    for _ in range(draws.draw(st.integers(1, 3))):
        data[draws.draw(st.integers(0, len(data) - 1))] ^= draws.draw(st.integers(1, 255))
    manager = over_memory()
    forged = entry_of(bytes(data), _core.hash128(original.key))
    report = manager.sync.import_archive(io.BytesIO(packed([members()[0], forged])))
    key = str(Key.from_encoded(original.key))
    if report.entries:  # only the life is outside of the sums, and each slot has its own
        assert manager.sync.get(key, "absent") == VALUES[key]
    else:
        assert manager.sync.list_keys() == []
        assert set(report.refused) | set(report.skipped) <= {"damaged", "wrong-key", "expired"}
