"""Verifying what is stored: damage is found where it is, and nothing is changed without being
asked."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from support_cache import BrokenTier, DictTier, manager_over

from cogcache import (
    CacheConfig,
    CacheManager,
    ClosedError,
    FilesystemCacheConfig,
    Key,
    MemoryCacheConfig,
    PipelineArtifactCache,
    VerifyReport,
)
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.keys import key_bytes
from cogcache.verifying import SLICE_BYTES, _slices
from cogcache.verifyreport import Damage, VerifyProgress

FRAMES = {number: os.urandom(20_000) for number in range(12)}


def manager_at(path: Path, **options: Any) -> CacheManager:
    files = FilesystemCacheConfig(path, max_size_mb=300, cleanup_on_startup=False, **options)
    return CacheManager(CacheConfig([files], default_ttl=None))


async def fill(manager: CacheManager) -> None:
    """Short and long ones, plain and compressed ones, in one part and in many."""
    await manager.set("small", {"text": "short"})
    await manager.set("document", [f"line {number}" for number in range(40_000)])
    await manager.set("blob", os.urandom(6 << 20))
    await manager.set("frames", {"frames": FRAMES})


def file_of(manager: CacheManager, key: str | Key) -> Path:
    tier = manager.backends[0]
    assert isinstance(tier, FilesystemCacheBackend)
    from cogcache import _core

    digest = _core.hash128(key_bytes(key)).hex()
    return Path(tier.root) / "objects" / digest[:2] / digest[2:]


def flip(path: Path, at: int) -> None:
    """Change one byte behind the back of the cache; ``at`` from the end if negative."""
    with path.open("r+b") as file:
        file.seek(at, 0 if at >= 0 else 2)
        place = file.tell()
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 16]))


def everything(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """All files with their times and bytes."""
    return {
        str(one.relative_to(path)): (one.stat().st_mtime_ns, one.stat().st_ino, one.read_bytes())
        for one in sorted(path.rglob("*"))
        if one.is_file()
    }


async def part_of(manager: CacheManager, key: str, name: str, chunk: int) -> tuple[int, int]:
    """A part's number, and where in the file its chunk begins."""
    found = await manager.backends[0].fetch(key_bytes(key), index_only=True)
    assert not isinstance(found, str)
    container = found.tobytes()
    [part] = [one for one in found.parts() if one.name == name or one.kind == name]
    chunk_bytes = found.read(part.number, chunk * part.chunk_size, chunk * part.chunk_size + 64)
    assert part.codec == 0 and container.count(chunk_bytes) == 1
    return part.number, container.index(chunk_bytes)


async def test_a_healthy_cache_is_read_to_the_last_byte_and_nothing_is_changed(
    tmp_path: Path,
) -> None:
    async with manager_at(tmp_path) as manager:
        await fill(manager)
        await manager.get("blob")
        before = everything(tmp_path)
        report = await manager.verify()
        assert everything(tmp_path) == before
        stored = [file_of(manager, key) for key in ("small", "document", "blob", "frames")]
        assert report.ok and bool(report)
        assert (report.entries, report.damaged, report.unreadable) == (4, (), ())
        assert report.bytes_read == sum(path.stat().st_size for path in stored)
        [tier] = report.tiers
        assert (tier.tier, tier.entries, tier.damaged, tier.error) == (
            "FilesystemCacheBackend",
            4,
            0,
            "",
        )
        stats = (await manager.get_stats())["backends"]["FilesystemCacheBackend"]
        assert (stats["hits"], stats["misses"], stats["damaged"]) == (1, 0, 0)


async def test_damage_is_named_by_key_file_part_and_chunk(tmp_path: Path) -> None:
    async with manager_at(tmp_path) as manager:
        await fill(manager)
        assert await manager.get("blob") is not None  # verified, once for this process
        frame, in_frame = await part_of(manager, "frames", "7", 0)
        blob, in_blob = await part_of(manager, "blob", "blob", 1)
        flip(file_of(manager, "frames"), in_frame + 100)
        flip(file_of(manager, "blob"), in_blob + 100)
        flip(file_of(manager, "small"), -20)
        before = everything(tmp_path)
        report = await manager.verify()
        assert everything(tmp_path) == before
        assert not report.ok and report.tiers[0].damaged == 3 and report.entries == 4
        found = {None if one.key is None else str(one.key): one for one in report.damaged}
        assert set(found) == {"frames", "blob", None}
        assert found["frames"].damage == (Damage(frame, "blob", "7", 0),)
        assert found["blob"].damage == (Damage(blob, "blob", "0", 1),)
        root = file_of(manager, "x").parents[2]
        assert root / found["blob"].place == file_of(manager, "blob")
        assert root / found[None].place == file_of(manager, "small")
        assert found[None].error and not any(one.removed for one in report.damaged)
        text = str(found["frames"])
        assert "frames" in text and f"part {frame} (blob 7), chunk 0" in text


async def test_a_damaged_value_is_not_handed_out_any_more_once_it_was_found(tmp_path: Path) -> None:
    async with manager_at(tmp_path) as manager:
        await manager.set("blob", os.urandom(4 << 20))
        assert await manager.get("blob") is not None
        flip(file_of(manager, "blob"), 100_000)
        assert not (await manager.verify()).ok
        assert file_of(manager, "blob").exists()
        found = await manager.lookup("blob")
        assert not found.hit and found.reason == "damaged"


async def test_fix_takes_away_what_is_damaged_and_nothing_else(tmp_path: Path) -> None:
    async with manager_at(tmp_path) as manager:
        await fill(manager)
        flip(file_of(manager, "frames"), 5000)
        flip(file_of(manager, "document"), 5000)
        flip(file_of(manager, "small"), -20)
        report = await manager.verify(fix=True)
        assert not report.ok and report.fix
        assert report.tiers[0].removed == report.tiers[0].damaged == 3
        assert all(one.removed for one in report.damaged)
        assert sorted(key for key, _ in await manager.list_keys()) == ["blob"]
        quarantined = list((file_of(manager, "x").parents[2] / "quarantine").iterdir())
        assert len(quarantined) == 3
        again = await manager.verify()
        assert again.ok and again.entries == 1
        stats = (await manager.get_stats())["backends"]["FilesystemCacheBackend"]
        assert stats["quarantined"] == 3


async def test_every_flipped_byte_of_a_file_is_found(tmp_path: Path) -> None:
    async with manager_at(tmp_path) as manager:
        value = {"text": "some words", "more": b"x" * 300}
        await manager.set("key:000", value)
        size = file_of(manager, "key:000").stat().st_size
        await manager.set_many({f"key:{at:03}": value for at in range(size)})
        for at in range(size):
            assert file_of(manager, f"key:{at:03}").stat().st_size == size
            flip(file_of(manager, f"key:{at:03}"), at)
        report = await manager.verify()
        root = file_of(manager, "x").parents[2]
        found = {root / one.place for one in report.damaged}
        missed = {at for at in range(size) if file_of(manager, f"key:{at:03}") not in found}
        assert missed == set(range(size - 80, size - 48))  # the spare copy of its life
        assert size - len(missed) == report.tiers[0].damaged


async def test_an_entry_whose_life_nobody_can_tell_is_named_by_its_key(tmp_path: Path) -> None:
    async with manager_at(tmp_path) as manager:
        await fill(manager)
        sizes = {"small": 300, "document": 300_000, "long": SLICE_BYTES + 1}
        for key, size in sizes.items():
            await manager.set(key, os.urandom(size), ttl=3600)
            assert await manager.touch(key, ttl=7200)
            flip(file_of(manager, key), -110)
        assert (await manager.verify()).ok  # one copy is enough
        for key in sizes:
            flip(file_of(manager, key), -78)
            assert await manager.get(key) is None
        before = everything(tmp_path)
        report = await manager.verify()
        assert everything(tmp_path) == before
        assert {str(one.key) for one in report.damaged} == set(sizes)
        assert all(one.damage == () and not one.removed for one in report.damaged)
        assert "how long it lives" in str(report.damaged[0]) and "fix" in report.damaged[0].what
        assert (report.entries, report.tiers[0].damaged) == (5, 3)
        assert (await manager.verify(pattern="small")).tiers[0].damaged == 1
        assert (await manager.verify(pattern="blob")).ok
        fixed = await manager.verify(fix=True)
        assert fixed.tiers[0].removed == 3 and all(one.removed for one in fixed.damaged)
        assert not file_of(manager, "small").exists()
        assert (await manager.verify()).ok and await manager.get("blob") is not None


async def test_what_cannot_be_fixed_is_said_to_be_still_there(tmp_path: Path) -> None:
    async with manager_at(tmp_path) as manager:
        await fill(manager)
        flip(file_of(manager, "frames"), 5000)
        flip(file_of(manager, "small"), -20)
    async with manager_at(tmp_path, read_only=True) as reader:
        before = everything(tmp_path / "v1" / "objects")
        report = await reader.verify(fix=True)
        assert everything(tmp_path / "v1" / "objects") == before
        assert [one.removed for one in report.damaged] == [False, False]
        assert report.tiers[0].removed == 0 and not report.ok


@pytest.mark.parametrize("is_whole", [True, False])
async def test_an_entry_that_is_replaced_meanwhile_is_neither_damaged_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_whole: bool
) -> None:
    async with manager_at(tmp_path) as manager:
        await manager.set("key", os.urandom(300_000))
        flip(file_of(manager, "key"), 5000 if is_whole else -20)
        tier = manager.backends[0]
        again = tier.place_again

        async def replace_first(place: Any) -> Any:
            await manager.set("key", b"new" * 100_000)
            return await again(place)

        monkeypatch.setattr(tier, "place_again", replace_first)
        report = await manager.verify(fix=True)
        assert report.ok and report.damaged == ()
        assert await manager.get("key") == b"new" * 100_000


async def test_filters_choose_what_is_read(tmp_path: Path) -> None:
    async with manager_at(tmp_path / "cache") as manager:
        cache = PipelineArtifactCache(manager)
        for name in ("one", "two"):
            (tmp_path / f"{name}.mp4").write_bytes(name.encode() * 1000)
            await cache.set_transcript(tmp_path / f"{name}.mp4", {"text": name}, tags=[name])
        await manager.set("raw", os.urandom(9000))
        assert (await manager.verify(artifact="transcript")).entries == 2
        assert (await manager.verify(source=tmp_path / "one.mp4")).entries == 1
        assert (await manager.verify(tags=["two"])).entries == 1
        assert (await manager.verify(pattern="raw")).entries == 1
        assert (await manager.verify(min_bytes=9000)).entries == 1
        assert (await manager.verify(older_than="1d")).entries == 0
        flip(file_of(manager, "raw"), 3000)
        assert (await manager.verify(artifact="transcript")).ok
        with pytest.raises(TypeError, match="unknown filter 'artefact'; did you mean 'artifact'"):
            await manager.verify(artefact="transcript")  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="pattern"):
            await manager.verify(pattern="")


async def test_sync_reads_in_the_calling_thread(tmp_path: Path) -> None:
    async with manager_at(tmp_path) as manager:
        await fill(manager)
        flip(file_of(manager, "blob"), 5000)
    manager = manager_at(tmp_path)
    report: VerifyReport = await asyncio.to_thread(manager.sync.verify)
    assert [str(one.key) for one in report.damaged] == ["blob"]
    await manager.aclose()
    with pytest.raises(ClosedError):
        await manager.verify()


async def test_progress_is_told_step_by_step_and_may_end_it(tmp_path: Path) -> None:
    async with manager_at(tmp_path) as manager:
        await fill(manager)
        await manager.set("more", os.urandom(3 * SLICE_BYTES))
        flip(file_of(manager, "blob"), 5000)
        told: list[VerifyProgress] = []
        report = await manager.verify(progress=told.append)
        assert len(told) >= 3
        assert [one.bytes_read for one in told] == sorted(one.bytes_read for one in told)
        last = told[-1]
        assert (last.entries, last.bytes_read) == (report.entries, report.bytes_read)
        assert (last.tier, last.damaged) == ("FilesystemCacheBackend", 1)

        def stop(progress: VerifyProgress) -> None:
            raise KeyError("enough")

        with pytest.raises(KeyError, match="enough"):
            await manager.verify(progress=stop)
        assert manager.backends[0].counters["errors"] == 0


async def test_cancelling_ends_it_and_leaves_nothing_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with manager_at(tmp_path) as manager:
        await fill(manager)
        await manager.set("long", os.urandom(SLICE_BYTES + 1))
        begun = asyncio.Event()
        with monkeypatch.context() as patch:

            async def never(*_: Any) -> Any:
                begun.set()
                await asyncio.Event().wait()

            patch.setattr(manager.backends[0], "damage_in", never)
            work = asyncio.ensure_future(manager.verify())
            await begun.wait()
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
        assert len(asyncio.all_tasks()) == 1
        assert (await manager.verify()).ok


async def test_every_tier_is_read_and_one_that_fails_is_told() -> None:
    good, bad = DictTier(), BrokenTier()
    good.name, bad.name = "good", "bad"
    manager = manager_over(good, bad)
    await good.set("a", os.urandom(500))
    await good.set("b", os.urandom(200_000))
    report = await manager.verify()
    assert not report.ok
    assert [(tier.tier, tier.entries) for tier in report.tiers] == [("good", 2), ("bad", 0)]
    assert report.tiers[1].error == "ConnectionError: no route"


async def test_damage_in_a_tier_of_somebody_else_is_found_and_removed() -> None:
    tier = DictTier()
    manager = manager_over(tier)
    for size in (500, 200_000):
        await tier.set(f"key:{size}", os.urandom(size))
        encoded = key_bytes(f"key:{size}")
        image = bytearray(tier.images[encoded])
        image[200] ^= 1
        tier.images[encoded] = bytes(image)
    report = await manager.verify()
    assert {str(one.key) for one in report.damaged} == {"key:500", "key:200000"}
    assert len(tier.images) == 2
    assert (await manager.verify(fix=True)).tiers[0].removed == 2
    assert tier.images == {}


async def test_a_life_that_nobody_can_tell_is_named_in_any_tier() -> None:
    tier = DictTier()
    manager = manager_over(tier)
    for size in (500, 200_000):
        await tier.set(f"key:{size}", os.urandom(size))
        encoded = key_bytes(f"key:{size}")
        image = bytearray(tier.images[encoded])
        image[-110] ^= 1
        tier.images[encoded] = bytes(image)
    report = await manager.verify(fix=True)
    assert {str(one.key) for one in report.damaged} == {"key:500", "key:200000"}
    assert all("how long it lives" in one.error and one.removed for one in report.damaged)
    assert tier.images == {}


async def test_memory_is_verified_too() -> None:
    async with CacheManager(CacheConfig([MemoryCacheConfig()])) as manager:
        for number in range(40):
            await manager.set(f"key:{number}", os.urandom(60_000))
        report = await manager.verify()
        assert report.ok and report.entries == 40


def test_slices_are_consecutive_and_bounded() -> None:
    from cogcache import _core

    def parts(*sizes: tuple[int, int]) -> list[_core.PartInfo]:
        return [
            _core.PartInfo(number, "blob", "", size, size, 0, 0, 1 << 20, chunks)
            for number, (size, chunks) in enumerate(sizes)
        ]

    for some in (
        parts(),
        parts((0, 0)),
        parts((100, 1)),
        parts((50_000, 1), *[(50_000, 1)] * 999),
        parts((200 << 20, 40), (7, 1)),
        parts((5 << 20, 1), (100 << 20, 2), (1, 1), (0, 0)),
    ):
        slices = list(_slices(some))
        total = sum(part.chunk_count for part in some)
        assert slices[0][0] == 0 and slices[-1][1] == total
        assert all(before[1] == after[0] for before, after in itertools.pairwise(slices))
        assert all(first < stop for first, stop, _ in slices) or total == 0
        largest = max((part.stored_size // max(1, part.chunk_count) for part in some), default=0)
        assert all(size < SLICE_BYTES + largest or size == 0 for _, _, size in slices)
