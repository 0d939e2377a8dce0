"""Work in batches: each is kept, a killed run is gone on with, and the whole is one entry."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from cogcache import (
    CogcacheWarning,
    PipelineArtifactCache,
    ValueTypeError,
)
from cogcache.testing import FakeClock

FRAMES = list(range(0, 100, 4))  # 25


class Model:
    """Describes frames, and remembers which it was asked for."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[list[Any]] = []
        self.fails_at = fails_at

    def describe(self, ids: list[Any]) -> dict[Any, str]:
        self.asked.append(ids)
        if len(self.asked) - 1 == self.fails_at:
            raise ConnectionError("the model is gone")
        return {one: f"frame {one}" for one in ids}

    async def describe_later(self, ids: list[Any]) -> dict[Any, str]:
        await asyncio.sleep(0)
        return self.describe(ids)


async def describe(
    cache: PipelineArtifactCache, video: Path, model: Any, ids: Any = FRAMES, **options: Any
) -> dict[Any, Any]:
    return await cache.get_or_compute_batched(
        "descriptions", video, ids, model, batch_size=10, model_name="m", **options
    )


async def names(cache: PipelineArtifactCache) -> list[str]:
    return sorted(one.key.artifact for one in (await cache.cache.select()).entries)


@pytest.mark.parametrize("later", [True, False])
async def test_it_is_computed_in_batches_and_kept_as_one(
    cache: PipelineArtifactCache, video: Path, later: bool
) -> None:
    model = Model()
    compute = model.describe_later if later else model.describe
    found = await describe(cache, video, compute)
    assert found == {one: f"frame {one}" for one in FRAMES}
    assert list(found) == FRAMES
    assert model.asked == [FRAMES[:10], FRAMES[10:20], FRAMES[20:]]
    assert await describe(cache, video, compute) == found
    assert await cache.get_descriptions(video, model_name="m") == found
    assert len(model.asked) == 3
    assert await names(cache) == ["descriptions"]


async def test_a_run_that_failed_is_gone_on_with(cache: PipelineArtifactCache, video: Path) -> None:
    failing, model = Model(fails_at=2), Model()
    with pytest.raises(ConnectionError):
        await describe(cache, video, failing.describe)
    assert await names(cache) == ["descriptions.part"] * 2
    assert await cache.get_descriptions(video, model_name="m") is None
    await describe(cache, video, model.describe)
    assert model.asked == [FRAMES[20:]]
    assert await names(cache) == ["descriptions"]


async def test_a_cancelled_run_keeps_what_it_had(cache: PipelineArtifactCache, video: Path) -> None:
    model = Model()
    stuck = asyncio.Event()

    async def hang(ids: list[Any]) -> dict[Any, str]:
        if len(model.asked) == 1:
            stuck.set()
            await asyncio.Event().wait()
        return model.describe(ids)

    running = asyncio.create_task(describe(cache, video, hang))
    await stuck.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await describe(cache, video, model.describe)
    assert model.asked == [FRAMES[:10], FRAMES[10:20], FRAMES[20:]]


def test_a_killed_run_is_gone_on_with(tmp_path: Path, video: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, json, os, signal, sys
        from cogcache import PipelineArtifactCache
        asked = []
        def describe(ids):
            if len(asked) == 2 and sys.argv[3] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            asked.append(ids)
            return {one: f"frame {one}" for one in ids}
        async def main():
            async with PipelineArtifactCache.open(sys.argv[1]) as cache:
                found = await cache.get_or_compute_batched(
                    "descriptions", sys.argv[2], list(range(25)), describe,
                    batch_size=10, model_name="m")
            print(json.dumps([len(found), asked]))
        asyncio.run(main())
    """)
    ends = [
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "c"), str(video), how],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for how in ("die", "live")
    ]
    assert ends[0].returncode == -signal.SIGKILL
    assert ends[1].returncode == 0, ends[1].stderr
    assert json.loads(ends[1].stdout) == [25, [list(range(20, 25))]]


async def test_ids_that_the_whole_lacks_are_added_to_it(
    cache: PipelineArtifactCache, video: Path
) -> None:
    model = Model()
    await describe(cache, video, model.describe, [1, 2])
    assert await describe(cache, video, model.describe, [3, 2]) == {3: "frame 3", 2: "frame 2"}
    assert model.asked == [[1, 2], [3]]
    whole = await cache.get_descriptions(video, model_name="m")
    assert whole == {1: "frame 1", 2: "frame 2", 3: "frame 3"}
    assert await describe(cache, video, model.describe, []) == {}
    assert len(model.asked) == 2


async def test_what_is_left_out_is_asked_for_again(
    cache: PipelineArtifactCache, video: Path
) -> None:
    model = Model()

    def without_twelve(ids: list[Any]) -> dict[Any, str]:
        return {one: text for one, text in model.describe(ids).items() if one != 12}

    found = await describe(cache, video, without_twelve)
    assert list(found) == [one for one in FRAMES if one != 12]
    assert await cache.get_descriptions(video, model_name="m") is None
    assert await describe(cache, video, model.describe) != found
    assert model.asked[3:] == [FRAMES[:10]]
    assert len(await cache.get_descriptions(video, model_name="m")) == 25


async def test_two_runs_at_once_compute_each_batch_once(
    cache: PipelineArtifactCache, video: Path
) -> None:
    model = Model()
    both = await asyncio.gather(
        describe(cache, video, model.describe_later), describe(cache, video, model.describe_later)
    )
    assert both[0] == both[1]
    assert sorted(map(tuple, model.asked)) == sorted(
        map(tuple, (FRAMES[:10], FRAMES[10:20], FRAMES[20:]))
    )


async def test_a_slow_run_takes_what_a_quick_one_has_finished(
    cache: PipelineArtifactCache, video: Path
) -> None:
    slow, quick = Model(), Model()
    go = asyncio.Event()

    async def wait(ids: list[Any]) -> dict[Any, str]:
        results = slow.describe(ids)
        await go.wait()
        return results

    first = asyncio.create_task(describe(cache, video, wait, FRAMES[:10] + FRAMES[20:]))
    while not slow.asked:
        await asyncio.sleep(0)
    other = asyncio.create_task(
        cache.get_or_compute_batched(
            "descriptions", video, FRAMES, quick.describe, batch_size=25, model_name="m"
        )
    )
    await other
    go.set()
    assert len(await first) == 15
    assert slow.asked == [FRAMES[:10]]


async def test_refresh_computes_all_anew(cache: PipelineArtifactCache, video: Path) -> None:
    model = Model()
    await describe(cache, video, model.describe)
    await describe(cache, video, model.describe, refresh=True)
    assert len(model.asked) == 6
    assert await names(cache) == ["descriptions"]


async def test_results_of_a_file_that_was_replaced_meanwhile_are_not_kept(
    cache: PipelineArtifactCache, video: Path
) -> None:
    model = Model()

    def replacing(ids: list[Any]) -> dict[Any, str]:
        if len(model.asked) == 1:
            video.write_bytes(b"another video")
        return model.describe(ids)

    assert len(await describe(cache, video, replacing)) == 25
    assert await cache.get_descriptions(video, model_name="m") is None
    assert "descriptions" not in await names(cache)


async def test_invalidation_reaches_the_batches(cache: PipelineArtifactCache, video: Path) -> None:
    failing, model = Model(fails_at=1), Model()
    with pytest.raises(ConnectionError):
        await describe(cache, video, failing.describe)
    assert await cache.invalidate_video(video) == 1
    await describe(cache, video, model.describe)
    assert len(model.asked) == 3


async def test_the_cost_of_the_whole_is_that_of_the_batches(
    cache: PipelineArtifactCache, video: Path
) -> None:
    model = Model(fails_at=2)
    with pytest.raises(ConnectionError):
        await describe(cache, video, model.describe, ttl="1h", tags=["mine"])
    parts = (await cache.cache.select(tags=["mine"])).entries
    assert len(parts) == 2
    model.fails_at = None
    await describe(cache, video, model.describe, ttl="1h", tags=["mine"])
    (one,) = (await cache.cache.select(tags=["mine"])).entries
    theirs = sum(part.cost_seconds for part in parts)
    assert one.cost_seconds >= theirs or one.cost_seconds == pytest.approx(theirs)
    assert one.expires_at is not None


async def test_the_gate_is_entered_for_each_batch(
    cache: PipelineArtifactCache, video: Path
) -> None:
    entered = 0

    class Gate:
        async def __aenter__(self) -> None:
            nonlocal entered
            entered += 1

        async def __aexit__(self, *_: object) -> None:
            pass

    await describe(cache, video, Model().describe, gate=Gate())
    assert entered == 3


async def test_a_bound_video_keeps_the_batch_size_of_its_configuration(
    cache: PipelineArtifactCache, video: Path
) -> None:
    bound = await cache.video(video, {"vlm_model": "m", "vlm_batch_size": 64})
    found = await bound.get_or_compute_batched(
        "descriptions", FRAMES, Model().describe, batch_size=10
    )
    assert await bound.get_descriptions() == found
    assert await cache.get_descriptions(video, model_name="m", batch_size=64) == found


async def test_a_result_that_cannot_be_stored_costs_nothing(
    cache: PipelineArtifactCache, video: Path
) -> None:
    def strange(ids: list[Any]) -> dict[Any, Any]:
        return {one: object() for one in ids}

    with pytest.warns(CogcacheWarning, match="not kept"):
        assert len(await describe(cache, video, strange)) == 25
    with pytest.raises(ValueTypeError):
        await describe(cache, video, strange, strict=True)


async def test_slips_are_named(cache: PipelineArtifactCache, video: Path) -> None:
    model = Model()
    for ids, error, words in (
        ("abc", TypeError, "ids must be"),
        ({1: 2}, TypeError, "ids must be"),
        (5, TypeError, "ids must be"),
        ([1, 1], ValueError, "there twice"),
        ([1.5], TypeError, "neither a text"),
        ([True], TypeError, "neither a text"),
    ):
        with pytest.raises(error, match=words):
            await describe(cache, video, model.describe, ids)
    with pytest.raises(ValueError, match="batch_size"):
        await cache.get_or_compute_batched(
            "embeddings", video, FRAMES, model.describe, batch_size=0, model_name="m"
        )
    with pytest.raises(TypeError, match="batches are for"):
        await cache.get_or_compute_batched("keyframes", video, FRAMES, model.describe)
    with pytest.raises(TypeError, match="did you mean 'model_name'"):
        await cache.get_or_compute_batched(
            "embeddings", video, FRAMES, model.describe, model_nam="m"
        )
    with pytest.raises(TypeError, match="must return a mapping"):
        await describe(cache, video, lambda ids: list(ids))
    with pytest.raises(ValueError, match="was not asked"):
        await describe(cache, video, lambda ids: {"other": 1})
    with pytest.raises(TypeError, match="compute must be"):
        await describe(cache, video, None)
    assert model.asked == []
    with pytest.raises(ValueError, match="those of batches"):
        cache.register_artifact("mine.part", {})


def test_the_blocking_face_computes_in_the_calling_thread(tmp_path: Path, video: Path) -> None:
    cache = PipelineArtifactCache.open(tmp_path / "c").sync
    threads = set()

    def compute(ids: list[int]) -> dict[int, int]:
        threads.add(threading.get_ident())
        return {one: one * one for one in ids}

    found = cache.get_or_compute_batched(
        "embeddings", video, range(5), compute, batch_size=2, model_name="m"
    )
    assert found == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}
    assert threads == {threading.get_ident()}
    with pytest.raises(TypeError, match="plain function"):
        cache.get_or_compute_batched(
            "embeddings", video, [9], Model().describe_later, model_name="m"
        )
    cache.aclose()


async def test_tags_count_from_when_it_was_begun(cache: PipelineArtifactCache, video: Path) -> None:
    async def compute(ids: list[Any]) -> dict[Any, str]:
        if ids == [3]:
            clock.advance(1)
            await cache.cache.invalidate_tags("model")
        return dict.fromkeys(ids, "old")

    clock = FakeClock(cache)
    named: dict[str, Any] = {"model_name": "vlm", "tags": ["model"], "batch_size": 1}
    old = dict.fromkeys([1, 2, 3], "old")
    make = cache.get_or_compute_batched
    assert await make("descriptions", video, [1, 2, 3], compute, **named) == old
    assert await cache.get_descriptions(video, "vlm") is None
