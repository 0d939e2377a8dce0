"""Requests that are remembered: never one for another, and bounded."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_cache import a_video

from cogcache import Keyframes, SourceRef, requests
from cogcache.artifacts import ARTIFACTS, Artifact
from cogcache.requests import Request, RequestMemo, make_request
from cogcache.sources import capture
from cogcache.testing import memory_cache

SOURCE = SourceRef("file:///v.mp4", "stat", 5, 7)


def fresh(name: str, named: dict[str, Any], source: SourceRef = SOURCE) -> Request:
    return make_request("", ARTIFACTS[name], source, named, pinned=True)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of the requests that were made and not remembered."""
    calls: list[dict[str, Any]] = []

    def counted(
        profile: str, artifact: Artifact, source: SourceRef, named: Any, *, pinned: bool
    ) -> Request:
        calls.append(dict(named))
        return make_request(profile, artifact, source, named, pinned=pinned)

    monkeypatch.setattr(requests, "make_request", counted)
    return calls


def test_the_same_request_is_made_once(made: list[dict[str, Any]]) -> None:
    memo = RequestMemo()
    named = {"model_name": "m", "keyframes": Keyframes(max_frames=7), "batch_size": 3}
    first = memo.get("", ARTIFACTS["descriptions"], SOURCE, named)
    assert memo.get("", ARTIFACTS["descriptions"], SOURCE, dict(named)) is first
    assert len(made) == 1
    assert first == fresh("descriptions", named)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"params": {"x": 1}}, {"params": {"x": 2}}),
        ({"threshold": 1}, {"threshold": 1.0}),
        ({"threshold": 0.0}, {"threshold": -0.0}),
        ({"threshold": 1.0}, {"threshold": np.float64(1.0)}),
        ({"max_frames": 1}, {"max_frames": np.int64(1)}),
        ({"strategy": "fps", "fps": 2}, {"strategy": "fps", "fps": Fraction(2)}),
        ({"revision": "png"}, {"image_codec": "png"}),
        ({"threshold": 0.5}, {"threshold": 0.5, "max_frames": 4}),
    ],
)
def test_arguments_that_are_equal_in_python_are_told_apart(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    memo = RequestMemo()
    for named in (one, other, one, other):
        assert (
            memo.get("", ARTIFACTS["keyframes"], SOURCE, named).key == fresh("keyframes", named).key
        )


def test_what_may_change_is_looked_at_every_time(made: list[dict[str, Any]]) -> None:
    memo = RequestMemo()
    params = {"x": 1}
    before = memo.get("", ARTIFACTS["transcript"], SOURCE, {"params": params}).key
    chosen = {"model_name": "m", "keyframes": Keyframes(params=params)}
    described = memo.get("", ARTIFACTS["descriptions"], SOURCE, chosen).key
    params["x"] = 2
    assert memo.get("", ARTIFACTS["transcript"], SOURCE, {"params": params}).key != before
    assert memo.get("", ARTIFACTS["descriptions"], SOURCE, chosen).key != described
    assert len(made) == 4


def test_a_source_a_profile_and_an_artifact_have_requests_of_their_own() -> None:
    memo = RequestMemo()
    twin = SourceRef("file:///v.mp4", "stat", 5, 7)  # equal, but captured at another time
    keys = [
        memo.get("", ARTIFACTS["transcript"], SOURCE, {}),
        memo.get("", ARTIFACTS["transcript"], SourceRef("file:///w.mp4", "stat", 5, 7), {}),
        memo.get("p", ARTIFACTS["transcript"], SOURCE, {}),
        memo.get("", ARTIFACTS["keyframes"], SOURCE, {}),
    ]
    assert len({one.key for one in keys}) == 4
    assert memo.get("", ARTIFACTS["transcript"], twin, {}).source is twin


def test_a_refused_request_is_refused_every_time() -> None:
    memo = RequestMemo()
    for _ in range(2):
        with pytest.raises(ValueError, match="max_frames"):
            memo.get("", ARTIFACTS["keyframes"], SOURCE, {"max_frames": 0})
        with pytest.raises(ValueError, match="threshold"):
            memo.get("", ARTIFACTS["keyframes"], SOURCE, {"threshold": float("nan")})


def test_the_memo_is_bounded(made: list[dict[str, Any]]) -> None:
    memo = RequestMemo()
    for number in range(2 * requests.REQUESTS_KEPT + 10):
        memo.get("", ARTIFACTS["transcript"], SOURCE, {"model_size": f"m{number}"})
        assert len(memo._requests) <= requests.REQUESTS_KEPT
    memo.get("", ARTIFACTS["transcript"], SOURCE, {"model_size": f"m{number}"})
    assert len(made) == 2 * requests.REQUESTS_KEPT + 10


_plain = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(-2, 2), st.sampled_from(["", "1", "a"])
)


@given(st.lists(st.dictionaries(st.sampled_from(["revision", "params", "language"]), _plain)))
def test_a_remembered_request_is_the_one_that_would_be_made(calls: list[dict[str, Any]]) -> None:
    memo = RequestMemo()
    for named in calls + calls:
        try:
            expected = fresh("transcript", named)
        except (TypeError, ValueError) as error:
            with pytest.raises(type(error)):
                memo.get("", ARTIFACTS["transcript"], SOURCE, named)
        else:
            assert memo.get("", ARTIFACTS["transcript"], SOURCE, named) == expected


async def test_a_bound_video_follows_its_configuration(tmp_path: Path) -> None:
    path = a_video(tmp_path / "v.mp4")
    async with memory_cache() as cache:
        video = await cache.video(path, {"whisper_model": "base"})
        await video.set_transcript({"text": "base"})
        assert await video.get_transcript() == {"text": "base"}
        video.config["whisper_model"] = "large"
        assert await video.get_transcript() is None
        assert (await video.key("transcript")) == await cache.key(
            "transcript", capture(path), model_size="large"
        )


async def test_hits_that_wait_for_nothing_let_others_run(tmp_path: Path) -> None:
    """A task that only ever hits must not keep the loop to itself."""
    async with memory_cache() as cache:
        video = await cache.video(a_video(tmp_path / "v.mp4"))
        await video.set_transcript({"text": "hello"})
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        try:
            for _ in range(1000):
                assert await video.get_transcript() == {"text": "hello"}
        finally:
            beside.cancel()
        assert turns >= 10
