"""Archives: written to a plain tar and read back, whatever happens to them on the way."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from support_cache import DictTier, manager_over

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    PipelineArtifactCache,
    _core,
)
from cogcache.archives.layout import ENTRY, MANIFEST
from cogcache.archives.scratch import IN_MEMORY
from cogcache.keys import key_bytes

MIB = 1 << 20
VALUES: dict[str, Any] = {
    "none": None,
    "text": "grüße",
    "nested": {"frames": [1, (2, 3)], "blob": b"\x00\xff" * 50_000},
    "a:b/../c*": [0.5, 2**70],
}


def files_under(path: Path) -> list[str]:
    return sorted(str(one.relative_to(path)) for one in path.rglob("*"))


def over_memory(size: int = 64) -> CacheManager:
    return CacheManager(CacheConfig([MemoryCacheConfig(max_size_mb=size)]))


def over_files(path: Path) -> CacheManager:
    return CacheManager(CacheConfig([FilesystemCacheConfig(path)]))


async def filled(manager: CacheManager) -> CacheManager:
    for key, value in VALUES.items():
        await manager.store(key, value, ttl="7d", tags=["nightly"], metadata={"by": key})
    await manager.set("for ever", 1, ttl=0)
    return manager


async def archived(manager: CacheManager) -> bytes:
    target = io.BytesIO()
    report = await manager.export_archive(target)
    assert report.complete and not report.refused and not report.skipped
    return target.getvalue()


async def test_a_plan_is_what_select_answers(tmp_path: Path) -> None:
    manager = over_memory()
    with pytest.raises(TypeError, match="plan must be what select"):
        await manager.export_archive(tmp_path / "some.tar", "all")  # type: ignore[arg-type]
    assert not (tmp_path / "some.tar").exists()
    await manager.aclose()


async def test_entries_come_back_with_lives_tags_and_versions(tmp_path: Path) -> None:
    there, here = await filled(over_memory()), over_files(tmp_path / "here")
    report = await there.export_archive(tmp_path / "some.tar")
    assert (report.entries, report.complete) == (5, True)
    assert files_under(tmp_path / "here" / "v1" / "objects") == []
    taken = await here.import_archive(tmp_path / "some.tar")
    assert (taken.entries, taken.stored_bytes) == (5, report.stored_bytes)
    assert taken.complete and not taken.skipped and not taken.refused
    assert await here.get_many(list(VALUES)) == VALUES
    for key in [*VALUES, "for ever"]:
        mine = await here.backends[0].fetch(key_bytes(key))
        theirs = await there.backends[0].fetch(key_bytes(key))
        assert isinstance(mine, _core.Entry) and isinstance(theirs, _core.Entry)
        assert (mine.token, mine.expires_ms) == (theirs.token, theirs.expires_ms)
        assert mine.meta == theirs.meta
    here.backends[0].set_clock_offset(1000)
    await here.invalidate_tags("nightly")
    assert await here.get_many(list(VALUES)) == {}
    assert await here.get("for ever") == 1
    await here.aclose()


async def test_every_tar_reads_it_and_the_same_entries_make_the_same_bytes(tmp_path: Path) -> None:
    manager = await filled(over_memory())
    await manager.export_archive(tmp_path / "some.tar")
    await manager.export_archive(tmp_path / "again.tar")
    assert (tmp_path / "some.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    listed = subprocess.run(
        ["tar", "tf", tmp_path / "some.tar"], capture_output=True, text=True, check=True
    )
    assert listed.stderr == ""
    names = listed.stdout.splitlines()
    with tarfile.open(tmp_path / "some.tar", "r:") as tar:
        assert tar.getnames() == names
        manifest = tar.extractfile(MANIFEST)
        assert manifest is not None
        first, *lines = map(json.loads, manifest)
    assert names[0] == MANIFEST and len(names) == 6 and all(map(ENTRY.fullmatch, names[1:]))
    assert first == {"format": "cogcache archive", "version": 1, "entries": 5}
    assert {one["key"] for one in lines} == {*VALUES, "for ever"}
    assert [one["digest"] for one in lines] == [ENTRY.fullmatch(n)[1] for n in names[1:]]  # type: ignore[index]


async def test_a_plan_says_what_is_written(tmp_path: Path) -> None:
    manager = await filled(over_memory())
    plan = await manager.select(pattern="text")
    assert (await manager.export_archive(tmp_path / "some.tar", plan)).entries == 1
    other = over_memory()
    await other.import_archive(tmp_path / "some.tar")
    assert [key for key, _ in await other.list_keys()] == ["text"]
    await manager.delete("text")
    report = await manager.export_archive(tmp_path / "some.tar", plan)
    assert (report.entries, report.skipped) == (0, {"absent": 1})


async def test_what_the_cache_has_is_kept_unless_told_otherwise() -> None:
    data = await archived(await filled(over_memory()))
    here = over_memory()
    await here.set("text", "mine")
    report = await here.import_archive(io.BytesIO(data))
    assert (report.entries, report.skipped) == (4, {"present": 1})
    assert await here.get("text") == "mine"
    assert (await here.import_archive(io.BytesIO(data), on_conflict="replace")).entries == 5
    assert await here.get("text") == VALUES["text"]


async def test_what_is_dead_by_now_stays_out() -> None:
    data = await archived(await filled(over_memory()))
    late = over_memory()
    late.backends[0].set_clock_offset(8 * 86_400_000)
    assert (await late.import_archive(io.BytesIO(data))).skipped == {"expired": 4}
    told = over_memory()
    told.backends[0].set_clock_offset(1000)
    await told.invalidate_tags("nightly")
    report = await told.import_archive(io.BytesIO(data))
    assert (report.entries, report.skipped) == (1, {"tag-invalidated": 4})


def test_it_works_without_a_loop_and_through_a_pipe(tmp_path: Path) -> None:
    there, here = over_files(tmp_path / "there"), over_files(tmp_path / "here")
    there.sync.set("key", b"x" * 100_000)
    program = (
        "import sys; from cogcache import CacheManager, CacheConfig, FilesystemCacheConfig\n"
        f"manager = CacheManager(CacheConfig([FilesystemCacheConfig({str(tmp_path / 'there')!r})]))"
        "\nmanager.sync.export_archive(sys.stdout.buffer)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as writer:
        assert here.sync.import_archive(writer.stdout).entries == 1
    assert here.sync.get("key") == b"x" * 100_000
    here.sync.aclose()


async def test_large_entries_pass_in_little_memory(tmp_path: Path) -> None:
    large = os.urandom(1 * MIB) * 48
    there = over_files(tmp_path / "there")
    files, other = over_files(tmp_path / "here").backends[0], DictTier()
    here = manager_over(files)
    await there.put_stream("large", io.BytesIO(large), ttl=0)
    del large
    tracemalloc.start()
    try:
        await there.export_archive(tmp_path / "some.tar")
        report = await here.import_archive(tmp_path / "some.tar")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.entries == 1 and report.stored_bytes > 2 * IN_MEMORY
    assert peak < 2 * IN_MEMORY, peak
    assert await here.get("large") == await there.get("large")
    # A tier that takes only whole entries of a limited size says so; the other one has it.
    both = manager_over(other, over_files(tmp_path / "third").backends[0])
    assert (await both.import_archive(tmp_path / "some.tar")).entries == 1
    assert other.images == {} and (await both.lookup("large")).hit
    await here.aclose()
    await both.aclose()


async def test_a_broken_disk_leaves_the_older_archive(tmp_path: Path) -> None:
    manager = over_memory()
    for number in range(8):
        await manager.set(f"key:{number}", os.urandom(MIB))
    (tmp_path / "some.tar").write_bytes(b"older")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            await manager.export_archive(tmp_path / "some.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files_under(tmp_path) == ["some.tar"]
    assert (tmp_path / "some.tar").read_bytes() == b"older"


async def test_a_damaged_entry_is_not_written(tmp_path: Path) -> None:
    tier = DictTier()
    manager = manager_over(tier)
    await manager.set("good", "value")
    await manager.set("bad", b"x" * 10_000)
    image = bytearray(tier.images[key_bytes("bad")])
    image[5000] ^= 1
    plan = await manager.select()
    tier.images[key_bytes("bad")] = bytes(image)
    report = await manager.export_archive(tmp_path / "some.tar", plan)
    assert (report.entries, report.refused) == (1, {"damaged": 1})
    assert [str(one) for one in report.refusals] == ["'bad': damaged"]
    assert (await over_memory().import_archive(tmp_path / "some.tar")).entries == 1


async def test_mistakes_are_told(tmp_path: Path) -> None:
    manager = over_memory()
    await manager.set("key", 1)
    with pytest.raises(ValueError, match="something else than a file"):
        await manager.export_archive(tmp_path)
    with pytest.raises(FileNotFoundError):
        await manager.export_archive(tmp_path / "no" / "some.tar")
    with pytest.raises(TypeError, match="binary file"):
        await manager.export_archive(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'wb'"):
        await manager.export_archive(io.StringIO())  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        await manager.import_archive(tmp_path / "none.tar")
    with pytest.raises(TypeError, match="binary file"):
        await manager.import_archive(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'keep' or 'replace', not 'both'"):
        await manager.import_archive(io.BytesIO(), on_conflict="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_entries must be a finite number of at least 1"):
        await manager.import_archive(io.BytesIO(), max_entries=0)
    assert files_under(tmp_path) == []


async def test_artifacts_stay_found_and_forgotten_by_their_video(tmp_path: Path) -> None:
    (tmp_path / "talk.mp4").write_bytes(b"video")
    there = PipelineArtifactCache(over_files(tmp_path / "there"))
    await there.set_transcript(tmp_path / "talk.mp4", {"text": "hello"})
    await there.cache.export_archive(tmp_path / "some.tar")
    here = PipelineArtifactCache(over_files(tmp_path / "here"))
    await here.cache.import_archive(tmp_path / "some.tar")
    assert await here.get_transcript(tmp_path / "talk.mp4") == {"text": "hello"}
    assert (await here.cache.select(source=tmp_path / "talk.mp4")).count == 1
    assert await here.invalidate_video(tmp_path / "talk.mp4") == 1
    assert await here.get_transcript(tmp_path / "talk.mp4") is None
    await here.aclose()
    await there.aclose()
