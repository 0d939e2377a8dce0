"""What a configuration says about the use of a tier: sizes, modes, deadlines, and its health."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from typing import Any

import pytest
from support_cache import BrokenTier, DictTier, HeldTier, PolicyConfig, manager_over

from cogcache import (
    CacheManager,
    CogcacheWarning,
    Fault,
    MemoryCacheConfig,
    PipelineArtifactCache,
)
from cogcache.config import CacheConfig
from cogcache.keys import key_bytes
from cogcache.testing import FakeClock

SMALL = b"s" * 100
LARGE = bytes(range(256)) * 400  # 102,400 bytes, and they do not compress to nothing


def tier_of(name: str, **policy: Any) -> DictTier:
    tier = DictTier(PolicyConfig(**policy))  # type: ignore[arg-type]
    tier.name = name
    tier.enable_compression = False
    return tier


class HangingTier(DictTier):
    """A tier that answers nothing."""

    def __init__(self, **policy: Any) -> None:
        super().__init__(PolicyConfig(**policy))  # type: ignore[arg-type]
        self.cancelled = 0

    async def _hang(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def read(self, key: bytes) -> Any:
        self.calls.append("read")
        await self._hang()

    async def write(self, what: Any, *, source: int = 0, kind: int = 0) -> str | None:
        self.calls.append("write")
        await self._hang()
        return None


async def test_a_value_goes_to_the_tiers_that_take_its_size() -> None:
    small = tier_of("small", max_value_size=50_000)
    large = tier_of("large", min_value_size=50_000)
    manager = manager_over(small, large)
    stored = await manager.store("a", SMALL)
    assert (stored.stored, stored.tiers) == (True, ("small",))
    stored = await manager.store("b", LARGE)
    assert (stored.stored, stored.tiers) == (True, ("large",))
    assert stored.stored_bytes > len(LARGE)
    assert small.counters["refused"] == large.counters["refused"] == 0
    assert await manager.get("a") == SMALL
    assert await manager.get("b") == LARGE
    await asyncio.gather(*manager._tiers.promotions.tasks)
    assert list(small.images) == [key_bytes("a")]  # promotion keeps to the sizes as well


async def test_a_single_tier_refuses_by_size_too() -> None:
    manager = manager_over(tier_of("only", max_value_size=50_000))
    stored = await manager.store("b", LARGE)
    assert (stored.stored, stored.reason) == (False, "too-large-for-tier")
    assert await manager.set("a", SMALL)
    batch = await manager.set_many({"c": SMALL, "d": LARGE})
    assert batch == {"c": True, "d": False}


async def test_a_value_that_outgrew_a_tier_leaves_no_older_one_there() -> None:
    small = tier_of("small", max_value_size=50_000)
    large = tier_of("large")
    manager = manager_over(small, large)
    assert await manager.set("key", SMALL)
    assert await manager.set("key", LARGE)
    assert await manager.get("key") == LARGE
    assert small.images == {}


async def test_a_tier_that_is_off_is_only_read() -> None:
    upper, lower = tier_of("upper", write_mode="off"), tier_of("lower")
    manager = manager_over(upper, lower)
    stored = await manager.store("key", SMALL)
    assert stored.tiers == ("lower",)
    assert await manager.get("key") == SMALL  # nor is it promoted
    await asyncio.gather(*manager._tiers.promotions.tasks)
    assert upper.images == {}
    upper.images.update(lower.images)
    lower.images.clear()
    assert await manager.get("key") == SMALL


async def test_a_required_tier_that_fails_fails_the_put_and_never_a_read() -> None:
    local, shared = tier_of("local"), HeldTier("shared", required=True)
    shared.word = "unavailable"
    manager = manager_over(local, shared)
    stored = await manager.store("key", SMALL)
    assert (stored.stored, stored.reason, stored.tiers) == (False, "unavailable", ("local",))
    assert await manager.set("key", SMALL) is False
    assert await manager.set_many({"key": SMALL}) == {"key": False}
    assert await manager.get("key") == SMALL
    shared.word = None
    assert await manager.set("key", SMALL) is True


async def test_a_value_too_small_for_a_required_tier_is_no_failure() -> None:
    manager = manager_over(tier_of("local"), tier_of("shared", required=True, min_value_size=5000))
    assert await manager.set("key", SMALL) is True


async def test_a_tier_that_hangs_is_left_after_its_deadline_and_then_not_asked() -> None:
    hanging, working = HangingTier(timeout_seconds=0.01), tier_of("working")
    hanging.name = "hanging"
    manager = manager_over(hanging, working)
    breaker = manager._tiers.guard(hanging).breaker
    assert breaker is not None
    breaker._clock = lambda: 1000.0  # no probe is due
    for _ in range(8):
        stored = await manager.store("key", SMALL)
        assert stored.tiers == ("working",)
        assert await manager.get("key") == SMALL
    assert hanging.cancelled == len(hanging.calls) == 5  # then its breaker is open
    health = (await manager.get_stats())["backends"]["hanging"]
    assert health["state"] == "degraded"
    assert health["breaker"]["state"] == "open"
    assert health["breaker"]["rejected"] > 0
    assert health["degraded_seconds"] >= 0
    assert "timeout_seconds = 0.01" in health["last_fault"]["error"]
    assert (await manager.get_stats())["backends"]["working"]["state"] == "works"


async def test_a_fault_is_told_to_hooks_counted_and_shown_until_the_tier_works_again() -> None:
    local, shared = tier_of("local"), BrokenTier()
    shared.name = "shared"
    manager = manager_over(local, shared)
    told: list[Fault] = []
    manager.on_fault(lambda fault: 1 / 0)  # a hook that fails hurts nobody
    manager.on_fault(told.append)
    assert await manager.set("key", SMALL)
    assert [(f.tier, f.operation) for f in told] == [("shared", "write")]
    assert "no route" in told[0].error
    health = (await manager.get_stats())["backends"]["shared"]
    assert (health["state"], health["errors"]) == ("degraded", 2)  # the statistics failed as well
    shared.note_works("write")
    shared.note_works("get_stats")
    assert shared.down_since is None


async def test_health_is_no_part_of_what_the_pipeline_gets(tmp_path: Path) -> None:
    manager = manager_over(tier_of("local"), BrokenTier())
    cache = PipelineArtifactCache(manager, identity="content")
    video = tmp_path / "v.mp4"
    video.write_bytes(b"video")
    assert await cache.set_transcript(video, {"text": "t"})
    assert await cache.get_transcript(video) == {"text": "t"}


async def test_a_delete_calls_off_the_promotion_of_its_key() -> None:
    upper, lower = HeldTier("upper"), tier_of("lower")
    upper.held = True
    manager = manager_over(upper, lower)
    await lower.put(lower.draft(key_bytes("key"), SMALL, ttl_ms=None))
    assert await manager.get("key") == SMALL
    assert len(manager._tiers.promotions.tasks) == 1
    await manager.delete("key")
    upper.let_go()
    assert manager._tiers.promotions.tasks == {}
    assert await manager.get("key") is None


async def test_a_put_calls_off_the_promotion_of_the_older_value() -> None:
    upper, lower = HeldTier("upper"), tier_of("lower")
    upper.held = True
    manager = manager_over(upper, lower)
    await lower.put(lower.draft(key_bytes("key"), "old", ttl_ms=None))
    assert await manager.get("key") == "old"
    assert len(manager._tiers.promotions.tasks) == 1
    putting = asyncio.create_task(manager.set("key", "new"))
    while manager._tiers.promotions.tasks:
        await asyncio.sleep(0)
    upper.let_go()
    assert await putting
    assert await manager.get("key") == "new"
    assert await upper.get("key") == "new"


# --- a scan and the hot set -----------------------------------------------------------------------


async def test_a_scan_does_not_push_out_what_is_used_often() -> None:
    lower = tier_of("lower")
    manager = CacheManager(CacheConfig([MemoryCacheConfig(max_size_mb=1)]))
    memory = manager.backends[0]
    manager._use([memory, lower])
    hot = [f"hot:{n}" for n in range(200)]
    cold = [f"cold:{n}" for n in range(4000)]
    for key in hot + cold:
        await lower.put(lower.draft(key_bytes(key), key.encode() * 200, ttl_ms=None))
    for key in hot:
        assert await manager.set(key, key.encode() * 20)
    for n, key in enumerate(cold):
        assert await manager.get(key) == key.encode() * 200
        if n % 20 == 0:
            await manager.get(hot[n // 20 % len(hot)])
    while manager._tiers.promotions.tasks:
        await asyncio.gather(*manager._tiers.promotions.tasks)
    still = [key for key in hot if not isinstance(await memory.fetch(key_bytes(key)), str)]
    assert len(still) == len(hot)
    assert manager.counters["promotions_deferred"] > 3000
    await manager.get(cold[-1])  # the second time it is in use
    while manager._tiers.promotions.tasks:
        await asyncio.gather(*manager._tiers.promotions.tasks)
    assert not isinstance(await memory.fetch(key_bytes(cold[-1])), str)


async def test_promotions_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogcache.promotion.LIMIT_BYTES", 150_000)
    upper, lower = HeldTier("upper"), tier_of("lower")
    upper.held = True
    manager = manager_over(upper, lower)
    for key in ("a", "b", "c"):
        await lower.put(lower.draft(key_bytes(key), LARGE, ttl_ms=None))
        assert await manager.get(key) == LARGE
    assert len(manager._tiers.promotions.tasks) == 1
    assert manager.counters["promotions_dropped"] == 2
    upper.let_go()
    await asyncio.gather(*manager._tiers.promotions.tasks)
    assert list(upper.images) == [key_bytes("a")]


async def test_a_value_with_little_life_left_ends_everywhere_when_it_ends() -> None:
    upper, lower = tier_of("upper"), tier_of("lower")
    manager = manager_over(upper, lower)
    clock = FakeClock(manager)
    await lower.put(lower.draft(key_bytes("key"), SMALL, ttl_ms=2000))
    assert await manager.get("key") == SMALL
    await asyncio.gather(*manager._tiers.promotions.tasks)
    assert upper.images == lower.images
    clock.advance(3)
    assert await manager.get("key") is None


# --- hosts that would share nothing ---------------------------------------------------------------


def test_stat_identity_with_a_remote_tier_is_warned_about_once_with_the_remedy() -> None:
    with pytest.warns(CogcacheWarning, match="identity='content'") as told:
        PipelineArtifactCache(manager_over(tier_of("local"), HeldTier()))
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PipelineArtifactCache(manager_over(tier_of("local"), HeldTier()), identity="content")
        PipelineArtifactCache(manager_over(tier_of("local")))
