"""From a configuration to its tiers: the kinds that come with the package, and the making."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
        ConfigError: A tier that cannot be made, two of one directory, or none at all.
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
    _check_directories(made)
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


def _check_directories(tiers: Sequence[CacheBackend]) -> None:
    """Refuse two tiers of one directory, whatever they are for: each would take what the other
    writes and deletes for its own, and count it twice.
    """
    paths = [path for tier in tiers if (path := getattr(tier.config, "expanded_path", None))]
    if len(paths) < 2:
        return  # without a look at the disk
    found: dict[str, str] = {}
    for path in paths:
        directory = os.path.realpath(path)
        if directory in found:
            raise ConfigError(
                f"backends: {found[directory]} and {path} are the same directory; "
                "name it in one tier only"
            )
        found[directory] = path


def _option(config: Any, name: str, default: Any) -> Any:
    if isinstance(config, Mapping):
        return config.get(name, default)
    return getattr(config, name, default)
