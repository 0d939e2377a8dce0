"""Pinned entries of the filesystem tier stay, whoever needs room (W08)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    Key,
    MemoryCacheConfig,
    PinLimitError,
)
from cogcache.backends import pins as pins_module

LIMIT_MB = 17
VALUE = b"x" * 500_000
TIER = "FilesystemCacheBackend"
FILLER = """
import sys
from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig
config = FilesystemCacheConfig(sys.argv[1], max_size_mb=17, enable_compression=False)
manager = CacheManager(CacheConfig([config]))
kept = sum(manager.sync.set(f"{sys.argv[2]}:{n}", bytes([n]) * 500_000) for n in range(40))
print(kept)
manager.sync.aclose()
"""


def cache_at(path: Path, **options: object) -> CacheManager:
    named = {"max_size_mb": LIMIT_MB, "enable_compression": False, **options}
    return CacheManager(CacheConfig([FilesystemCacheConfig(path, **named)]))  # type: ignore[arg-type]


def fill_from_processes(path: Path, *names: str) -> None:
    """Put more than fits, twice over, from one process for each name at the same time."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FILLER, str(path), name], stdout=subprocess.PIPE, text=True
        )
        for name in names
    ]
    for one in started:
        out, _ = one.communicate(timeout=120)
        assert (one.returncode, int(out) > 20) == (0, True), out


async def test_pinned_entries_survive_other_processes_and_restarts(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as manager:
        for number in range(10):
            assert await manager.set(f"old:{number}", VALUE)
        for number in range(5):
            assert await manager.pin(f"old:{number}") is True
        assert await manager.pin("old:0") is True
        stats = (await manager.get_stats())["backends"][TIER]
        assert stats["pinned"] == 5 and 5 * len(VALUE) <= stats["pinned_bytes"] < 2_600_000
    fill_from_processes(tmp_path, "a", "b")
    async with cache_at(tmp_path) as manager:  # a new process would see the same
        there = [n for n in range(10) if await manager.get(f"old:{n}") == VALUE]
        assert there == [0, 1, 2, 3, 4]
        assert [str(key) for key in await manager.pinned()] == [f"old:{n}" for n in range(5)]
        assert await manager.unpin("old:0") is True
        assert await manager.unpin("old:0") is False
    fill_from_processes(tmp_path, "c", "d")
    async with cache_at(tmp_path) as manager:
        there = [n for n in range(10) if await manager.exists(f"old:{n}")]
        assert there == [1, 2, 3, 4]


async def test_a_lost_index_forgets_no_pin(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as manager:
        await manager.set("pinned", VALUE)
        await manager.pin("pinned")
    (tmp_path / "v1" / "index").unlink()
    fill_from_processes(tmp_path, "a")
    async with cache_at(tmp_path) as manager:
        assert await manager.get("pinned") == VALUE


async def test_deletes_lives_and_tags_count_more(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as manager:
        await manager.set("deleted", VALUE)
        await manager.set("mortal", VALUE, ttl=60)
        await manager.store("tagged", VALUE, tags=["model"], ttl=0)
        await manager.set("replaced", VALUE, ttl=0)
        for key in ("deleted", "mortal", "tagged", "replaced"):
            assert await manager.pin(key)
        assert await manager.delete("deleted")
        assert await manager.set("replaced", b"new", ttl=0)
        manager.backends[0].set_clock_offset(100_000)
        await manager.invalidate_tags("model")
        for key in ("deleted", "mortal", "tagged"):
            assert not await manager.exists(key)
            assert await manager.pin(key) is False
        assert await manager.get("replaced") == b"new"
        assert [str(key) for key in await manager.pinned()] == ["replaced"]
        assert await manager.cleanup_expired() == 2
        assert (await manager.get_stats())["backends"][TIER]["pinned"] == 1


async def test_more_than_may_be_is_an_error_that_says_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cache_at(tmp_path) as manager:
        pinned = 0
        with pytest.raises(PinLimitError, match=r"would take .* and may take 8,500,000 \(1/2 of"):
            for number in range(40):
                await manager.set(f"key:{number}", VALUE)
                pinned += await manager.pin(f"key:{number}")
        assert 14 <= pinned <= 17
        assert len(await manager.pinned()) == pinned
        assert await manager.set("another", VALUE)  # the other half is for everything else
        monkeypatch.setattr(pins_module, "MOST_PINS", pinned)
        await manager.set("small", 1)
        with pytest.raises(PinLimitError, match="the most that may be; unpin some"):
            await manager.pin("small")
        await manager.delete("key:0")  # a pin without an entry makes room for another one
        assert await manager.pin("small") is True


async def test_what_cannot_be_pinned_is_false(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as manager:
        assert await manager.pin("absent") is False
        assert await manager.unpin("absent") is False
        assert await manager.pinned() == []
        assert not (await manager.get_stats())["backends"][TIER]["pinned"]
    async with CacheManager(CacheConfig([MemoryCacheConfig()])) as manager:
        await manager.set("key", 1)
        assert await manager.pin("key") is False
    async with cache_at(tmp_path) as manager:
        await manager.set("key", 1)
        pins = tmp_path / "v1" / "pins"
        pins.symlink_to(tmp_path)
        assert await manager.pin("key") is False
        assert list(tmp_path.iterdir()) == [tmp_path / "v1"]


def test_pins_work_without_a_loop(tmp_path: Path) -> None:
    manager = cache_at(tmp_path, shared="group")
    key = Key(None, b"s" * 16, "transcript", {"model": "base"})
    manager.sync.set(key, "text")
    assert manager.sync.pin(key) and manager.sync.pinned() == [key]
    folder = tmp_path / "v1" / "pins"
    assert folder.stat().st_mode & 0o7777 == 0o2770
    assert manager.sync.unpin(str(key)) and manager.sync.pinned() == []
    manager.sync.aclose()
