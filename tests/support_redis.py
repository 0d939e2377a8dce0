"""Tiers and entries for the tests of the Redis tier."""

from __future__ import annotations

from typing import Any

from support.servers.proxy import Proxy
from support.servers.redis import RedisServer

from cogcache import _core
from cogcache.backends.redis.tier import RedisBackend
from cogcache.config import RedisCacheConfig
from cogcache.keys import key_bytes

PATIENT: dict[str, Any] = {"timeout_seconds": 20}  # a busy machine is not an outage


def redis_config(server: RedisServer | Proxy, **options: Any) -> RedisCacheConfig:
    """The configuration of a tier in a server."""
    certificate = getattr(server, "certificate", None)
    trust = {"ca_file": certificate.chain} if certificate else {}
    return RedisCacheConfig(server.url, **{**PATIENT, **trust, **options})


def redis_tier(server: RedisServer | Proxy, **options: Any) -> RedisBackend:
    """A tier in a server."""
    return RedisBackend(redis_config(server, **options))


async def redis_entry(tier: RedisBackend, key: str, *, index_only: bool = False) -> _core.Entry:
    """The entry of a key, which must be there."""
    found = await tier.fetch(key_bytes(key), index_only=index_only)
    assert isinstance(found, _core.Entry), found
    return found


def base_of(tier: RedisBackend, key: str) -> bytes:
    """What the names of an entry begin with."""
    return tier._names.of_key(key_bytes(key))


def slices_of(client: Any, base: bytes) -> list[bytes]:
    """The names of the slices of an entry, in their order."""
    names: list[bytes] = client.keys(base + b":c:*")
    return sorted(names, key=lambda name: (name.rpartition(b":")[0], int(name.rpartition(b":")[2])))
