"""What every configuration has in common: how its options are given, and those of every tier."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from cogcache._checks import choice, flag, is_text, nearest, number, whole
from cogcache.exceptions import ConfigError, shown, warn

__all__ = [
    "BackendConfig",
    "Compression",
    "PolicyOptions",
    "check_compression",
    "known_options",
    "note_serialization_format",
    "strict",
]

WRITE_MODES: Final = ("through", "behind", "off")
WHEN_FULL: Final = ("sync", "block", "drop")
_FORMATS: Final = ("pickle", "json", "msgpack")

Compression = bool | Literal["auto"]

_ConfigType = TypeVar("_ConfigType")


def strict(cls: type[_ConfigType]) -> type[_ConfigType]:
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
    def checked(self: Any, *args: Any, **named: Any) -> None:
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

    replaced: Any = cls
    replaced.__init__ = checked
    replaced.__repr__ = _repr_of_changes
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


def check_compression(value: object) -> None:
    """Raise ``ConfigError`` unless ``value`` is a ``Compression``."""
    if not isinstance(value, bool) and not is_text(value, "auto"):
        raise ConfigError(f"enable_compression must be True, False or 'auto', not {shown(value)}")


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
    write_mode: str = PolicyOptions.write_mode
    required: bool = PolicyOptions.required
    timeout_seconds: float | None = PolicyOptions.timeout_seconds
    min_value_size: int = PolicyOptions.min_value_size
    max_value_size: int | None = PolicyOptions.max_value_size
    behind_items: int = PolicyOptions.behind_items
    behind_mb: float = PolicyOptions.behind_mb
    behind_when_full: str = PolicyOptions.behind_when_full
    behind_durable: bool = PolicyOptions.behind_durable

    def __post_init__(self) -> None:
        """Check the common fields; a derived class calls this from its own."""
        flag(self.enabled, "enabled")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise ConfigError(f"priority must be a whole number, not {shown(self.priority)}")
        if self.enable_compression is not None:
            check_compression(self.enable_compression)
        flag(self.compress_arrays, "compress_arrays")
        note_serialization_format(self.serialization_format)
        choice(self.write_mode, "write_mode", WRITE_MODES)
        flag(self.required, "required")
        number(self.timeout_seconds, "timeout_seconds", least=0.001, most=86_400, none=True)
        whole(self.behind_items, "behind_items", least=1)
        number(self.behind_mb, "behind_mb", least=0.001)
        choice(self.behind_when_full, "behind_when_full", WHEN_FULL)
        flag(self.behind_durable, "behind_durable")
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
