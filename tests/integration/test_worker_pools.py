"""A data loader's pool: eight workers read through one cache, made by fork, spawn and forkserver.

The dataset holds the cache as an attribute, as people write it; the parent has used it before,
also from an event loop, so that threads of the pool may be alive and jobs in flight.
"""

import asyncio
import multiprocessing
import os
import sys
import warnings
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_pool import gate, settle

from cogcache import CacheManager, FilesystemCacheConfig, MemoryCacheConfig, _bridge, _core
from cogcache.backends.filesystem import FilesystemCacheBackend

WORKERS = 8
ITEMS = 200
METHODS = [
    m for m in ("fork", "spawn", "forkserver") if m in multiprocessing.get_all_start_methods()
]


class Dataset:
    """Features of "videos": read from the cache, computed where they are not there."""

    def __init__(self, cache: CacheManager) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> tuple[np.ndarray, int, bool]:
        computed = []

        def compute() -> dict[str, Any]:
            computed.append(index)
            return features(index)

        found = self.cache.sync.get_or_compute(f"features:{index}", compute)
        return found["array"], found["index"], bool(computed)


def features(index: int) -> dict[str, Any]:
    """Small for most, large enough for maps and for the pool for some."""
    size = 300_000 if index % 20 == 0 else 500
    return {"index": index, "array": np.arange(index, index + size, dtype=np.float32)}


_dataset: Dataset | None = None


def adopt(dataset: Dataset) -> None:
    """In a worker: what a data loader does once."""
    global _dataset
    _dataset = dataset


def load(index: int) -> tuple[int, bool, bool, int]:
    """In a worker: one item, checked, changed as a training step would, and whether it was
    right."""
    assert _dataset is not None
    array, number, computed = _dataset[index]
    right = number == index and bool((array == features(index)["array"]).all())
    array /= 2
    return index, right, computed, os.getpid()


def load_in_a_loop(indices: list[int]) -> list[bool]:
    """In a worker: the same through an event loop of the worker's own."""
    assert _dataset is not None
    cache = _dataset.cache

    async def main() -> list[bool]:
        found = await asyncio.gather(*(cache.get(f"features:{index}") for index in indices))
        return [
            value["index"] == index and bool((value["array"] == features(index)["array"]).all())
            for index, value in zip(indices, found, strict=True)
        ]

    return asyncio.run(main())


def make_cache(path: Path, *more: Any) -> CacheManager:
    return CacheManager({"backends": [*more, FilesystemCacheConfig(path, max_size_mb=200)]})


def run_epochs(pool: Pool) -> None:
    first = pool.map(load, range(ITEMS), chunksize=5)
    assert [index for index, *_ in first] == list(range(ITEMS))
    assert all(right for _, right, _, _ in first)
    assert sum(computed for _, _, computed, _ in first) >= ITEMS // 2
    second = pool.map(load, range(ITEMS), chunksize=5)
    assert all(right and not computed for _, right, computed, _ in second)
    assert os.getpid() not in {worker for *_, worker in second}
    in_loops = pool.map(load_in_a_loop, [list(range(n, n + 25)) for n in range(0, ITEMS, 25)])
    assert all(all(rights) for rights in in_loops)


@pytest.mark.parametrize(
    ("method", "memory"), [*((method, False) for method in METHODS), ("fork", True)]
)
def test_a_pool_of_eight_workers(tmp_path: Path, method: str, memory: bool) -> None:
    above = [MemoryCacheConfig(max_size_mb=20)] if memory else []
    cache = make_cache(tmp_path, *above)

    async def use_before() -> None:
        for index in range(0, ITEMS, 2):
            assert await cache.set(f"features:{index}", features(index))

    asyncio.run(use_before())
    with multiprocessing.get_context(method).Pool(
        WORKERS, initializer=adopt, initargs=(Dataset(cache),)
    ) as pool:
        run_epochs(pool)
        pool.close()
        pool.join()
    assert len(cache.sync.list_keys()) == ITEMS
    cache.sync.aclose()


@pytest.mark.skipif("fork" not in METHODS, reason="no fork")
def test_forked_while_jobs_are_in_flight(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    tier = cache.backends[0]
    assert isinstance(tier, FilesystemCacheBackend)
    for index in range(0, ITEMS, 2):
        assert cache.sync.set(f"features:{index}", features(index))

    async def with_jobs_in_flight() -> None:
        with gate() as held:
            held.fill_pool()
            waiting = asyncio.ensure_future(
                _bridge.run(tier._store, "fetch", _core.raw_key("features:0"))
            )
            await asyncio.sleep(0)
            with warnings.catch_warnings():
                # From 3.12 on Python warns of every fork beside other threads; here it must work.
                warnings.simplefilter("ignore", DeprecationWarning)
                pool = multiprocessing.get_context("fork").Pool(
                    WORKERS, initializer=adopt, initargs=(Dataset(cache),)
                )
            with pool:
                await asyncio.get_running_loop().run_in_executor(None, run_epochs, pool)
                pool.close()
                pool.join()
            assert not waiting.done()
            held.open()
            assert (await waiting).value()["index"] == 0

    asyncio.run(with_jobs_in_flight())
    cache.sync.aclose()


@pytest.mark.skipif("fork" not in METHODS, reason="no fork")
def test_a_fork_finds_no_idle_thread_of_ours(tmp_path: Path) -> None:
    """Python 3.12 and later warn of a fork in a process that has threads."""
    cache = make_cache(tmp_path)
    asyncio.run(cache.set("key", b"x" * 1_000_000))
    settle()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        child = os.fork()
        if child == 0:
            os._exit(0 if asyncio.run(cache.get("key")) == b"x" * 1_000_000 else 1)
        assert _core.pool_stats()["threads"] == 0
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    cache.sync.aclose()


def test_the_main_module_of_a_spawned_worker_needs_no_threads() -> None:
    """Importing the package starts nothing."""
    assert "cogcache" in sys.modules
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_core.pool_stats)["started"] == 0
