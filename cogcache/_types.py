"""Small value types shared by every layer: durations, and what lookups and stores report."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cogcache.exceptions import ConfigError, shown

Duration = float | int | timedelta | str
"""Seconds, a ``timedelta`` or text such as ``"7d"`` or ``"1d12h"``; 0 means never ends, ``None``
the default."""

NEVER_MS = (1 << 48) - 1
"""The freshness slot's word for "no end"; only this module and the tiers ever see it."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_TERM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")


def duration_seconds(value: Duration, field: str = "ttl") -> float:
    """Turn a duration into seconds.

    Args:
        value: Seconds as a number, a ``timedelta``, or text made of numbers with the units ``ms s m
            h d w``.
        field: The name used in error messages.

    Raises:
        TypeError: ``value`` is none of these types.
        ConfigError: It is negative, not finite, or text that cannot be read. (A ``ValueError``.)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta | str):
        raise TypeError(
            f"{field} must be seconds, a timedelta or text like '7d', not {type(value).__name__}"
        )
    if isinstance(value, str):
        seconds = _parse_duration(value, field)
    elif isinstance(value, timedelta):
        seconds = value.total_seconds()
    else:
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    hint = "; use 0 for an entry that never expires" if "ttl" in field else ""
    if not math.isfinite(seconds):
        raise ConfigError(f"{field} must be finite{hint}")
    if seconds < 0:
        raise ConfigError(f"{field} must not be negative (got {shown(value)}){hint}")
    return seconds


def _parse_duration(text: str, field: str) -> float:
    at, total = 0, 0.0
    stripped = text.strip()
    try:
        return float(stripped)
    except ValueError:
        pass
    while at < len(stripped):
        term = _TERM.match(stripped, at)
        if term is None:
            raise ConfigError(
                f"{field}: cannot read {shown(text)}; write it like '90s', '15m', '7d' or '1d12h'"
            )
        total += float(term.group(1)) * _UNITS[term.group(2)]
        at = term.end()
    if not stripped:
        raise ConfigError(f"{field}: an empty text is no duration; write it like '90s' or '7d'")
    return total


def duration_ms(value: Duration | None, default_ms: int | None, field: str = "ttl") -> int | None:
    """A life in milliseconds: ``None`` in takes the default, ``None`` out means that it never
    ends.
    """
    if value is None:
        return default_ms
    seconds = duration_seconds(value, field)
    if seconds == 0:
        return None
    return min(max(1, round(seconds * 1000)), NEVER_MS - 1)


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a look-up found, and why not if it did not.

    Attributes:
        hit: Whether a live value was found.
        value: The value, ``None`` on a miss (a stored ``None`` has ``hit`` true).
        tier: Name of the tier that answered, ``None`` on a miss.
        age_seconds: Since the entry's life began or was last refreshed.
        expires_at: Unix seconds of its end, ``None`` for never.
        stored_bytes: Size of the entry as it is stored.
        seconds_saved: What computing it once took, if that was recorded.
        reason: On a miss, one word for the cause: ``absent``, ``expired``, ``tag-invalidated``,
            ``damaged``, ``unavailable``, ``unsupported``, ``source-missing`` ...; ``hit``
            otherwise.
    """

    hit: bool
    value: Any = None
    tier: str | None = None
    age_seconds: float | None = None
    expires_at: float | None = None
    stored_bytes: int = 0
    seconds_saved: float = 0.0
    reason: str = "hit"

    def __bool__(self) -> bool:
        return self.hit


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What became of a value that was to be stored.

    Attributes:
        stored: Whether at least one tier has it or will get it, and every ``required`` one.
        reason: ``stored``, or the word for why not, of a required tier that failed or else of the
            first: ``no-space``, ``too-large``, ``read-only``, ``busy``, ``io-error``,
            ``unavailable``, ``source-changed``, ``source-missing``, ``failed-result`` ...
        tiers: Names of the tiers that have it.
        stored_bytes: Size of the entry as stored.
        later: Names of the tiers that get it in the background.
    """

    stored: bool
    reason: str = "stored"
    tiers: tuple[str, ...] = ()
    stored_bytes: int = 0
    later: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.stored


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a tier could not do.

    Attributes:
        tier: Its name.
        operation: ``read``, ``write``, ``delete``, ``list`` ...
        error: Kind and text of what happened.
        at: Unix seconds.
    """

    tier: str
    operation: str
    error: str
    at: float

    def describe(self) -> dict[str, Any]:
        """As plain data."""
        return {"operation": self.operation, "error": self.error, "at": self.at}
