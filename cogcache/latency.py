"""How long calls take: counts by duration, of which quantiles can be told at any time."""

from __future__ import annotations

import math
from typing import Any, Final

__all__ = ["Latency"]

_STEPS: Final = 4  # to a doubling: a quantile is at most a fifth too high
_LEAST_SECONDS: Final = 1e-6
_BUCKETS: Final = 32 * _STEPS  # up to an hour


class Latency:
    """Durations of calls since the beginning. Adding one is quick; from several threads at once one
    may get lost.
    """

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._total = 0.0

    def add(self, seconds: float) -> None:
        """Count a call."""
        bucket = int(math.log2(max(seconds, _LEAST_SECONDS) / _LEAST_SECONDS) * _STEPS)
        self._counts[min(bucket, _BUCKETS - 1)] += 1
        self._total += seconds

    def quantile(self, share: float) -> float:
        """Seconds that this share of the calls took at most, rounded up by a fifth at most."""
        counts = list(self._counts)
        left = math.ceil(sum(counts) * share)
        for bucket, count in enumerate(counts):
            left -= count
            if left <= 0 and count:
                return _LEAST_SECONDS * math.exp2((bucket + 1) / _STEPS)
        return 0.0

    def describe(self) -> dict[str, Any]:
        """``count``, ``mean_ms``, ``p50_ms`` and ``p99_ms``, for ``get_stats``."""
        count = sum(self._counts)
        return {
            "count": count,
            "mean_ms": self._total / count * 1000 if count else 0.0,
            "p50_ms": self.quantile(0.5) * 1000,
            "p99_ms": self.quantile(0.99) * 1000,
        }
