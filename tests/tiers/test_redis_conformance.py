"""The Redis tier keeps the contract of every tier: plain, with a password, over TLS."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.servers.fixtures import Shared
from support.servers.redis import RedisServer
from support_redis import redis_config, redis_tier

from cogcache import CacheConfig, CacheManager, ConfigError, FilesystemCacheConfig
from cogcache.backends.base import CacheBackend
from cogcache.backends.redis.tier import RedisBackend
from cogcache.testing import BackendConformance

PASSWORD = "p@ss/w:rd 1%"


class RedisConformance(BackendConformance):
    server: RedisServer
    made: list[RedisBackend]

    async def make_tier(self) -> CacheBackend:
        tier = redis_tier(self.server, prefix=f"t{len(self.made)}")
        self.made.append(tier)
        return tier


class TestRedis(RedisConformance):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        self.server, self.made = redis_server, []


class TestRedisInSlices(RedisConformance):
    """As above with all bulk in slices of 64 KiB, however small the value."""

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cogcache.backends.redis.layout.WHOLE_BYTES", 0)
        monkeypatch.setattr("cogcache.backends.redis.layout.DOCUMENT_BYTES", 0)
        self.server, self.made = redis_server, []

    async def make_tier(self) -> CacheBackend:
        tier = redis_tier(self.server, prefix=f"t{len(self.made)}", slice_size=64 << 10)
        self.made.append(tier)
        return tier


class TestRedisWithAPassword(RedisConformance):
    @pytest.fixture(autouse=True)
    def _server(self, shared_servers: Shared) -> None:
        self.server = shared_servers.get("redis-password", lambda: RedisServer(password=PASSWORD))
        with self.server.client() as client:
            client.flushall()
        self.made = []


class TestRedisOverTls(RedisConformance):
    @pytest.fixture(autouse=True)
    def _server(self, shared_servers: Shared) -> None:
        self.server = shared_servers.get("redis-tls", lambda: RedisServer(tls=True))
        with self.server.client() as client:
            client.flushall()
        self.made = []


class TestRedisOverAUnixSocket(RedisConformance):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        self.server, self.made = redis_server, []

    async def make_tier(self) -> CacheBackend:
        config = redis_config(self.server)
        tier = RedisBackend(
            replace(config, url=f"unix://{self.server.socket}?db=1", prefix=f"u{len(self.made)}")
        )
        self.made.append(tier)
        return tier


def test_importing_cogcache_does_not_import_redis() -> None:
    code = (
        "import sys, cogcache\n"
        "cogcache.CacheManager(cogcache.CacheConfig([cogcache.RedisCacheConfig('redis://h')]))\n"
        "sys.exit('redis' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_without_redis_py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogcache.backends.redis.client.is_installed", lambda name: False)
    with pytest.raises(ConfigError, match=r"pip install 'cogcache-video\[redis\]'"):
        CacheManager(CacheConfig([{"backend_type": "redis", "url": "redis://h"}]))


async def test_a_manager_takes_redis_beside_other_tiers(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    def manager(number: int) -> CacheManager:
        local = FilesystemCacheConfig(tmp_path / str(number))
        return CacheManager(CacheConfig([local, redis_config(redis_server)]))

    async with manager(1) as first, manager(2) as second:
        for size in (1000, 1_000_000):
            value = {"frames": [random.Random(size).randbytes(size)]}
            await first.set(f"key:{size}", value, ttl=60)
            found = await second.lookup(f"key:{size}")
            assert found.hit and found.tier == "RedisBackend"
            assert found.value == value
        assert await first.delete("key:1000")
        assert await second.backends[1].get("key:1000") is None


def test_the_blocking_face_uses_redis_too(redis_server: RedisServer) -> None:
    with CacheManager(CacheConfig([redis_config(redis_server)])).sync as cache:
        assert cache.set("key", [1, 2, 3], ttl=60)
        assert cache.get("key") == [1, 2, 3]
