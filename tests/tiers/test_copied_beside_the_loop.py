"""Entries that are copied into a local store piece by piece: no disk holds up the loop."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.servers.redis import RedisServer
from support_redis import redis_tier

from cogcache import FilesystemCacheConfig, _core
from cogcache.backends import base
from cogcache.backends.base import CacheBackend
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.backends.redis import tier as redis_module
from cogcache.config import MemoryCacheConfig
from cogcache.keys import key_bytes
from cogcache.promotion import copy_pieces

PIECE = 1 << 20
VALUE = random.Random(1).randbytes(5 * PIECE + 7)


@pytest.fixture(params=["filesystem", "memory", "redis", "redis in slices"])
async def below(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[CacheBackend]:
    """A tier that holds the value, in many pieces."""
    for module in (base, redis_module):
        monkeypatch.setattr(module, "COPY_BYTES", PIECE)
    tier: CacheBackend
    if request.param == "filesystem":
        tier = FilesystemCacheBackend(FilesystemCacheConfig(tmp_path / "below"))
    elif request.param == "memory":
        tier = MemoryCacheBackend(MemoryCacheConfig())
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        tier = redis_tier(server, max_value_size=None)
    assert await tier.set("key", VALUE)
    yield tier
    await tier.aclose()


async def entry_below(below: CacheBackend, request: pytest.FixtureRequest) -> _core.Entry:
    index_only = request.node.callspec.params["below"] == "redis in slices"
    entry = await below.fetch(key_bytes("key"), index_only=index_only)
    assert isinstance(entry, _core.Entry), entry
    assert entry.in_memory != index_only
    return entry


class Calls:
    """What built-in functions the thread of the loop calls meanwhile."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __enter__(self) -> Calls:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: Any, event: str, about: Any) -> None:
        if event == "c_call":
            self.names.append(about.__name__)


async def test_a_store_takes_the_pieces_in_threads_of_its_own(
    below: CacheBackend, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    entry = await entry_below(below, request)
    store = _core.Store(str(tmp_path / "above"))
    with Calls() as calls:
        assert await copy_pieces(entry, below, store) is None
    assert "submit" in calls.names  # calls are seen
    assert not {"write_at", "read_container", "commit", "abort"} & set(calls.names)
    found = store.fetch(key_bytes("key"))
    assert isinstance(found, _core.Entry) and found.value() == VALUE
    assert found.token == entry.token
    store.close()


async def test_whatever_takes_the_pieces_is_called_beside_the_loop(
    below: CacheBackend, request: pytest.FixtureRequest
) -> None:
    entry = await entry_below(below, request)
    threads = []

    class Sink:
        written: list[tuple[int, int]] = []

        def write_at(self, offset: int, data: bytes, /) -> str | None:
            threads.append(threading.get_ident())
            return None if len(threads) < 4 else "no-space"

    assert await below.copy_to(entry, Sink()) == "no-space"
    assert len(threads) == 4 and threading.get_ident() not in threads


async def test_what_a_copy_that_failed_has_written_is_given_back_beside_the_loop(
    below: CacheBackend,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = await entry_below(below, request)
    store = _core.Store(str(tmp_path / "above"))

    async def stops(sink: base.ContainerSink, offset: int, data: bytes) -> str | None:
        await asyncio.sleep(0)
        return sink.write_at(offset, data) if offset == 0 else "no-space"

    for module in (base, redis_module):
        monkeypatch.setattr(module, "write_piece", stops)
    with Calls() as calls:
        assert await copy_pieces(entry, below, store) == "no-space"
    assert "abort" not in calls.names
    assert store.fetch(key_bytes("key")) == "absent"
    assert store.stats()["held_bytes"] == 0 and os.listdir(Path(store.root, "tmp")) == []
    store.close()
