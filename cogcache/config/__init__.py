"""Configuration: frozen dataclasses, checked where they are made, and their dict form.

A dict is forgiving (an unknown name is dropped with a warning that names the nearest one, so that
shared keys never break construction), a dataclass is strict (an unknown name is an error). Neither
is ever changed by the cache.
"""

from __future__ import annotations

from cogcache.config.cache import CacheConfig, ChunkingConfig
from cogcache.config.local import (
    FilesystemCacheConfig,
    MemoryCacheConfig,
    StructuredFilesystemConfig,
)
from cogcache.config.options import BackendConfig, Compression, PolicyOptions, known_options
from cogcache.config.redis import RedisCacheBackendConfig, RedisCacheConfig
from cogcache.config.s3 import S3CacheBackendConfig, S3CacheConfig

__all__ = [
    "BackendConfig",
    "CacheConfig",
    "ChunkingConfig",
    "Compression",
    "FilesystemCacheConfig",
    "MemoryCacheConfig",
    "PolicyOptions",
    "RedisCacheBackendConfig",
    "RedisCacheConfig",
    "S3CacheBackendConfig",
    "S3CacheConfig",
    "StructuredFilesystemConfig",
    "known_options",
]
