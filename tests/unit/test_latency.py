"""How long reads take, as statistics tell it."""

from __future__ import annotations

import random

import pytest
from support_cache import BrokenTier, DictTier, manager_over

from cogcache.latency import Latency


def test_nothing_took_no_time() -> None:
    assert Latency().describe() == {"count": 0, "mean_ms": 0.0, "p50_ms": 0.0, "p99_ms": 0.0}


@pytest.mark.parametrize("scale", [1e-7, 3e-6, 1e-3, 1.0, 80.0])
def test_a_quantile_is_at_most_a_fifth_too_high(scale: float) -> None:
    latency = Latency()
    rng = random.Random(1)
    taken = sorted(scale * rng.uniform(1, 50) for _ in range(1000))
    for seconds in taken:
        latency.add(seconds)
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        exact = max(taken[max(0, round(1000 * share) - 1)], 1e-6)
        assert exact <= latency.quantile(share) <= exact * 1.2
    described = latency.describe()
    assert described["count"] == 1000
    assert described["mean_ms"] == pytest.approx(sum(taken))


def test_what_takes_for_ever_is_counted_too() -> None:
    latency = Latency()
    latency.add(1e9)
    latency.add(0.0)
    latency.add(-1.0)  # a clock that stepped
    assert latency.describe()["count"] == 3


async def test_statistics_tell_it_for_each_tier() -> None:
    upper, lower, broken = DictTier(), DictTier(), BrokenTier()
    manager = manager_over(upper, lower, broken)
    await lower.set("key", 1)
    await manager.get("key")
    await manager.get("absent")
    backends = (await manager.get_stats())["backends"]
    counts = [backends[tier.name]["reads"]["count"] for tier in manager.backends]
    assert counts[0] >= 2
    assert counts[1] == 2
    assert counts[2] == 0  # it never answered
    await manager.aclose()
