"""The artifact cache for video and ML pipelines.

Three promises, in this order: never a wrong value, never in the way, always worth it. Start with
``PipelineArtifactCache.open(directory)``; ``docs/`` has the five-minute start, how keys work and
what is never cached.
"""

from cogcache import _starting  # noqa: F401 - before what takes time to import
from cogcache._types import Duration, Fault, Lookup, StoreResult
from cogcache.archives import ArchiveReport
from cogcache.artifacts import REQUIRED
from cogcache.backends.base import CacheBackend
from cogcache.backends.filesystem import FilesystemCacheBackend, StructuredFilesystemBackend
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.backends.registry import CacheBackendRegistry
from cogcache.backends.s3 import S3Backend, S3CacheBackend
from cogcache.codecs import register_type
from cogcache.config import (
    BackendConfig,
    CacheConfig,
    ChunkingConfig,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    RedisCacheBackendConfig,
    RedisCacheConfig,
    S3CacheBackendConfig,
    S3CacheConfig,
    StructuredFilesystemConfig,
)
from cogcache.exceptions import (
    ClosedError,
    CogcacheError,
    CogcacheWarning,
    ConfigError,
    IncompleteError,
    KeyTypeError,
    MissingExtraError,
    NotFoundError,
    PinLimitError,
    RecursiveComputeError,
    ValueTypeError,
)
from cogcache.explain import Explanation
from cogcache.frames import Frames
from cogcache.keys import Difference, Key, Keyframes, KeyParts
from cogcache.listing import Listing
from cogcache.manager import CacheManager
from cogcache.pipeline import PipelineArtifactCache
from cogcache.ranges import RangeAnswer, http_answer, http_headers, parse_range
from cogcache.reader import Reader
from cogcache.selection import Plan, SelectedEntry
from cogcache.settings import Setting, Settings
from cogcache.sources import SourceRef, file_digest
from cogcache.streams import StreamResult
from cogcache.summaries import ArtifactStats, Stats, Usage
from cogcache.tee import TeeStream
from cogcache.verifyreport import DamagedEntry, VerifyProgress, VerifyReport
from cogcache.video import VideoArtifacts, VideoCache
from cogcache.warming import WarmProgress, WarmReport

__version__ = "0.1.0"

__all__ = [
    "REQUIRED",
    "ArchiveReport",
    "ArtifactStats",
    "BackendConfig",
    "CacheBackend",
    "CacheBackendRegistry",
    "CacheConfig",
    "CacheManager",
    "ChunkingConfig",
    "ClosedError",
    "CogcacheError",
    "CogcacheWarning",
    "ConfigError",
    "DamagedEntry",
    "Difference",
    "Duration",
    "Explanation",
    "Fault",
    "FilesystemCacheBackend",
    "FilesystemCacheConfig",
    "Frames",
    "IncompleteError",
    "Key",
    "KeyParts",
    "KeyTypeError",
    "Keyframes",
    "Listing",
    "Lookup",
    "MemoryCacheBackend",
    "MemoryCacheConfig",
    "MissingExtraError",
    "NotFoundError",
    "PinLimitError",
    "PipelineArtifactCache",
    "Plan",
    "RangeAnswer",
    "Reader",
    "RecursiveComputeError",
    "RedisCacheBackendConfig",
    "RedisCacheConfig",
    "S3Backend",
    "S3CacheBackend",
    "S3CacheBackendConfig",
    "S3CacheConfig",
    "SelectedEntry",
    "Setting",
    "Settings",
    "SourceRef",
    "Stats",
    "StoreResult",
    "StreamResult",
    "StructuredFilesystemBackend",
    "StructuredFilesystemConfig",
    "TeeStream",
    "Usage",
    "ValueTypeError",
    "VerifyProgress",
    "VerifyReport",
    "VideoArtifacts",
    "VideoCache",
    "WarmProgress",
    "WarmReport",
    "__version__",
    "file_digest",
    "http_answer",
    "http_headers",
    "parse_range",
    "register_type",
]
