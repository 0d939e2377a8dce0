"""This host's clock beside that of a server."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ClockDifference", "clock_difference"]


@dataclass(frozen=True, slots=True)
class ClockDifference:
    """How far this host's clock is from a server's.

    Attributes:
        ahead_seconds: This host's less the server's; negative where it is behind.
        within_seconds: The truth is at most so far from that: the answer takes time, and S3 tells
            whole seconds.
    """

    ahead_seconds: float
    within_seconds: float


def clock_difference(
    asked: float, answered: float, earliest: float, latest: float
) -> ClockDifference:
    """What is known of two clocks, all in Unix seconds.

    Args:
        asked: This host's before the server was asked.
        answered: This host's after the answer.
        earliest: The server's in between, at least.
        latest: The server's in between, at most.
    """
    least, most = asked - latest, answered - earliest
    return ClockDifference((least + most) / 2, (most - least) / 2)
