"""Configuration: frozen dataclasses, checked where they are made, and their dict form.

A dict is forgiving (an unknown name is dropped with a warning that names the nearest one, so that
shared keys never break construction), a dataclass is strict (an unknown name is an error). Neither
is ever changed by the cache.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from cogcache._types import Duration, duration_seconds
from cogcache.exceptions import ConfigError, shown, warn

SMALLEST_SIZE_MB = 17
LARGEST_SIZE_MB = 1e12  # an exabyte
LONGEST_PATH = 4000  # bytes of a base path; the system takes 4,095 with what lies below it
LONGEST_PREFIX = 400  # bytes; the longest object name is 1,024 and ours add 515 to the prefix
POLICIES = ("lru", "lfu", "fifo", "cost")
WRITE_MODES = ("through", "behind", "off")
WHEN_FULL = ("sync", "block", "drop")
_FORMATS = ("pickle", "json", "msgpack")
_BUCKET: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")

Compression = bool | Literal["auto"]

_ConfigType = TypeVar("_ConfigType")


def nearest(name: object, known: Iterable[str]) -> str:
    """A hint for an unknown name: ``"; did you mean 'x'?"``, or the choices when nothing is
    near.
    """
    choices = {choice.casefold(): choice for choice in sorted(known)}
    text = name if isinstance(name, str) else shown(name)
    close = difflib.get_close_matches(text[:200].casefold(), choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {choices[close[0]]!r}?"
    return f"; known: {', '.join(choices.values())}"


def choice(value: object, field_name: str, known: Sequence[str]) -> None:
    """Raise ``ConfigError`` with the choices unless ``value`` is one of ``known``."""
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{field_name}: unknown value {shown(value)}{nearest(value, known)}")


def number(
    value: object,
    field_name: str,
    *,
    least: float = 0,
    most: float = LARGEST_SIZE_MB,
    none: bool = False,
) -> None:
    """Raise ``ConfigError`` unless ``value`` is a number from ``least`` to ``most`` (or ``None``
    where allowed).
    """
    if value is None and none:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(
            f"{field_name} must be a number, not {type(value).__name__} ({shown(value)})"
        )
    if value != value or value == float("inf") or value < least:
        raise ConfigError(
            f"{field_name} must be a finite number of at least {least:g}, not {shown(value)}"
        )
    if value > most:
        raise ConfigError(f"{field_name} is absurdly large; the most is {most:g}")


def whole(value: object, field_name: str, *, least: int = 0, most: int = 1 << 32) -> None:
    """``number`` for a count, or ``None``."""
    number(value, field_name, least=least, most=most, none=True)
    if value is not None and not isinstance(value, int):
        raise ConfigError(f"{field_name} must be a whole number, not {shown(value)}")


def _flag(value: object, field_name: str) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{field_name} must be True or False, not {shown(value)}")


def _path_length(path: str) -> None:
    try:
        length = len(os.fsencode(path))
    except UnicodeEncodeError:
        raise ConfigError("base_path holds a lone surrogate that stands for no byte") from None
    if length > LONGEST_PATH:
        raise ConfigError(f"base_path has at most {LONGEST_PATH:,} bytes, not {length:,}")


def _is_text(value: object, text: str) -> bool:
    return isinstance(value, str) and value == text


def _compression(value: object) -> None:
    if not isinstance(value, bool) and not _is_text(value, "auto"):
        raise ConfigError(f"enable_compression must be True, False or 'auto', not {shown(value)}")


def _strict(cls: type[_ConfigType]) -> type[_ConfigType]:
    """Turn the TypeError of an unknown keyword into a ConfigError that names the nearest one, and
    take ``ALIASES`` of the class for the names that they stand for. Its repr shows what differs
    from the defaults.
    """
    plain: Callable[..., None] = cls.__init__
    fields = [f for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
    names = {f.name for f in fields}
    order = [f.name for f in fields if not f.kw_only]
    required = [
        f.name
        for f in fields
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]

    @functools.wraps(plain)
    def strict(self: Any, *args: Any, **named: Any) -> None:
        named = _without_aliases(cls, named)
        for name in named:
            if name not in names:
                hint = nearest(name, {*names, *getattr(cls, "ALIASES", ())})
                raise ConfigError(f"{cls.__name__}: unknown option {shown(name)}{hint}")
        given = order[: len(args)]
        if len(args) > len(order):
            raise ConfigError(f"{cls.__name__} takes at most {len(order)} options by position")
        for name in required:
            if name not in given and name not in named:
                raise ConfigError(f"{cls.__name__}: {name} is missing")
        plain(self, *args, **named)

    cls.__init__ = strict  # type: ignore[method-assign]
    cls.__repr__ = _repr_of_changes  # type: ignore[method-assign]
    return cls


def _repr_of_changes(config: Any) -> str:
    show_as: Mapping[str, str] = getattr(config, "SHOW_AS", {})
    changed = [
        f"{f.name}={getattr(config, show_as.get(f.name, f.name))!r}"
        for f in dataclasses.fields(config)
        if f.repr and getattr(config, f.name) != f.default
    ]
    return f"{type(config).__name__}({', '.join(changed)})"


def _without_aliases(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with every other name of a field replaced by the field's own.

    Raises:
        ConfigError: A field is given under two names.
    """
    aliases: Mapping[str, str] = getattr(cls, "ALIASES", {})
    plain: dict[str, Any] = {}
    for name, value in options.items():
        field_name = aliases.get(name, name)
        if field_name != name and field_name in options:
            raise ConfigError(
                f"{cls.__name__}: {shown(name)} and {field_name!r} are the same option"
            )
        plain[field_name] = value
    return plain


class BackendConfig:
    """What every tier's configuration has; derive a dataclass from it and declare the fields that
    the tier takes.

    Attributes:
        backend_type: Name under which the tier is registered.
        enabled: A disabled tier is skipped.
        priority: Lower numbers are asked first; equal ones keep the order of the list.
        enable_compression: ``None`` takes the manager's setting.
        compress_arrays: Store arrays transposed by bytes and bits and compressed: smaller where
            neighbours are alike (masks, positions, quantised values), hardly for embeddings. They
            are then decompressed at every hit instead of mapped.
        serialization_format: Accepted for older configurations; there is one codec, so it has no
            effect.
        write_mode: ``"through"`` writes to the tier before a put is done, ``"behind"`` after it,
            ``"off"`` only reads.
        required: Whether a put fails when this tier does not keep the entry.
        timeout_seconds: How long one call may take; ``None`` is what the tier thinks right.
        min_value_size: Smaller values (bytes as stored) do not go to this tier.
        max_value_size: Larger values do not; ``None`` is no limit.
        behind_items: Under ``"behind"``, how many entries may wait.
        behind_mb: How much of them, in units of 10**6 bytes: in memory, or in the spool of a
            filesystem tier.
        behind_when_full: What a put does that finds no room: ``"sync"`` writes to the tier itself,
            ``"block"`` waits for room (60 s at most), ``"drop"`` goes without.
        behind_durable: Let what waits lie in the spool of the first filesystem tier that has the
            entry, where it outlives the process.
    """

    backend_type: str = ""
    enabled: bool = True
    priority: int = 0
    enable_compression: Compression | None = None
    compress_arrays: bool = False
    serialization_format: str | None = None
    write_mode: str = "through"
    required: bool = False
    timeout_seconds: float | None = None
    min_value_size: int = 0
    max_value_size: int | None = None
    behind_items: int = 10_000
    behind_mb: float = 1000
    behind_when_full: str = "sync"
    behind_durable: bool = True

    def __post_init__(self) -> None:
        """Check the common fields; a derived class calls this from its own."""
        _flag(self.enabled, "enabled")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise ConfigError(f"priority must be a whole number, not {shown(self.priority)}")
        if self.enable_compression is not None:
            _compression(self.enable_compression)
        _flag(self.compress_arrays, "compress_arrays")
        note_serialization_format(self.serialization_format)
        choice(self.write_mode, "write_mode", WRITE_MODES)
        _flag(self.required, "required")
        number(self.timeout_seconds, "timeout_seconds", least=0.001, most=86_400, none=True)
        whole(self.behind_items, "behind_items", least=1)
        number(self.behind_mb, "behind_mb", least=0.001)
        choice(self.behind_when_full, "behind_when_full", WHEN_FULL)
        _flag(self.behind_durable, "behind_durable")
        whole(self.min_value_size, "min_value_size", most=1 << 50)
        whole(self.max_value_size, "max_value_size", most=1 << 50)
        if self.min_value_size is None:
            raise ConfigError("min_value_size must be a whole number; 0 is no limit")
        if self.max_value_size is not None and self.max_value_size < self.min_value_size:
            raise ConfigError(
                f"max_value_size ({self.max_value_size}) is below min_value_size "
                f"({self.min_value_size}): the tier would keep nothing"
            )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a plain dict."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """What ``BackendConfig`` says about the use of a tier, as options of a dataclass: derive from
    both.
    """

    write_mode: str = "through"
    required: bool = False
    timeout_seconds: float | None = None
    min_value_size: int = 0
    max_value_size: int | None = None
    behind_items: int = 10_000
    behind_mb: float = 1000
    behind_when_full: str = "sync"
    behind_durable: bool = True


@_strict
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
        if not _is_text(self.max_size_mb, "keep"):
            number(self.max_size_mb, "max_size_mb", none=True)
        if isinstance(self.max_size_mb, int | float) and self.max_size_mb < SMALLEST_SIZE_MB:
            raise ConfigError(
                f"max_size_mb must be at least {SMALLEST_SIZE_MB} (tables and quarantine need "
                f"room), not {shown(self.max_size_mb)}"
            )
        choice(self.eviction_policy, "eviction_policy", POLICIES)
        if self.shared is not False and not _is_text(self.shared, "group"):
            raise ConfigError(f"shared must be False or 'group', not {shown(self.shared)}")
        if not isinstance(self.read_only, bool) and not _is_text(self.read_only, "auto"):
            raise ConfigError(
                f"read_only must be True, False or 'auto', not {shown(self.read_only)}"
            )
        number(self.min_free_mb, "min_free_mb", none=True)
        whole(self.max_files, "max_files", least=1)
        choice(self.durability, "durability", ("none", "data", "full"))
        choice(self.single_flight, "single_flight", ("process", "host"))
        whole(self.touch_seconds, "touch_seconds", most=31_536_000)
        _flag(self.enable_ttl, "enable_ttl")
        _flag(self.cleanup_on_startup, "cleanup_on_startup")

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


@_strict
@dataclass(frozen=True)
class StructuredFilesystemConfig(FilesystemCacheConfig):
    """The upstream name of ``FilesystemCacheConfig``; the same tier."""

    backend_type: str = field(default="structured_filesystem", kw_only=True)


@_strict
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


@_strict
@dataclass(frozen=True)
class S3CacheConfig(BackendConfig, PolicyOptions):
    """A tier in a bucket of an S3 store, shared by any number of hosts (``docs/tiers.md``).

    Needs ``pip install cogcache-video[s3]``. What is not given is found as boto3 finds it: in the
    environment, the shared files of a profile, the role of the machine.

    Attributes:
        bucket: Its name; it must exist. It may hold other objects, which are never touched.
        prefix: All objects are named ``<prefix>/v1/...``; also ``key_prefix``. Slashes at its ends
            do not count.
        priority: See ``BackendConfig``; local tiers come first.
        endpoint_url: Of a store that is not AWS, ``"https://host[:port]"``; also ``endpoint``.
        access_key: With ``secret_key`` the credentials. Never shown.
        secret_key: See there. Never shown.
        region: Such as ``"eu-central-1"``; stores other than AWS rarely care.
        lifecycle_expiration_days: If given, the bucket gets a lifecycle rule for the prefix that
            lets the store itself delete objects so many days after they were written; rules of
            others stay as they are.
        session_token: Of temporary credentials. Never shown.
        profile: A section of the shared AWS configuration files; not with ``access_key``.
        sign_payloads: Whether what is sent is hashed into the signature, at the cost of a second of
            one processor for each 850 MB. ``None`` does so over ``http``, where nothing else guards
            it on its way, and not over ``https``.
        hedge_reads: Whether a read of up to 1 MiB that takes far longer than others is asked for a
            second time, for at most one in twenty, and not while the store as a whole is slow.
        direct_requests: Whether objects are read and written over connections of our own, at a part
            of the processor time that boto3's client takes; it stays in charge of everything else,
            and of these too behind a proxy or where a store wants more than is known here.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"key_prefix": "prefix", "endpoint": "endpoint_url"}

    backend_type: str = field(default="s3", kw_only=True)
    bucket: str = ""
    prefix: str = "artifacts"
    priority: int = 1
    endpoint_url: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    region: str | None = None
    lifecycle_expiration_days: int | None = None
    session_token: str | None = field(default=None, repr=False, kw_only=True)
    profile: str | None = field(default=None, kw_only=True)
    sign_payloads: bool | None = field(default=None, kw_only=True)
    hedge_reads: bool = field(default=False, kw_only=True)
    direct_requests: bool = field(default=True, kw_only=True)
    enabled: bool = field(default=True, kw_only=True)
    enable_compression: Compression | None = field(default=None, kw_only=True)
    compress_arrays: bool = field(default=False, kw_only=True)
    serialization_format: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.bucket, str) or not _BUCKET.fullmatch(self.bucket):
            raise ConfigError(
                f"bucket must be the name of an S3 bucket (letters, digits, '.', '-', '_'), not "
                f"{shown(self.bucket)}"
            )
        _check_prefix(self.prefix)
        for name in ("access_key", "secret_key", "region", "session_token", "profile"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                # Not the value itself: it may be a secret.
                raise ConfigError(f"{name} must be a text or None, not {type(value).__name__}")
        if (self.access_key is None) != (self.secret_key is None):
            raise ConfigError("access_key and secret_key belong together: give both or neither")
        if self.session_token is not None and self.access_key is None:
            raise ConfigError("session_token needs access_key and secret_key")
        if self.profile is not None and self.access_key is not None:
            raise ConfigError("profile and access_key are two ways to credentials: give one")
        _check_endpoint(self.endpoint_url)
        if self.sign_payloads is not None:
            _flag(self.sign_payloads, "sign_payloads")
        _flag(self.hedge_reads, "hedge_reads")
        _flag(self.direct_requests, "direct_requests")
        whole(self.lifecycle_expiration_days, "lifecycle_expiration_days", least=1, most=36_500)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> S3CacheConfig:
        """Read ``s3://bucket[/prefix][?endpoint_url=...&region=...&...]``; ``options`` count more.

        Raises:
            ConfigError: Another scheme, an unknown option (the nearest is named), or credentials,
                which do not belong into a URL.
        """
        from cogcache.urls import written_tier

        read = written_tier(url)
        if read.config_class is not cls:
            raise ConfigError("an S3 URL is s3://bucket/prefix?option=value, without credentials")
        return cls(**{**read.place, **read.query, **options})

    @property
    def clean_prefix(self) -> str:
        """``prefix`` without slashes at its ends."""
        return self.prefix.strip("/")


def _check_prefix(prefix: object) -> None:
    if not isinstance(prefix, str):
        raise ConfigError(f"prefix must be a text, not {type(prefix).__name__}")
    segments = prefix.strip("/").split("/")
    if prefix.strip("/") and any(one in ("", ".", "..") for one in segments):
        raise ConfigError(
            f"prefix {shown(prefix)}: segments between slashes must not be '', '.', '..'"
        )
    if not prefix.isprintable() or "\\" in prefix:
        raise ConfigError(f"prefix {shown(prefix)} has characters that object names do not take")
    if len(prefix.encode("utf-8", "replace")) > LONGEST_PREFIX or any(
        len(one.encode("utf-8", "replace")) > 255 for one in segments
    ):
        raise ConfigError(
            f"prefix may have at most {LONGEST_PREFIX} UTF-8 bytes, and 255 between two slashes"
        )


def _check_endpoint(endpoint: object) -> None:
    if endpoint is None:
        return
    if not isinstance(endpoint, str):
        raise ConfigError(f"endpoint_url must be a text, not {type(endpoint).__name__}")
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, good = urlsplit(""), False
    if not good:
        raise ConfigError("endpoint_url must be 'http://host[:port]' or 'https://host[:port]'")
    if "@" in parts.netloc:
        raise ConfigError("endpoint_url must not hold credentials: use access_key and secret_key")
    if parts.query or parts.fragment:
        raise ConfigError("endpoint_url must not have a query or a fragment")


S3CacheBackendConfig = S3CacheConfig


@_strict
@dataclass(frozen=True)
class RedisCacheConfig(BackendConfig, PolicyOptions):
    """A tier in a Redis (6.2 or newer) or Valkey server, shared by any number of hosts
    (``docs/tiers.md``).

    Needs ``pip install cogcache-video[redis]``.

    Attributes:
        url: ``redis://[user:password@]host[:port][/db]``, ``rediss://...`` for TLS, or
            ``unix:///path[?db=n]``; ``None`` takes the environment's ``REDIS_URL``. Its password is
            never shown.
        prefix: All keys begin with it and a colon; also ``key_prefix``.
        priority: See ``BackendConfig``; local tiers come first.
        username: Instead of the URL's.
        password: Instead of the URL's. Never shown.
        ca_file: Certificates of the authorities to trust, for ``rediss://``; ``None`` are the
            system's.
        slice_size: Bytes of a Redis value at most, from 64 KiB to 512 MiB; also ``chunk_size``.
            Entries written with another one stay readable.
        max_value_size: See ``BackendConfig``; here 4 MiB unless said otherwise, since memory is
            dear.
        timeout_seconds: Of a small call; ``None`` is 0.25. Four times that for each slice.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"key_prefix": "prefix", "chunk_size": "slice_size"}
    SHOW_AS: ClassVar[Mapping[str, str]] = {"url": "address"}

    backend_type: str = field(default="redis", kw_only=True)
    url: str | None = None
    prefix: str = "cc"
    priority: int = 1
    username: str | None = field(default=None, kw_only=True)
    password: str | None = field(default=None, repr=False, kw_only=True)
    ca_file: str | None = field(default=None, kw_only=True)
    slice_size: int = field(default=5 << 20, kw_only=True)
    max_value_size: int | None = field(default=4 << 20, kw_only=True)
    enabled: bool = field(default=True, kw_only=True)
    enable_compression: Compression | None = field(default=None, kw_only=True)
    serialization_format: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.url is None:
            object.__setattr__(self, "url", os.environ.get("REDIS_URL"))
            if not self.url:
                raise ConfigError("url is missing: 'redis://host:port/0', or set REDIS_URL")
        for name in ("username", "password", "ca_file"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigError(f"{name} must be a text or None, not {type(value).__name__}")
        if (
            not isinstance(self.prefix, str)
            or not self.prefix.isprintable()
            or not 1 <= len(self.prefix.encode("utf-8", "replace")) <= 200
            or any(c in self.prefix for c in "{} ")
        ):
            raise ConfigError(
                f"prefix must be 1 to 200 bytes of text without spaces and braces, "
                f"not {shown(self.prefix)}"
            )
        whole(self.slice_size, "slice_size", least=64 << 10, most=512 << 20)
        if self.slice_size is None:
            raise ConfigError("slice_size must be a whole number of bytes")
        settings = self.connection
        if self.ca_file is not None and "ssl_cert_reqs" not in settings:
            raise ConfigError("ca_file needs a url that begins with rediss://")

    @property
    def address(self) -> str:
        """The URL without who one is."""
        parts = urlsplit(self.url or "")
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def connection(self) -> dict[str, Any]:
        """Where and as whom to connect, in the words of redis-py.

        Raises:
            ConfigError: The URL cannot be; it is not shown, since it may hold a password.
        """
        return _redis_connection(self.url, self.username, self.password, self.ca_file)


RedisCacheBackendConfig = RedisCacheConfig


def _redis_connection(
    url: object, username: str | None, password: str | None, ca_file: str | None
) -> dict[str, Any]:
    wanted = (
        "url must be 'redis://[user:password@]host[:port][/db]', 'rediss://...' or 'unix:///path'"
    )
    if not isinstance(url, str):
        raise ConfigError(f"{wanted}, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        port = parts.port or 6379
    except ValueError:
        raise ConfigError(wanted) from None
    unknown = set(query) - {"db"}
    if parts.scheme not in ("redis", "rediss", "unix") or parts.fragment or unknown:
        raise ConfigError(f"{wanted}; other options have fields of their own")
    found: dict[str, Any] = {}
    database = query.get("db", "0")
    if parts.scheme == "unix":
        if not parts.path:
            raise ConfigError(wanted)
        found["path"] = unquote(parts.path)
    else:
        if not parts.hostname:
            raise ConfigError(wanted)
        found |= {"host": parts.hostname, "port": port}
        database = parts.path.strip("/") or database
    if not database.isascii() or not database.isdigit() or len(database) > 6:
        raise ConfigError("url: the database must be a number, as in redis://host:6379/0")
    found["db"] = int(database)
    who = username or (unquote(parts.username) if parts.username else None)
    secret = password or (unquote(parts.password) if parts.password else None)
    found |= {name: value for name, value in (("username", who), ("password", secret)) if value}
    if parts.scheme == "rediss":
        found |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        if ca_file is not None:
            found["ssl_ca_certs"] = os.path.expanduser(ca_file)
    return found


@_strict
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
            _flag(getattr(self, name), name)
        bounds = {
            "size_threshold": (1, 1 << 40),
            "chunk_size": (4096, 64 << 20),
            "timeout_ms": (1, 86_400_000),
            "max_chunks": (1, 4_194_303),
            "parallel_fetches": (1, 64),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if value is None:
                raise ConfigError(f"{name} must be a whole number from {least} to {most}")
            whole(value, name, least=least, most=most)
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


@_strict
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
        _flag(self.enable_stats, "enable_stats")
        _compression(self.enable_compression)
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


_format_noted = False


def note_serialization_format(value: object) -> None:
    """Check ``serialization_format`` and say once per process that it has no effect."""
    global _format_noted
    if value is None:
        return
    choice(value, "serialization_format", _FORMATS)
    if not _format_noted:
        _format_noted = True
        warn(
            f"serialization_format={value!r} has no effect: cogcache stores every value with its "
            f"one codec, without pickle"
        )


def known_options(
    cls: type, options: Mapping[str, Any], ignored: Iterable[str] = ()
) -> dict[str, Any]:
    """A copy of ``options`` without the names that ``cls`` does not have; each of those is warned
    about.
    """
    names = {f.name for f in dataclasses.fields(cls) if f.init}
    kept: dict[str, Any] = {}
    for name, value in _without_aliases(cls, options).items():
        if name in names:
            kept[name] = value
        elif name not in ignored:
            hint = nearest(name, {*names, *getattr(cls, "ALIASES", ())})
            warn(f"{cls.__name__}: unknown option {shown(name)} is ignored{hint}")
    return kept
