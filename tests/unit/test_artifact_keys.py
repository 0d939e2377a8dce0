"""What of a call is in the key of its artifact: K02 to K05 and K11 for every argument there is."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import a_video

from cogcache import Key, Keyframes, PipelineArtifactCache
from cogcache.artifacts import ARTIFACTS, REQUIRED
from cogcache.testing import memory_cache

OTHER = Key("", bytes(16), "keyframes", {})

# What each artifact must be told, and other values for every argument that it has.
NEEDED: dict[str, dict[str, Any]] = {
    "keyframes": {},
    "transcript": {},
    "descriptions": {"model_name": "Qwen2-VL"},
    "embeddings": {"model_name": "minilm"},
    "segment_frames": {"segment_id": 3, "start_time": 15.0, "end_time": 21.0},
    "segmentation": {
        "strategy": "fixed",
        "segment_seconds": 6,
        "overlap_seconds": 1,
        "fps": 2,
        "max_frames": 12,
    },
}
FREE: dict[str, list[Any]] = {
    "revision": ["", "main", "main ", "1", 1, True, 0, False, 0.5, b"1"],
    "params": [{"a": 1}, {"a": "1"}, {"a": True}, {"a": None}, {"a:b=": "c/d*"}, {"params": {}}],
}
OTHERS: dict[str, dict[str, list[Any]]] = {
    "keyframes": {
        "strategy": ["fps", "scene"],
        "threshold": [0.0, 0.5, np.float32(0.999), 1],
        "max_frames": [1, 2999],
        "image_codec": ["png", "jpeg:90"],
        **FREE,
    },
    "transcript": {
        "model_size": ["large", "Base", "b:a=s/e*"],
        "language": ["en", "fr", "None", "null"],
        **FREE,
    },
    "descriptions": {
        "model_name": ["Qwen/Qwen2-VL", "qwen2-vl"],
        "batch_size": [1, 100, 501],
        "keyframes": [Keyframes(threshold=0.5), Keyframes("fps", fps=2), OTHER],
        "prompt": ["", "in one word", "x" * 65, "x" * 66, "\u00e9", "e\u0301"],
        **FREE,
    },
    "embeddings": {
        "model_name": ["other"],
        "keyframes": [Keyframes(max_frames=5), OTHER],
        "inputs": [{"text": OTHER}, {"texts": OTHER}, {"text": OTHER, "more": OTHER}],
        **FREE,
    },
    "segment_frames": {
        "segment_id": [0, 4, "3"],
        "start_time": [0, 15.5],
        "end_time": [20.9, 22],
        "sampling_fps": [0.0, 1, Fraction(30000, 1001)],
        "max_frames": [11, 13],
        "image_codec": ["raw"],
        **FREE,
    },
    "segmentation": {
        "strategy": ["scene"],
        "segment_seconds": [5, 6.5],
        "overlap_seconds": [0, 2],
        "fps": [1, Fraction(30000, 1001)],
        "max_frames": [11],
        "transcript": [OTHER, "mine"],
        **FREE,
    },
}

# As they were first released. A key that changes here empties every cache there is.
PRINTED = {
    "keyframes": "max_frames=3000:strategy='similarity':threshold=0.999",
    "transcript": "lang='auto':model='base'",
    "descriptions": "batch_size=500:keyframes='{keyframes}':model='Qwen2-VL'",
    "embeddings": "keyframes='{keyframes}':model='minilm'",
    "segment_frames": "end_time=21:max_frames=12:sampling_fps=2:segment_id=3:start_time=15",
    "segmentation": "fps=2:max_frames=12:overlap=1:seg=6:strategy='fixed':transcript=null",
}


@pytest.fixture
def cache() -> PipelineArtifactCache:
    return memory_cache()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return a_video(tmp_path / "v.mp4")


def test_every_argument_has_other_values_here() -> None:
    by_fps = {"keyframes": {"fps"}}  # of another strategy; below
    assert {
        name: set(artifact.arguments()) - by_fps.get(name, set())
        for name, artifact in ARTIFACTS.items()
    } == {name: set(values) for name, values in OTHERS.items()}


@pytest.mark.parametrize("artifact", ARTIFACTS)
async def test_a_key_prints_what_it_was_made_of(
    cache: PipelineArtifactCache, video: Path, artifact: str
) -> None:
    keyframes = await cache.key("keyframes", video)
    key = await cache.key(artifact, video, **NEEDED[artifact])
    printed = PRINTED[artifact].format(keyframes=keyframes.digest.hex())
    assert str(key) == f"video:{key.source.hex()}:{artifact}:{printed}"
    assert len(key.source) == 16
    assert Key.parse(str(key)) == key


@pytest.mark.parametrize("artifact", ARTIFACTS)
async def test_a_default_is_the_same_named_or_left_out(
    cache: PipelineArtifactCache, video: Path, artifact: str
) -> None:
    plain = await cache.key(artifact, video, **NEEDED[artifact])
    defaults = {
        argument: parameter.default
        for argument, parameter in ARTIFACTS[artifact].arguments().items()
        if parameter.default is not REQUIRED
    }
    for argument, default in defaults.items():
        assert await cache.key(artifact, video, **NEEDED[artifact], **{argument: default}) == plain
    named = [*NEEDED[artifact].items(), *defaults.items()]
    for ordered in (named, named[::-1]):
        assert await cache.key(artifact, video, **dict(ordered)) == plain
    assert await cache.key(artifact, video, **NEEDED[artifact], params={}) == plain


@pytest.mark.parametrize("captured", [False, True], ids=["path", "captured"])
@pytest.mark.parametrize("artifact", ARTIFACTS)
async def test_any_other_value_of_any_argument_is_another_key(
    cache: PipelineArtifactCache, video: Path, artifact: str, captured: bool
) -> None:
    """Each against the default and all others, and the entry of one is no hit for another."""
    source = (await cache.video(video)).source if captured else video
    calls: list[dict[str, Any]] = [dict(NEEDED[artifact])]
    for argument, values in OTHERS[artifact].items():
        calls += [{**NEEDED[artifact], argument: value} for value in values]
    keys = [await cache.key(artifact, source, **named) for named in calls]
    again = [await cache.key(artifact, source, **named) for named in reversed(calls)]
    assert again == keys[::-1]
    for (one, left), (other, right) in itertools.combinations(zip(calls, keys, strict=True), 2):
        assert left != right and str(left) != str(right) and left.digest != right.digest, (
            one,
            other,
        )
    for number, named in enumerate(calls):
        assert (await cache.store(artifact, source, {"of": number}, **named)).stored
    metadata = {"load_images": False} if artifact in ("keyframes", "segment_frames") else {}
    for _ in range(2):
        for number, named in enumerate(calls):
            found = await cache.lookup(artifact, source, **metadata, **named)
            assert found.value == {"of": number}, named


@pytest.mark.parametrize(
    ("artifact", "argument"),
    [
        ("keyframes", "max_frames"),
        ("descriptions", "batch_size"),
        ("segment_frames", "segment_id"),
        ("segment_frames", "sampling_fps"),
        ("segmentation", "fps"),
    ],
)
async def test_a_number_is_its_value_whatever_its_type(
    cache: PipelineArtifactCache, video: Path, artifact: str, argument: str
) -> None:
    same = (30, 30.0, Fraction(30), np.int64(30), np.float32(30))
    source = (await cache.video(video)).source
    keys = {
        await cache.key(artifact, asked, **{**NEEDED[artifact], argument: value})
        for value in same
        for asked in (video, source)
    }
    assert len(keys) == 1


async def test_a_codec_is_one_key_however_it_is_spelled(
    cache: PipelineArtifactCache, video: Path
) -> None:
    for default in ("jpeg", "jpeg:95", "jpeg:095"):
        assert await cache.key("keyframes", video, image_codec=default) == await cache.key(
            "keyframes", video
        )
    assert "image_codec='jpeg%3A7'" in str(
        await cache.key("keyframes", video, image_codec="jpeg:07")
    )


async def test_zero_frames_a_second_is_not_the_default(
    cache: PipelineArtifactCache, video: Path
) -> None:
    rates = (None, 0.0, 1.0, 2, Fraction(30000, 1001), 29.97)
    keys = [await cache.key("keyframes", video, strategy="fps", fps=rate) for rate in rates]
    assert keys[0] == keys[2]  # one a second
    assert len(set(keys)) == len(rates) - 1
    with pytest.raises(ValueError, match="language must not be empty"):
        await cache.key("transcript", video, language="")


async def test_what_depends_on_keyframes_depends_on_all_that_they_depend_on(
    cache: PipelineArtifactCache, video: Path
) -> None:
    """K05: whatever changes the keyframes changes what was made from them."""
    parents = [Keyframes(threshold=0.5), Keyframes("fps", fps=2), Keyframes(max_frames=5)]
    for artifact in ("descriptions", "embeddings"):
        keys = {await cache.key(artifact, video, **NEEDED[artifact])}
        for parent in parents:
            named = {**NEEDED[artifact], "keyframes": parent}
            as_key = await cache.key(
                "keyframes",
                video,
                strategy=parent.strategy,
                threshold=parent.threshold,
                fps=parent.fps,
                max_frames=parent.max_frames,
            )
            key = await cache.key(artifact, video, **named)
            assert key == await cache.key(artifact, video, **{**named, "keyframes": as_key})
            keys.add(key)
        revised = await cache.key("keyframes", video, revision="2")
        keys.add(await cache.key(artifact, video, **{**NEEDED[artifact], "keyframes": revised}))
        assert len(keys) == 5
        other = a_video(video.with_name("other.mp4"), b"another")
        assert not keys & {await cache.key(artifact, other, **NEEDED[artifact])}
