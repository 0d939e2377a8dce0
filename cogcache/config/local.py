"""Tiers of this machine: a directory, and the memory of this process."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Final, Literal

from cogcache._checks import choice, flag, is_text, number, whole
from cogcache.config.options import BackendConfig, Compression, PolicyOptions, strict
from cogcache.exceptions import ConfigError, shown

__all__ = ["FilesystemCacheConfig", "MemoryCacheConfig", "StructuredFilesystemConfig"]

SMALLEST_SIZE_MB: Final = 17
LONGEST_PATH: Final = 4000  # bytes of a base path; the system takes 4,095 with what lies below it
POLICIES: Final = ("lru", "lfu", "fifo", "cost")


@strict
@dataclass(frozen=True)
class FilesystemCacheConfig(BackendConfig, PolicyOptions):
    """A tier of files under one directory, shared by any number of processes.

    Attributes:
        base_path: The directory; ``~`` and ``$VARIABLES`` are expanded. Everything lies under
            ``<base_path>/v1/``.
        max_size_mb: Hard limit of everything on disk there, in units of 10**6 bytes (at least 17);
            ``None`` means that only ``min_free_mb`` bounds it. Bounds are of the directory: those
            of whoever opened it last hold for all. ``"keep"`` leaves those that are in force as
            they are, for programs that look after a cache which others use.
        eviction_policy: ``lru``, ``lfu``, ``fifo`` or ``cost`` (keeps what is dear to compute per
            byte and age).
        priority: See ``BackendConfig``.
        shared: ``"group"`` shares the directory with its group (modes 02770 and 0660).
        read_only: ``True`` never writes, ``"auto"`` only reads where it cannot write and misses
            where there is nothing to read until there is, ``False`` refuses to start there.
        min_free_mb: Free space that stays on the file system; ``None`` is the smaller of 5 % and 2
            GiB.
        max_files: Number of entries, soft by the writes in flight; ``None`` is no limit.
        durability: ``none`` (a crash of the machine may lose entries, never corrupt them), ``data``
            (what is visible is whole on disk) or ``full`` (what was acknowledged is there).
        single_flight: Who computes a missing value once: ``"process"``, or ``"host"`` for all
            processes of this host that use the directory. A process that dies while it computes is
            followed by one that waits. Any file system with locks; over several hosts only where
            they share it and its locks.
        touch_seconds: How often the use of one entry is recorded; ``None`` is 60, 0 records every
            use.
        enable_ttl: ``False`` ignores lives: nothing expires.
        cleanup_on_startup: Sweep expired entries in the background after the first call.
        metadata_format: Accepted for older configurations; metadata lies in the entry itself.
    """

    backend_type: str = field(default="filesystem", kw_only=True)
    base_path: str | os.PathLike[str] = "~/.cache/cogniverse/pipeline"
    max_size_mb: float | Literal["keep"] | None = None
    eviction_policy: str = "lru"
    priority: int = 0
    enabled: bool = field(default=True, kw_only=True)
    enable_compression: Compression | None = field(default=None, kw_only=True)
    compress_arrays: bool = field(default=False, kw_only=True)
    serialization_format: str | None = field(default=None, kw_only=True)
    shared: Literal[False, "group"] = field(default=False, kw_only=True)
    read_only: bool | Literal["auto"] = field(default=False, kw_only=True)
    min_free_mb: float | None = field(default=None, kw_only=True)
    max_files: int | None = field(default=None, kw_only=True)
    durability: Literal["none", "data", "full"] = field(default="none", kw_only=True)
    single_flight: Literal["process", "host"] = field(default="process", kw_only=True)
    touch_seconds: int | None = field(default=None, kw_only=True)
    enable_ttl: bool = field(default=True, kw_only=True)
    cleanup_on_startup: bool = field(default=True, kw_only=True)
    metadata_format: str = field(default="json", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.base_path, str | os.PathLike) or not os.fspath(self.base_path):
            raise ConfigError(
                f"base_path must be the path of a directory, not {shown(self.base_path)}"
            )
        if isinstance(os.fspath(self.base_path), bytes):
            raise ConfigError("base_path must be text; use os.fsdecode() for a path of bytes")
        if "\0" in os.fspath(self.base_path):
            raise ConfigError("base_path must not contain a NUL character")
        _path_length(os.fspath(self.base_path))
        if not is_text(self.max_size_mb, "keep"):
            number(self.max_size_mb, "max_size_mb", none=True)
        if isinstance(self.max_size_mb, int | float) and self.max_size_mb < SMALLEST_SIZE_MB:
            raise ConfigError(
                f"max_size_mb must be at least {SMALLEST_SIZE_MB} (tables and quarantine need "
                f"room), not {shown(self.max_size_mb)}"
            )
        choice(self.eviction_policy, "eviction_policy", POLICIES)
        if self.shared is not False and not is_text(self.shared, "group"):
            raise ConfigError(f"shared must be False or 'group', not {shown(self.shared)}")
        if not isinstance(self.read_only, bool) and not is_text(self.read_only, "auto"):
            raise ConfigError(
                f"read_only must be True, False or 'auto', not {shown(self.read_only)}"
            )
        number(self.min_free_mb, "min_free_mb", none=True)
        whole(self.max_files, "max_files", least=1)
        choice(self.durability, "durability", ("none", "data", "full"))
        choice(self.single_flight, "single_flight", ("process", "host"))
        whole(self.touch_seconds, "touch_seconds", most=31_536_000)
        flag(self.enable_ttl, "enable_ttl")
        flag(self.cleanup_on_startup, "cleanup_on_startup")

    @property
    def limit_bytes(self) -> int | None:
        """``max_size_mb`` in bytes; ``None`` where it is no number."""
        limit = self.max_size_mb
        return int(limit * 1_000_000) if isinstance(limit, int | float) else None

    @property
    def expanded_path(self) -> str:
        """``base_path`` with ``~`` and variables expanded.

        Raises:
            ConfigError: It names a user or a variable that does not exist here.
        """
        given = os.fspath(self.base_path)
        path = os.path.expanduser(given)
        unknown = [path.partition("/")[0]] if path.startswith("~") else []
        unknown += [
            variable[0]
            for variable in re.finditer(r"\$(\w+|\{[^}]*\})", path)
            if variable[1].strip("{}") not in os.environ
        ]
        if unknown:
            raise ConfigError(
                f"base_path {given}: there is no {unknown[0]} here; set it, or choose another "
                f"directory"
            )
        return os.path.expandvars(path)


@strict
@dataclass(frozen=True)
class StructuredFilesystemConfig(FilesystemCacheConfig):
    """The upstream name of ``FilesystemCacheConfig``; the same tier."""

    backend_type: str = field(default="structured_filesystem", kw_only=True)


@strict
@dataclass(frozen=True)
class MemoryCacheConfig(BackendConfig, PolicyOptions):
    """A tier in this process' memory. It keeps encoded entries, so that nobody can change a value
    for others.

    Attributes:
        max_size_mb: Bound of the encoded entries, in units of 10**6 bytes; least recently used ones
            go first.
        priority: See ``BackendConfig``.
    """

    backend_type: str = field(default="memory", kw_only=True)
    max_size_mb: float = 256
    priority: int = 0
    enabled: bool = field(default=True, kw_only=True)
    enable_compression: Compression | None = field(default=None, kw_only=True)
    compress_arrays: bool = field(default=False, kw_only=True)
    serialization_format: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        number(self.max_size_mb, "max_size_mb", least=0.001)


def _path_length(path: str) -> None:
    try:
        length = len(os.fsencode(path))
    except UnicodeEncodeError:
        raise ConfigError("base_path holds a lone surrogate that stands for no byte") from None
    if length > LONGEST_PATH:
        raise ConfigError(f"base_path has at most {LONGEST_PATH:,} bytes, not {length:,}")
