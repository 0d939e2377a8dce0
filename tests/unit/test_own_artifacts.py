"""Artifacts of a user's own: registered once, and then like the others."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from cogcache import (
    REQUIRED,
    Key,
    Keyframes,
    KeyTypeError,
    MemoryCacheConfig,
    PipelineArtifactCache,
)

PARAMS = {"model": REQUIRED, "least_seconds": 0.5, "transcript": None, "seen": Keyframes()}


@pytest.fixture
def cache() -> PipelineArtifactCache:
    cache = PipelineArtifactCache.open(MemoryCacheConfig())
    cache.register_artifact("speakers", PARAMS, ttl="30d")
    return cache


async def test_it_is_found_by_every_argument(cache: PipelineArtifactCache, video: Path) -> None:
    await cache.store("speakers", video, ["a"], model="pyannote")
    for same in ({}, {"least_seconds": 0.5}, {"transcript": None}, {"seen": Keyframes()}):
        assert (await cache.lookup("speakers", video, model="pyannote", **same)).value == ["a"]
    for other in (
        {"least_seconds": 1},
        {"transcript": await cache.key("transcript", video)},
        {"seen": Keyframes("fps", fps=2)},
        {"revision": "2"},
        {"params": {"beam": 5}},
    ):
        assert not (await cache.lookup("speakers", video, model="pyannote", **other)).hit, other
    with pytest.raises(TypeError, match="missing argument 'model'"):
        await cache.lookup("speakers", video)
    with pytest.raises(TypeError, match="did you mean 'least_seconds'"):
        await cache.lookup("speakers", video, model="m", least_second=1)


async def test_it_depends_on_what_it_is_made_from(
    cache: PipelineArtifactCache, video: Path
) -> None:
    by_keyframes = await cache.key("speakers", video, model="m", seen=Keyframes("fps"))
    same = await cache.key("keyframes", video, strategy="fps")
    assert await cache.key("speakers", video, model="m", seen=same) == by_keyframes
    assert Key.parse(str(by_keyframes)) == by_keyframes


async def test_every_generic_verb_takes_it(cache: PipelineArtifactCache, video: Path) -> None:
    calls = 0

    async def compute() -> list[str]:
        nonlocal calls
        calls += 1
        return ["a", "b"]

    bound = await cache.video(video)
    for _ in range(3):
        assert await bound.get_or_compute("speakers", compute, model="m") == ["a", "b"]
        assert await cache.get_or_compute("speakers", video, compute, model="m") == ["a", "b"]
    assert calls == 1
    found = await bound.lookup("speakers", model="m")
    assert found.hit
    explained = await cache.explain("speakers", video, model="other")
    assert "model" in str(explained)
    counts = (await cache.get_cache_stats())["artifacts"]["speakers"]
    assert (counts["hits"], counts["sets"]) == (6, 1)
    plan = await cache.cache.select(artifact="speakers", params={"least_seconds": 0.5})
    assert plan.count == 1
    assert plan.entries[0].expires_at is not None
    assert round(plan.entries[0].expires_at - plan.entries[0].created_at) == 30 * 86400
    assert await cache.invalidate_video(video) == 1
    assert not (await cache.lookup("speakers", video, model="m")).hit


async def test_a_result_that_carries_an_error_is_not_kept(
    cache: PipelineArtifactCache, video: Path
) -> None:
    result = await cache.store("speakers", video, {"error": "no audio"}, model="m")
    assert (result.stored, result.reason) == (False, "failed-result")


async def test_it_travels_with_a_pickled_cache(tmp_path: Path, video: Path) -> None:
    cache = PipelineArtifactCache.open(tmp_path / "c")
    cache.register_artifact("speakers", PARAMS, ttl=60)
    await cache.store("speakers", video, ["a"], model="m")
    bound = await cache.video(video)
    for other in (pickle.loads(pickle.dumps(cache)), pickle.loads(pickle.dumps(bound)).cache):
        assert (await other.lookup("speakers", video, model="m")).value == ["a"]
        with pytest.raises(TypeError, match="missing"):
            await other.lookup("speakers", video)
        other.register_artifact("speakers", PARAMS, ttl=60)
        await other.aclose()
    await cache.aclose()


def test_the_same_again_is_nothing_new_and_another_is_refused(cache: PipelineArtifactCache) -> None:
    cache.register_artifact("speakers", dict(PARAMS), ttl="30d")
    for params, ttl in (({"model": REQUIRED}, "30d"), (PARAMS, None), (PARAMS, "31d")):
        with pytest.raises(ValueError, match="registered with other"):
            cache.register_artifact("speakers", params, ttl=ttl)


async def test_a_cache_beside_it_does_not_know_it(
    cache: PipelineArtifactCache, video: Path
) -> None:
    other = PipelineArtifactCache(cache.cache)
    with pytest.raises(ValueError, match="unknown artifact 'speakers'"):
        await other.lookup("speakers", video, model="m")
    with pytest.raises(ValueError, match="did you mean 'speakers'"):
        await cache.lookup("speaker", video, model="m")


@pytest.mark.parametrize(
    ("name", "params", "error", "words"),
    [
        ("transcript", {}, ValueError, "cogcache's own"),
        ("", {}, ValueError, ""),
        ("a\0b", {}, ValueError, "NUL"),
        (3, {}, TypeError, "string"),
        ("x", [("model", 1)], TypeError, "params must map"),
        ("x", {"a b": 1}, ValueError, "no name of an argument"),
        ("x", {3: 1}, ValueError, "no name of an argument"),
        ("x", {"ttl": 1}, ValueError, "another name"),
        ("x", {"revision": 1}, ValueError, "another name"),
        ("x", {"gate": 1}, ValueError, "another name"),
        ("x", {"model": {1, 2}}, KeyTypeError, "model"),
    ],
)
def test_what_cannot_be_registered_says_why(
    cache: PipelineArtifactCache, name: Any, params: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as raised:
        cache.register_artifact(name, params)
    assert words in str(raised.value)
    with pytest.raises(ValueError, match="ttl"):
        cache.register_artifact("x", {}, ttl=-1)


def test_the_blocking_face_registers_too(tmp_path: Path, video: Path) -> None:
    cache = PipelineArtifactCache.open(tmp_path / "c").sync
    cache.register_artifact("speakers", {"model": "m"})
    assert cache.store("speakers", video, ["a"]).stored
    assert cache.video(video).lookup("speakers").value == ["a"]
    cache.aclose()
