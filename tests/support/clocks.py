"""A clock of tests."""

from __future__ import annotations


class StandingClock:
    """Seconds that stand until somebody sets ``now``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
