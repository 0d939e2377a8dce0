"""Whatever is given for whatever argument: it works, or an error of ours says in few words what is
wrong; and nothing that was stored is lost.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import inspect
import traceback
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import a_video, filesystem_cache

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    Key,
    MemoryCacheConfig,
    PipelineArtifactCache,
    file_digest,
    register_type,
)
from cogcache.testing import memory_cache


class Odd:
    """Nothing that any argument takes."""


class Failing:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def strange() -> list[Any]:
    """Fresh every time: some are used up by whoever looks at them."""
    return [
        None, True, -1, 0, 2.5, float("nan"), float("inf"), 10**400, 10**5000,
        "", "x", "a\0b", "\ud800", "x" * 1_000_000, b"", b"x", bytearray(b"x"),
        [], [1], ["a"], [[]], {}, {"a": 1}, {1: 2}, (), {1}, iter([1]), range(3),
        Odd(), Odd, Failing(), object(), len, Path("no/such/path"), datetime.datetime(2026, 1, 1),
        np.zeros(3), np.zeros((0, 2)), np.float32(1), np.int64(5), 1j, Fraction(1, 3),
        asyncio.Event,
    ]  # fmt: skip


PICTURE = b"\xff\xd8\xffpicture"
METADATA = {"keyframes": [{"frame_id": 1}]}
FREE = {"revision": "r", "params": {"a": 1}}
KEPT = {"ttl": 5, "cost_seconds": 1.0, "tags": ["t"]}
FRAMES = {"strategy": "similarity", "threshold": 0.5, "max_frames": 5, "image_codec": "png"}
SEGMENT = {"segment_id": 1, "start_time": 0.0, "end_time": 1.0}
SEGMENTATION = {
    "strategy": "fixed",
    "segment_seconds": 6,
    "overlap_seconds": 1,
    "fps": 2,
    "max_frames": 12,
}
COMPUTE = {"gate": None, "refresh": True, "strict": True, "should_store": None, "executor": None}


def fields(config: type[Any], **given: Any) -> dict[str, Any]:
    return {**{f.name: f.default for f in dataclasses.fields(config)}, **given}


def calls_of_artifacts(cache: PipelineArtifactCache) -> dict[str, tuple[Any, dict[str, Any]]]:
    return {
        "video": (cache.video, {"config": {}, "source_id": None, "etag": None, "missing": "uri"}),
        "get_keyframes": (
            cache.get_keyframes,
            {**FRAMES, **FREE, "fps": None, "load_images": True, "frames": [1]},
        ),
        "set_keyframes": (
            cache.set_keyframes,
            {
                "keyframes_metadata": METADATA,
                "keyframe_images": [PICTURE],
                **FRAMES,
                **FREE,
                **KEPT,
                "channels": "bgr",
            },
        ),
        "get_or_compute_keyframes": (
            cache.get_or_compute_keyframes,
            {"compute": lambda: (METADATA, [PICTURE]), **FRAMES, **KEPT, **COMPUTE, "frames": [1]},
        ),
        "get_transcript": (cache.get_transcript, {"model_size": "b", "language": "en", **FREE}),
        "set_transcript": (
            cache.set_transcript,
            {"transcript_data": {}, "model_size": "b", "language": "en", **FREE, **KEPT},
        ),
        "get_descriptions": (
            cache.get_descriptions,
            {"model_name": "m", "batch_size": 5, "prompt": "p", "keyframes": None, **FREE},
        ),
        "set_embeddings": (
            cache.set_embeddings,
            {"embeddings_data": [1.0], "model_name": "m", "keyframes": None, "inputs": None},
        ),
        "get_embeddings": (
            cache.get_embeddings,
            {"model_name": "m", "inputs": None, "mode": "cow", "names": None},
        ),
        "set_segment_frames": (
            cache.set_segment_frames,
            {
                **SEGMENT,
                "frames": [PICTURE],
                "timestamps": [0.5],
                "sampling_fps": 2.0,
                "max_frames": 12,
                "channels": "bgr",
            },
        ),
        "get_segment_frames": (
            cache.get_segment_frames,
            {**SEGMENT, "sampling_fps": 2.0, "max_frames": 12, "load_images": True},
        ),
        "set_segmentation": (
            cache.set_segmentation,
            {"segmentation_data": {}, **SEGMENTATION, "transcript": None},
        ),
        "get_all_artifacts": (
            cache.get_all_artifacts,
            {"pipeline_config": {"transcribe_audio": True}, "load": ["transcript"]},
        ),
        "invalidate_video": (cache.invalidate_video, {}),
    }


def needed(pattern: Any) -> Any:
    """``None`` would clear everything."""
    return "" if pattern is None else pattern


def calls_of_the_manager(manager: CacheManager) -> dict[str, tuple[Any, dict[str, Any]]]:
    return {
        "get": (manager.get, {"key": "k"}),
        "set": (manager.set, {"key": "k", "value": 1, "ttl": 5}),
        "delete": (manager.delete, {"key": "k"}),
        "exists": (manager.exists, {"key": "k"}),
        "get_metadata": (manager.get_metadata, {"key": "k"}),
        "touch": (manager.touch, {"key": "k", "ttl": 5}),
        "clear": (
            lambda pattern: manager.clear(needed(pattern)),
            {"pattern": "other:*"},
        ),
        "list_keys": (manager.list_keys, {"pattern": "other:*", "include_metadata": True}),
        "lookup": (manager.lookup, {"key": "k", "mode": "cow", "frames": True}),
        "store": (
            manager.store,
            {"key": "k", "value": 1, **KEPT, "metadata": {"a": 1}, "content_type": "text/plain"},
        ),
        "get_or_compute": (
            manager.get_or_compute,
            {"key": "k", "compute": lambda: 1, "ttl": 5, **COMPUTE, "should_store": bool},
        ),
        "get_many": (manager.get_many, {"keys": ["k"]}),
        "set_many": (manager.set_many, {"items": {"k": 1}, "ttl": 5}),
        "invalidate_tags": (lambda tag: manager.invalidate_tags(tag), {"tag": "other"}),
        "put_stream": (manager.put_stream, {"key": "s", "source": b"abc", **KEPT}),
        "read_range": (manager.read_range, {"key": "s", "start": 0, "stop": 1}),
    }


def calls_that_make_something(place: Path) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Without the base path: a strange one may be a directory that it makes."""
    filesystem = fields(FilesystemCacheConfig, base_path=str(place / "made"))
    del filesystem["base_path"]
    return {
        "Key": (Key, {"profile": "p", "source": bytes(16), "artifact": "a", "params": {"a": 1}}),
        "CacheConfig": (CacheConfig, fields(CacheConfig, backends=[MemoryCacheConfig()])),
        "CacheManager": (CacheManager, {"config": {"backends": [{"backend_type": "memory"}]}}),
        "PipelineArtifactCache": (
            PipelineArtifactCache,
            {
                "cache_manager": memory_cache().cache,
                "ttl": 5,
                "profile": "p",
                "identity": "stat",
                "memo": True,
            },
        ),
        "MemoryCacheConfig": (MemoryCacheConfig, fields(MemoryCacheConfig)),
        "FilesystemCacheConfig": (
            lambda **options: FilesystemCacheConfig(str(place / "made"), **options),
            filesystem,
        ),
        "file_digest": (file_digest, {"path": str(place / "v.mp4")}),
        "register_type": (
            register_type,
            {"cls": Odd, "name": "tests.odd", "version": 1, "to_plain": str, "from_plain": str},
        ),
    }


async def answer(call: Callable[..., Any], named: dict[str, Any]) -> Exception | None:
    """What a call says to these arguments; None when it works."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = call(**named)
            if inspect.isawaitable(result):
                await asyncio.wait_for(result, 100)
        except Exception as error:
            return error
    return None


# What an argument is called in messages where that is not its own name.
CALLED = {
    "video_path": ("source",),
    "keyframe_images": ("image", "frame"),
    "keyframes_metadata": ("metadata", "$"),
    "transcript_data": ("$",),
    "embeddings_data": ("$",),
    "segmentation_data": ("$",),
    "value": ("$",),
    "tags": ("a tag",),
    "model_size": ("$.model",),
    "model_name": ("$.model",),
    "language": ("$.lang",),
    "pattern": ("key",),
    "frames": ("frame",),
    "config": ("CacheConfig",),
    "items": ("a key",),
    "params": ("$",),
    "cls": ("name",),
    "path": ("no such file",),
}


def is_clear(error: Exception, argument: str) -> bool:
    """Of one of the kinds that mean a mistake of the caller, short, naming the argument, and said
    by this package.
    """
    text = str(error).lower()
    if not any(name.lower() in text for name in (argument, *CALLED.get(argument, ()))):
        return False
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    return (
        isinstance(error, TypeError | ValueError | FileNotFoundError)
        and ("cogcache" in Path(raised_in).parts or raised_in == __file__)  # C has no frame
        and 10 < len(str(error)) < 400
    )


async def sweep(calls: dict[str, tuple[Any, dict[str, Any]]], **always: Any) -> None:
    unclear = []
    refused = 0
    for name, (call, good) in calls.items():
        assert await answer(call, {**always, **good}) is None, name
        for argument in (*always, *good):
            for value in strange():
                if callable(value) and argument in ("compute", "should_store"):
                    continue  # what the caller's own function says is the caller's
                error = await answer(call, {**always, **good, argument: value})
                refused += error is not None
                if error is not None and not is_clear(error, argument):
                    shown = type(value).__name__
                    unclear.append(f"{name}({argument}: {shown}): {error!r:.200}")
    assert not unclear, "\n".join(unclear)
    assert refused > 100, "it takes anything"


@pytest.mark.parametrize("kind", ["memory", "filesystem"])
async def test_wrong_arguments_of_artifacts_are_named_and_cost_nothing(
    kind: str, tmp_path: Path
) -> None:
    cache = memory_cache() if kind == "memory" else filesystem_cache(tmp_path / "cache")
    kept = a_video(tmp_path / "kept.mp4")
    assert await cache.set_transcript(kept, {"text": "kept"})
    await sweep(calls_of_artifacts(cache), video_path=a_video(tmp_path / "v.mp4"))
    assert await cache.get_transcript(kept) == {"text": "kept"}
    await cache.aclose()


@pytest.mark.parametrize("kind", ["memory", "filesystem"])
async def test_wrong_arguments_of_the_manager_are_named_and_cost_nothing(
    kind: str, tmp_path: Path
) -> None:
    cache = memory_cache() if kind == "memory" else filesystem_cache(tmp_path / "cache")
    manager = cache.cache
    assert await manager.set("kept", "value")
    await sweep(calls_of_the_manager(manager))
    assert await manager.get("kept") == "value"
    await cache.aclose()


async def test_wrong_options_are_named(tmp_path: Path) -> None:
    a_video(tmp_path / "v.mp4")
    await sweep(calls_that_make_something(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.mp4"]
