"""Verifying a directory that has been meddled with: every name in it is either an entry as it was
written, or named as what it is, or none of the cache's business; and none is ever touched unasked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support_user import NOBODY, place_for_others

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, _core
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.backends.sifting import FileSieve
from cogcache.keys import key_bytes

SIZES = {"short": 300, "middle": 300_000, "long": (8 << 20) + 100_000}
HEAD, TAIL = 32, 112

Meddle = Callable[[Path], object]


def manager_at(path: Path) -> CacheManager:
    files = FilesystemCacheConfig(path, max_size_mb=300, cleanup_on_startup=False)
    return CacheManager(CacheConfig([files], default_ttl=None))


def file_of(manager: CacheManager, key: str) -> Path:
    tier = manager.backends[0]
    assert isinstance(tier, FilesystemCacheBackend)
    digest = _core.hash128(key_bytes(key)).hex()
    return Path(tier.root) / "objects" / digest[:2] / digest[2:]


def flipped(at: int) -> Meddle:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 16
        path.write_bytes(data)

    return flip


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def cut_in_front(path: Path) -> None:
    path.write_bytes(path.read_bytes()[1:])


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


DAMAGES: dict[str, Meddle] = {
    "magic": flipped(3),
    "token in the head": flipped(10),
    "digest in the head": flipped(20),
    "first chunk": flipped(HEAD + 100),
    "index": flipped(-TAIL - 1),
    "life": flipped(-TAIL + 3),
    "footer": flipped(-20),
    "cut": cut,
    "cut in front": cut_in_front,
    "emptied": emptied,
    "lengthened": lengthened,
}


@pytest.mark.parametrize("size", SIZES)
async def test_every_region_of_an_entry_is_looked_at(tmp_path: Path, size: str) -> None:
    async with manager_at(tmp_path) as manager:
        await manager.set("good", b"as it was")
        for what, meddle in DAMAGES.items():
            await manager.set("bad", os.urandom(SIZES[size]))
            assert (await manager.verify()).ok, what
            path = file_of(manager, "bad")
            meddle(path)
            there = path.stat()
            report = await manager.verify()
            [one] = report.damaged
            assert one.place == f"objects/{path.parent.name}/{path.name}", what
            assert one.what and not one.removed, what
            assert path.stat().st_ino == there.st_ino, what
            fixed = await manager.verify(fix=True)
            assert [one.removed for one in fixed.damaged] == [True], what
            assert not path.exists(), what
        assert (await manager.verify()).ok and await manager.get("good") == b"as it was"


def linked_elsewhere(path: Path) -> None:
    os.link(path, path.parent.parent.parent.parent / "a second name")


def symbolic(path: Path) -> None:
    path.rename(path.parent.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent.parent / "elsewhere")


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/nowhere")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("meddle", "entries"),
    [(linked_elsewhere, 2), (symbolic, 1), (dangling, 1), (fifo, 1), (directory, 1)],
)
async def test_what_is_no_entry_is_passed_over_and_left_alone(
    tmp_path: Path, meddle: Meddle, entries: int
) -> None:
    async with manager_at(tmp_path) as manager:
        await manager.set("key", b"value")
        await manager.set("other", b"another")
        path = file_of(manager, "key")
        (path.parent / "notes.txt").write_text("mine")
        meddle(path)
        before = path.lstat()
        report = await manager.verify(fix=True)
        assert report.ok and report.entries == entries
        after = path.lstat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert (path.parent / "notes.txt").read_text() == "mine"


async def test_an_entry_under_the_name_of_another_key_is_named(tmp_path: Path) -> None:
    async with manager_at(tmp_path) as manager:
        for name, size in SIZES.items():
            await manager.set(name, os.urandom(size))
            await manager.set(f"other {name}", b"to be overwritten")
            os.link(file_of(manager, name), tmp_path / "link")
            os.replace(tmp_path / "link", file_of(manager, f"other {name}"))
        report = await manager.verify()
        assert {str(one.key) for one in report.damaged} == set(SIZES)
        assert all("under the name of another key" in one.error for one in report.damaged)
        root = file_of(manager, "short").parents[2]
        wrong = {file_of(manager, f"other {name}") for name in SIZES}
        assert {root / one.place for one in report.damaged} == wrong
        assert (await manager.verify(fix=True)).tiers[0].removed == len(SIZES)
        again = await manager.verify()
        assert again.ok and again.entries == len(SIZES)
        assert all(file_of(manager, name).exists() for name in SIZES)


async def test_what_this_user_may_not_read_is_unreadable_and_never_damaged() -> None:
    with place_for_others() as place:
        was_root = os.geteuid() == 0
        if was_root:
            os.chown(place, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            async with manager_at(place) as manager:
                await manager.set("key", b"value")
                await manager.set("other", b"another")
                path = file_of(manager, "key")
                path.chmod(0)
                report = await manager.verify(fix=True)
                [one] = report.unreadable
                assert not report.ok and report.damaged == () and report.entries == 1
                assert one.place == f"objects/{path.parent.name}/{path.name}"
                assert "not let" in one.error and path.exists()
        finally:
            if was_root:
                os.seteuid(0)


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
async def test_what_goes_or_is_replaced_meanwhile_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool, filtered: bool
) -> None:
    async with manager_at(tmp_path) as manager:
        await manager.set("key", os.urandom(300_000))
        await manager.set("other", b"another")
        flipped(1000)(file_of(manager, "key"))
        honest = FileSieve.sift

        async def change_first(self: FileSieve, batch: bytes) -> Any:
            if replaced:
                await manager.set("key", b"new")
            else:
                await manager.delete("key")
            return await honest(self, batch)

        monkeypatch.setattr(FileSieve, "sift", change_first)
        report = await manager.verify(fix=True, **({"min_bytes": 1} if filtered else {}))
        assert report.ok and report.entries == 1 + replaced
        assert await manager.get("key", "none") == (b"new" if replaced else "none")


class Sized:
    """A store of so many names whose entries are all of one size."""

    def __init__(self, names: int, size: int) -> None:
        self.names = os.urandom(16 * names)
        self.size = size
        self.asked: list[tuple[Any, ...]] = []

    def submit(self, _: Any, future: Any, operation: str, *args: Any, **named: Any) -> None:
        self.asked.append((operation, *args, *named.items()))
        if operation == "names":
            future.set_result((256, self.names))
        else:
            names, most = args
            done = min(len(names) // 16, max(1, most // self.size))
            future.set_result((done, done, done * self.size, []))


@pytest.mark.parametrize(
    ("size", "sizes"),
    [(4096, [16, 512, 472]), (1 << 20, [16, *[8] * 123]), (7 << 20, [16, *[1] * 984])],
)
async def test_batches_are_as_long_as_one_step_can_read(size: int, sizes: list[int]) -> None:
    async def look(digests: list[bytes]) -> list[Any]:
        raise AssertionError("nothing is left to be looked at")

    store: Any = Sized(1000, size)
    sieve = FileSieve(store, look, 7, None)
    lengths, read = [], b""
    async for batch in sieve.batches():
        lengths.append(len(batch) // 16)
        read += batch
        entries = 0
        while batch:
            sifted = await sieve.sift(batch)
            assert 0 < sifted.bytes_read <= max(8 << 20, size)
            entries += sifted.entries
            batch = sifted.rest
        assert entries == lengths[-1]
    assert lengths == sizes and read == store.names
    assert store.asked[0] == ("names", 0, 512, ("source", 7))
    assert {asked[2] for asked in store.asked if asked[0] == "sift"} == {8 << 20}


async def test_a_directory_that_is_not_there_has_nothing_to_be_verified() -> None:
    with place_for_others() as place:
        was_root = os.geteuid() == 0
        place.chmod(0o555)
        if was_root:
            os.seteuid(NOBODY)
        try:
            files = FilesystemCacheConfig(place / "cache", max_size_mb=300, read_only="auto")
            async with CacheManager(CacheConfig([files])) as manager:
                report = await manager.verify(fix=True)
                assert report.ok and report.entries == 0
        finally:
            if was_root:
                os.seteuid(0)
