"""From a configuration to its tiers: the kinds that come with the package, and the making."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cogcache.backends.base import CacheBackend
from cogcache.backends.filesystem import FilesystemCacheBackend, StructuredFilesystemBackend
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.backends.redis.tier import RedisBackend
from cogcache.backends.registry import CacheBackendRegistry
from cogcache.backends.s3.tier import S3Backend
from cogcache.config import CacheConfig
from cogcache.exceptions import ConfigError

__all__ = ["make_tiers"]

CacheBackendRegistry.register("filesystem", FilesystemCacheBackend)
CacheBackendRegistry.register("structured_filesystem", StructuredFilesystemBackend)
CacheBackendRegistry.register("memory", MemoryCacheBackend)
CacheBackendRegistry.register("redis", RedisBackend)
CacheBackendRegistry.register("s3", S3Backend)


def make_tiers(config: CacheConfig) -> list[CacheBackend]:
    """The enabled tiers of a configuration in order of priority, with names of their own.

    Raises:
        ConfigError: A tier that cannot be made, or none at all.
    """
    made: list[CacheBackend] = []
    for one in config.backends:
        if not _option(one, "enabled", True):
            continue
        tier = CacheBackendRegistry.create(one)
        if _option(one, "enable_compression", None) is None:
            tier.enable_compression = config.enable_compression
        made.append(tier)
    if not made:
        raise ConfigError(
            "backends: no enabled tier is configured; a cache without one would never hit"
        )
    made.sort(key=lambda tier: tier.priority)
    remote = any(tier.is_remote for tier in made)
    for tier in made:
        tier.beside_remote = remote
    names: dict[str, int] = {}
    for tier in made:
        names[tier.name] = names.get(tier.name, 0) + 1
        if names[tier.name] > 1:
            tier.name = f"{tier.name}#{names[tier.name]}"
    return made


def _option(config: Any, name: str, default: Any) -> Any:
    if isinstance(config, Mapping):
        return config.get(name, default)
    return getattr(config, name, default)
