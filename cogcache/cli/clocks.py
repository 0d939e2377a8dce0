"""The part of ``doctor`` that compares this host's clock with those of the servers."""

from __future__ import annotations

import asyncio
from typing import Final

from cogcache.backends.base import CacheBackend
from cogcache.backends.clocks import ClockDifference
from cogcache.cli.findings import NOTE, OK, WARN, ClockFinding, Finding

__all__ = ["WARN_SECONDS", "clock_of"]

WARN_SECONDS: Final = 2.0  # clocks that NTP keeps are apart by a hundredth of that
_PRECISE_SECONDS: Final = 0.05
_REMEDY: Final = (
    "set the clocks of all hosts by NTP (timedatectl set-ntp true, chronyc tracking): "
    "lives, tags and signatures depend on them"
)


async def clock_of(tier: CacheBackend, about: str, seconds: float) -> Finding | None:
    """How this host's clock stands to that of the server of a tier; ``None`` where there is none.
    It is no failure that a server does not tell: whether the tier works is asked elsewhere.

    Args:
        tier: That nothing was asked of yet: after a refusal it would ask nothing more for a while.
        about: What the finding is about.
        seconds: How long to wait for an answer.
    """
    try:
        async with asyncio.timeout(seconds):
            known = await tier.clock_difference()
    except Exception as error:
        text = str(error) or type(error).__name__
        return Finding(NOTE, about, f"clocks were not compared: {text}")
    return None if known is None else _finding(known, about)


def _finding(known: ClockDifference, about: str) -> Finding:
    ahead, within = known.ahead_seconds, known.within_seconds
    digits = 3 if within < _PRECISE_SECONDS else 1
    side = "ahead of" if ahead >= 0 else "behind"
    found = (
        f"this host's clock is {abs(ahead):,.{digits}f} s {side} the server's, "
        f"give or take {within:.{digits}f} s"
    )
    off = abs(ahead) - within > WARN_SECONDS
    numbers = ClockFinding(round(ahead, 6), round(within, 6), WARN_SECONDS)
    return Finding(WARN if off else OK, about, found, _REMEDY * off, numbers)
