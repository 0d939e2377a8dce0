"""Arrays of the cache into arrays of the caller."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import DictTier, manager_over

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, MemoryCacheConfig
from cogcache import into as into_module
from cogcache.keys import key_bytes

ROW = np.arange(64 * 1024, dtype="f4").reshape(256, 256)  # 256 KiB


@pytest.fixture(params=["memory", "filesystem", "packed", "third party's", "below"])
async def manager(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CacheManager]:
    files = FilesystemCacheConfig(tmp_path / "cache")
    made = {
        "memory": lambda: CacheManager(CacheConfig([MemoryCacheConfig()])),
        "filesystem": lambda: CacheManager(CacheConfig([files])),
        "packed": lambda: CacheManager(
            CacheConfig([FilesystemCacheConfig(tmp_path / "cache", compress_arrays=True)])
        ),
        "third party's": lambda: manager_over(DictTier()),
        "below": lambda: manager_over(DictTier(), DictTier()),
    }[request.param]()
    async with made as manager:
        yield manager


async def put(manager: CacheManager, key: str, value: Any) -> None:
    """Into the last tier, so that those above have to look below."""
    assert await manager.backends[-1].set(key, value)


@pytest.mark.parametrize(
    "value",
    [
        ROW,
        np.arange(6, dtype=">i2"),
        np.array(7.5),
        np.empty((0, 3), "u1"),
        np.array(["a", "grüße"]),
        np.asfortranarray(ROW[:50]),
        np.zeros((1100, 1200)),
    ],
    ids=["rows", "big-endian", "0-d", "empty", "text", "fortran", "large"],
)
async def test_the_array_holds_the_value(manager: CacheManager, value: Any) -> None:
    await put(manager, "key", value)
    array = np.full(value.shape, "?" if value.dtype.kind == "U" else 9, value.dtype)
    for _ in range(2):
        assert await manager.get_into("key", array) is True
        assert array.tobytes() == value.tobytes()
    array[...] = 0  # of the caller's own
    assert (await manager.get("key")).tobytes("A") == value.tobytes("A")


@pytest.mark.filterwarnings("ignore:a key with a NUL")
async def test_a_miss_leaves_it_as_it_was(manager: CacheManager) -> None:
    array = np.full((2, 2), 7.0)
    assert await manager.get_into("absent", array) is False
    assert await manager.get_into("bad\0key", array) is False
    assert (array == 7.0).all()


async def test_what_does_not_fit_names_both_sides_and_writes_nothing(
    manager: CacheManager,
) -> None:
    await put(manager, "key", ROW)
    await put(manager, "list", [1, 2])
    for shape, dtype in (((256, 255), "f4"), ((256, 256), "f8"), ((256, 256), ">f4")):
        array = np.full(shape, 7, dtype)
        with pytest.raises(ValueError, match=r"'key' is float32 \(256, 256\), array is .*25"):
            await manager.get_into("key", array)
        assert (array == 7).all()
    with pytest.raises(ValueError, match="'list' is no array but list"):
        await manager.get_into("list", np.zeros(2))


async def test_arrays_that_cannot_be_filled_are_refused(manager: CacheManager) -> None:
    whole = np.zeros((4, 4))
    fixed = np.zeros(4)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="C-contiguous"):
        await manager.get_into("key", whole[:, 1])
    with pytest.raises(ValueError, match="read-only"):
        await manager.get_into("key", fixed)
    with pytest.raises(ValueError, match="Python objects"):
        await manager.get_into("key", np.array([None]))
    with pytest.raises(TypeError, match=r"not list; of a tensor give tensor.numpy\(\)"):
        await manager.get_into("key", [1.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="out has 4 rows for 3 keys"):
        await manager.get_many(["a", "b", "c"], out=whole)
    with pytest.raises(ValueError, match="no rows for 1 keys"):
        await manager.get_many(["a"], out=np.array(1.0))


@pytest.mark.filterwarnings("ignore:a key with a NUL")
async def test_rows_are_filled_and_those_of_misses_are_as_they_were(manager: CacheManager) -> None:
    for number in (0, 1, 3):
        await put(manager, f"key:{number}", np.full(5, number, "f4"))
    keys = ["key:3", "key:2", "key:0", "key:3", "bad\0key", "key:1"]
    out = np.full((6, 5), 7, "f4")
    hits = (await manager.get_stats())["manager"]["hits"]
    assert await manager.get_many(keys, out=out) == [True, False, True, True, False, True]
    assert out.tolist() == [[number] * 5 for number in (3, 7, 0, 3, 7, 1)]
    stats = (await manager.get_stats())["manager"]
    assert (stats["hits"] - hits, stats["misses"]) == (4, 2)
    assert await manager.get_many([], out=out[:0]) == []
    with pytest.raises(ValueError, match=r"'key:0' is float32 \(5,\), a row of out is float64"):
        await manager.get_many(["key:0"], out=np.zeros((1, 5)))


async def test_a_damaged_value_is_a_miss_and_writes_nothing(tmp_path: Path) -> None:
    value = np.arange(1 << 19, dtype="f8")  # several chunks, of which the last is damaged
    async with CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path)])) as manager:
        await manager.set("key", value)
    (stored,) = [one for one in (tmp_path / "v1" / "objects").rglob("*") if one.is_file()]
    data = bytearray(stored.read_bytes())
    data[data.rindex(value[-100:].tobytes())] ^= 1
    stored.write_bytes(data)
    array = np.full(value.shape, 7.0)
    async with CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path)])) as manager:
        assert await manager.get_into("key", array) is False
        assert (array == 7.0).all()
        assert (await manager.get_stats())["backends"]["FilesystemCacheBackend"]["damaged"] == 1


@pytest.mark.parametrize("tier", ["filesystem", "memory"])
async def test_a_training_loop_allocates_no_arrays(tier: str, tmp_path: Path) -> None:
    config = FilesystemCacheConfig(tmp_path) if tier == "filesystem" else MemoryCacheConfig()
    async with CacheManager(CacheConfig([config])) as manager:  # type: ignore[list-item]
        keys = [f"sample:{number}" for number in range(48)]
        batch = np.zeros((16, *ROW.shape), "f4")
        seen = np.zeros(len(keys))
        computed = 0
        for epoch in range(3):
            if epoch == 1:
                tracemalloc.start()  # numpy's memory counts
            for start in range(0, len(keys), len(batch)):
                names = keys[start : start + len(batch)]
                for row, (name, there) in enumerate(
                    zip(names, await manager.get_many(names, out=batch), strict=True)
                ):
                    if not there:
                        computed += 1
                        batch[row] = ROW + int(name.split(":")[1])
                        await manager.set(name, batch[row])
                seen[start : start + len(batch)] += batch[:, 0, 0]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert computed == len(keys)
        assert seen.tolist() == [3.0 * number for number in range(len(keys))]
        assert peak < ROW.nbytes, peak


async def test_much_is_copied_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: list[int] = []
    original = into_module.beside

    async def noted(work: Any) -> Any:
        beside.append(1)
        return await original(work)

    monkeypatch.setattr(into_module, "beside", noted)
    async with CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path)])) as manager:
        await manager.set("small", ROW)
        await manager.set("large", np.zeros((1100, 1200)))
        assert await manager.get_into("small", np.empty_like(ROW))
        assert beside == []
        assert await manager.get_into("large", np.empty((1100, 1200)))
        assert beside == [1]
        assert manager.sync.get_into("large", np.empty((1100, 1200)))
        assert beside == [1]


def test_it_works_without_a_loop(tmp_path: Path) -> None:
    manager = CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path)]))
    manager.sync.set("key", ROW)
    out = np.zeros((2, *ROW.shape), "f4")
    assert manager.sync.get_into("key", out[1])
    assert manager.sync.get_many(["absent", "key"], out=out) == [False, True]
    assert (out[1] == ROW).all() and not out[0].any()
    manager.sync.aclose()


async def test_many_at_once_do_not_mix(manager: CacheManager) -> None:
    for number in range(20):
        await put(manager, f"key:{number}", np.full((300, 100), number, "i8"))
    out = np.zeros((20, 300, 100), "i8")
    assert all(await asyncio.gather(*(manager.get_into(f"key:{n}", out[n]) for n in range(20))))
    assert (out == np.arange(20)[:, None, None]).all()


async def test_a_key_that_holds_a_digest_is_compared(tmp_path: Path) -> None:
    tier = DictTier()
    manager = manager_over(tier)
    await manager.set("other", np.zeros(3))
    tier.images[key_bytes("key")] = tier.images[key_bytes("other")]
    assert await manager.get_many(["key"], out=np.ones((1, 3))) == [False]
