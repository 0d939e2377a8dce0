"""A whole cache: its tiers, and how values move in all of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cogcache._checks import flag, number, whole
from cogcache._types import Duration, duration_seconds
from cogcache.config.options import (
    BackendConfig,
    Compression,
    check_compression,
    known_options,
    note_serialization_format,
    strict,
)
from cogcache.exceptions import ConfigError, shown, warn

__all__ = ["CacheConfig", "ChunkingConfig"]


@strict
@dataclass(frozen=True)
class ChunkingConfig:
    """How large values move: read in chunks, several at a time and in order, and streamed in.

    Every option has a second name, that of the ``kvChunking`` block of older configurations
    (``sizeThreshold``, ``chunkSize``, ``timeoutMs`` ...).

    Attributes:
        enabled: Whether tiers with a limit on one of their own values (Redis) take larger ones by
            cutting them; otherwise such a tier refuses them, and the others keep them.
        size_threshold: With ``enabled=False``, the stored bytes from which they do.
        chunk_size: Bytes of a chunk of a stream, 4 KiB to 64 MiB.
        chunk_sizes: The same for some keys: patterns of printed keys, as ``clear`` takes them, and
            sizes, such as ``{"hls:*": 1 << 20, "archive:*": 8 << 20}``. The first that means a key
            counts.
        timeout_ms: How long one chunk may take, for every 5 MiB that it has.
        max_chunks: Of one value. A stream of announced length gets larger chunks to keep it, one of
            unknown length is refused beyond it.
        parallel_fetches: Chunks of one stream that are read at once.
        log_chunk_operations: Whether each is logged, at DEBUG.
        use_edge_cache: Whether what was read of a remote tier is kept nearer: a value that was
            streamed to its end in the local tiers, for as long as it lives, and chunks of which a
            part was read in memory, at most 16 MiB of a manager.
        edge_cache_ttl: Seconds for which those chunks are kept; 0 keeps none.
        read_ahead: Whether the range after two that followed each other is fetched from a remote
            tier before it is asked for: at most 8 MiB of a reader, and of each of four values that
            are read by key.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {
        "sizeThreshold": "size_threshold",
        "chunkSize": "chunk_size",
        "timeoutMs": "timeout_ms",
        "maxChunks": "max_chunks",
        "parallelFetches": "parallel_fetches",
        "logChunkOperations": "log_chunk_operations",
        "useEdgeCache": "use_edge_cache",
        "edgeCacheTtl": "edge_cache_ttl",
    }

    enabled: bool = True
    size_threshold: int = 20_971_520
    chunk_size: int = 5_242_880
    timeout_ms: int = 10_000
    max_chunks: int = 1000
    parallel_fetches: int = 3
    log_chunk_operations: bool = False
    use_edge_cache: bool = True
    edge_cache_ttl: float = 3600
    read_ahead: bool = True
    chunk_sizes: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        for name in ("enabled", "log_chunk_operations", "use_edge_cache", "read_ahead"):
            flag(getattr(self, name), name)
        bounds = {
            "size_threshold": (1, 1 << 40),
            "chunk_size": (4096, 64 << 20),
            "timeout_ms": (1, 86_400_000),
            "max_chunks": (1, 4_194_303),
            "parallel_fetches": (1, 64),
        }
        for name, (least, most) in bounds.items():
            whole(getattr(self, name), name, least=least, most=most, none=False)
        if not isinstance(self.chunk_sizes, Mapping | None):
            raise ConfigError(
                "chunk_sizes must map patterns of keys to bytes, as {'hls:*': 1048576}, not be "
                f"{shown(self.chunk_sizes)}"
            )
        for pattern, size in (self.chunk_sizes or {}).items():
            least, most = bounds["chunk_size"]
            if not isinstance(pattern, str) or size is None:
                raise ConfigError("chunk_sizes must map patterns of keys to numbers of bytes")
            whole(size, f"chunk_sizes[{shown(pattern)}]", least=least, most=most)
        number(self.edge_cache_ttl, "edge_cache_ttl", most=31_536_000)
        if self.enabled and self.size_threshold != 20_971_520:
            warn(
                "size_threshold has no effect unless enabled=False: values of any size are cut and "
                "read in chunks; chunk_size says in which"
            )


@strict
@dataclass(frozen=True)
class CacheConfig:
    """Configuration of a ``CacheManager``.

    Attributes:
        backends: The tiers, as configurations or dicts (``{"backend_type": ..., ...}``), in any
            order.
        default_ttl: Life of an entry whose set names none; ``None`` and 0 mean that it never
            expires.
        enable_stats: Count hits, misses, sets and deletes.
        enable_compression: For tiers that do not say otherwise. Whether documents (metadata,
            transcripts, descriptions, text, bytes) are compressed when stored: ``False`` never,
            ``True`` wherever that saves at least 5 %, ``"auto"`` wherever the bytes travel: in a
            cache with a remote tier all documents, in a local one only those of 2 MiB and more.
            Pictures and arrays are stored as they are. Entries of every kind stay readable,
            whatever the setting.
        serialization_format: Accepted for older configurations; there is one codec, so it has no
            effect.
        chunking: How streams and large values move, as a ``ChunkingConfig`` or its dict form; also
            ``kvChunking``. ``None`` is what its fields say, without a limit on chunks.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"kvChunking": "chunking"}
    SHOW_AS: ClassVar[Mapping[str, str]] = {"backends": "_tiers"}

    backends: Sequence[BackendConfig | Mapping[str, Any]]
    default_ttl: Duration | None = 3600
    enable_stats: bool = True
    enable_compression: Compression = "auto"
    serialization_format: str | None = None
    chunking: ChunkingConfig | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.chunking, ChunkingConfig | Mapping | None):
            raise ConfigError(
                f"chunking must be a ChunkingConfig or a dict, not {type(self.chunking).__name__}"
            )
        if isinstance(self.chunking, Mapping):
            options = known_options(ChunkingConfig, self.chunking)
            object.__setattr__(self, "chunking", ChunkingConfig(**options))
        if isinstance(self.backends, str | bytes | Mapping) or not isinstance(
            self.backends, Sequence
        ):
            raise ConfigError(
                f"backends must be a list of tier configurations, "
                f"not {type(self.backends).__name__}"
            )
        if self.default_ttl is not None:
            duration_seconds(self.default_ttl, "default_ttl")
        flag(self.enable_stats, "enable_stats")
        check_compression(self.enable_compression)
        note_serialization_format(self.serialization_format)

    @property
    def _tiers(self) -> list[Any]:
        """Dicts may hold secrets under any name, so only their kinds are shown."""
        return [
            {"backend_type": tier.get("backend_type"), "...": "..."}
            if isinstance(tier, Mapping)
            else tier
            for tier in self.backends
        ]

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> CacheConfig:
        """Read the dict form; unknown names are dropped with a warning that names the nearest
        one.
        """
        return cls(**known_options(cls, options))

    @classmethod
    def load(cls, file: str | os.PathLike[str] | None = None, **options: Any) -> CacheConfig:
        """What a file, the environment and ``options`` say; see ``Settings.load``."""
        from cogcache.settings import Settings

        return Settings.load(file, **options).cache
