"""Options given as text, in a URL or the environment, and sizes and files that write them with
units.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import typing
from collections.abc import Mapping
from typing import Any, Final

from cogcache._checks import nearest
from cogcache.exceptions import ConfigError, shown

__all__ = ["SECRET", "kind_of_secret", "option_field", "option_value", "size_bytes"]

SECRET: Final = "(set, not shown)"  # noqa: S105 - it is none

_BYTES_FIELDS: Final = frozenset(
    ("min_value_size", "max_value_size", "chunk_size", "slice_size", "size_threshold")
)
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtTpP]?)(i?)([bB]?)")
_YES: Final = ("true", "1", "yes", "on")
_NO: Final = ("false", "0", "no", "off")


def size_bytes(text: str, name: str) -> int:
    """Bytes of a size such as ``"50GB"``, ``"4MiB"`` or ``"4096"``.

    ``k``, ``M``, ``G``, ``T`` and ``P`` are powers of 1,000, with an ``i`` of 1,024.

    Args:
        text: The size.
        name: What it is of, for the message.

    Raises:
        ConfigError: It cannot be read.
    """
    found = _SIZE.fullmatch(text.strip()) if len(text) < 64 else None
    if found is None or (found[3] and not found[2]):
        raise ConfigError(f"{name}: cannot read the size {shown(text)}; write it like 50GB or 4MiB")
    power = " kmgtp".index(found[2].lower() or " ")
    unit: int = (1024 if found[3] else 1000) ** power
    return round(float(found[1]) * unit)


@functools.lru_cache(maxsize=32)
def _types(cls: type) -> Mapping[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def kind_of_secret(cls: type, name: str) -> bool:
    """Whether the option is never shown."""
    return any(f.name == name and not f.repr for f in dataclasses.fields(cls))


def option_field(cls: type, name: str, what: str) -> tuple[str, bool]:
    """The field of a configuration that an option means.

    Args:
        cls: The configuration, a dataclass.
        name: Of the option: a field, another name of one, or a field in ``_mb`` without that.
        what: What has the option, for the message.

    Returns:
        The name of the field, and whether the value needs a unit, since the option has none.

    Raises:
        ConfigError: There is no such option; the nearest one is named.
    """
    fields = _types(cls)
    aliases: Mapping[str, str] = getattr(cls, "ALIASES", {})
    if name in fields or name in aliases:
        return aliases.get(name, name), False
    if f"{name}_mb" in fields:
        return f"{name}_mb", True
    hint = nearest(name, {*fields, *aliases})
    raise ConfigError(f"unknown option {shown(name)} of {what}{hint}")


def option_value(cls: type, field: str, value: Any, *, text: bool, unit: bool = False) -> Any:
    """The value of an option as the configuration takes it.

    Args:
        cls: The configuration, a dataclass.
        field: The field.
        value: As it was given.
        text: Whether it is given where all is text, so that ``"5"`` may be a number; else only
            sizes are read.
        unit: Whether a size must say its unit.

    Raises:
        ConfigError: The text cannot be read as what the field takes.
    """
    is_size = field.endswith("_mb") or field in _BYTES_FIELDS
    if isinstance(value, str) and is_size and value not in _allowed(_types(cls)[field])[1]:
        return _size(field, value, unit=unit, number=text)
    if unit and not isinstance(value, str):
        name = field.removesuffix("_mb")
        raise ConfigError(f"{name} needs a text with a unit, such as '50GB'; {field} takes numbers")
    return _from_text(value, _types(cls)[field], field) if text else value


def _size(field: str, text: str, *, unit: bool, number: bool) -> Any:
    in_mb = field.endswith("_mb")
    if text.strip().lower() == "none" and number:
        return None
    if number and not unit:  # as the field counts: 10**6 bytes, or bytes
        for read in (int, float):
            try:
                return read(text)
            except ValueError:
                pass
    name = field.removesuffix("_mb") if unit else field
    size = size_bytes(text, name)
    if in_mb and re.fullmatch(r"[\d.\s]+", text):
        raise ConfigError(f"{name}: {shown(text)} needs a unit, such as {text.strip()}GB")
    if not in_mb:
        return size
    return size // 10**6 if size % 10**6 == 0 else size / 10**6


def _from_text(text: str, hint: Any, name: str) -> Any:
    """``text`` as what a type hint allows: the first of a word, a number or a text that fits."""
    allowed, words = _allowed(hint)
    low = text.strip().lower()
    if bool in allowed or False in words:
        if low in _YES and (bool in allowed or True in words):
            return True
        if low in _NO:
            return False
    if type(None) in allowed and low in ("none", ""):
        return None
    for kind in (int, float):
        if kind in allowed:
            try:
                read = kind(text)
            except ValueError:
                continue
            if math.isfinite(read):
                return read
    if str in allowed or any(isinstance(word, str) for word in words):
        return text  # the configuration checks it
    wanted = "a number" if {int, float} & allowed else "true or false"
    raise ConfigError(f"{name} must be {wanted}, not {shown(text)}")


def _allowed(hint: Any) -> tuple[set[Any], set[Any]]:
    """The plain types and the literal words of a type hint."""
    if typing.get_origin(hint) is typing.Literal:
        return set(), set(typing.get_args(hint))
    parts = typing.get_args(hint)
    if not parts:
        return {hint}, set()
    types: set[Any] = set()
    words: set[Any] = set()
    for part in parts:
        more_types, more_words = _allowed(part)
        types |= more_types
        words |= more_words
    return types, words
