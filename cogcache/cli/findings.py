"""What ``doctor`` finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FAIL", "NOTE", "OK", "WARN", "ClockFinding", "Finding"]

OK: Final = "ok"
NOTE: Final = "note"
WARN: Final = "warn"
FAIL: Final = "fail"


@dataclass(frozen=True, slots=True)
class ClockFinding:
    """Two clocks, for programs.

    Attributes:
        ahead_seconds: This host's clock less the server's.
        within_seconds: The truth is at most so far from that.
        warn_seconds: Beyond this it is a warning.
    """

    ahead_seconds: float
    within_seconds: float
    warn_seconds: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: ``ok``, ``note``, ``warn`` (works, but) or ``fail``.
        about: What it is.
        found: How it is.
        remedy: What to do; ``""`` if nothing.
        clock: Of a comparison of clocks: its numbers.
    """

    state: str
    about: str
    found: str
    remedy: str = ""
    clock: ClockFinding | None = None
