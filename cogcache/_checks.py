"""Checks of options and of numbers that a caller gives: each raises ``ConfigError`` with the field
and what it may be.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final

from cogcache.exceptions import ConfigError, shown

__all__ = ["choice", "flag", "is_text", "nearest", "number", "whole"]

LARGEST_SIZE_MB: Final = 1e12  # an exabyte


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


def whole(
    value: object, field_name: str, *, least: int = 0, most: int = 1 << 32, none: bool = True
) -> None:
    """``number`` for a count, or ``None`` unless that is not allowed."""
    number(value, field_name, least=least, most=most, none=none)
    if value is not None and not isinstance(value, int):
        raise ConfigError(f"{field_name} must be a whole number, not {shown(value)}")


def flag(value: object, field_name: str) -> None:
    """Raise ``ConfigError`` unless ``value`` is a bool."""
    if not isinstance(value, bool):
        raise ConfigError(f"{field_name} must be True or False, not {shown(value)}")


def is_text(value: object, text: str) -> bool:
    """Whether ``value`` is this very text, and nothing that only compares equal."""
    return isinstance(value, str) and value == text
