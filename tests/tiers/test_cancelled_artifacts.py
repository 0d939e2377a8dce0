"""Whatever is cancelled wherever it waits: values stay whole, nobody else is disturbed, nothing is
left behind.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import time
import types
import warnings
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import a_video, filesystem_cache
from support_pool import HANG_SECONDS, descriptors, leftovers, settle

from cogcache import PipelineArtifactCache, _bridge
from cogcache.backends.filesystem import FilesystemCacheBackend

FLAGS = dict.fromkeys(("extract_keyframes", "transcribe_audio", "generate_descriptions"), True)
OLD = {"text": "old " * 200_000}  # large enough to be left to the pool
NEW = {"text": "new " * 200_000}
METADATA = {"keyframes": [{"frame_id": n} for n in range(6)]}
PIXELS = np.random.default_rng(1).integers(0, 255, (6, 240, 320, 3), np.uint8)

Operation = Callable[[PipelineArtifactCache, Path], Coroutine[Any, Any, Any]]


async def _computed() -> Any:
    await asyncio.sleep(0)
    return NEW


async def _read_parts(cache: PipelineArtifactCache, video: Path) -> None:
    key = await cache.key("keyframes", video)
    async with cache.cache.open(key, "frame/3") as reader:
        assert reader is not None
        assert len([piece async for piece in reader.stream()]) >= 1


async def _streams(cache: PipelineArtifactCache, video: Path) -> None:
    await cache.cache.put_stream("stream", iter([os.urandom(3_000_000)] * 3))
    assert len([piece async for piece in cache.cache.get_stream("stream")]) >= 1


OPERATIONS: dict[str, Operation] = {
    "set": lambda cache, video: cache.set_transcript(video, NEW),
    "set frames": lambda cache, video: cache.set_keyframes(video, METADATA, list(PIXELS)),
    "get": lambda cache, video: cache.get_transcript(video),
    "get frames": lambda cache, video: cache.get_keyframes(video, load_images=True),
    "get all": lambda cache, video: cache.get_all_artifacts(video, FLAGS),
    "compute": lambda cache, video: cache.get_or_compute_transcript(video, _computed, refresh=True),
    "compute in a thread": lambda cache, video: cache.get_or_compute_descriptions(
        video, lambda: NEW, model_name="m"
    ),
    "explain": lambda cache, video: cache.explain("transcript", video, model_size="other"),
    "invalidate": lambda cache, video: cache.invalidate_video(video),
    "many": lambda cache, video: cache.cache.set_many({"a": OLD, "b": NEW}),
    "list": lambda cache, video: cache.cache.list_keys(include_metadata=True),
    "usage": lambda cache, video: cache.cache.usage(),
    "parts": _read_parts,
    "streams": _streams,
}


@types.coroutine
def _cancelled_at(work: Coroutine[Any, Any, Any], number: int) -> Generator[Any, Any, Any]:
    """``work``, whose task is cancelled when it waits for the n-th time."""
    step: Callable[[], Any] = functools.partial(work.send, None)
    awaits = 0
    while True:
        try:
            waited_for = step()
        except StopIteration as end:
            return end.value
        awaits += 1
        if awaits == number:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            step = functools.partial(work.send, (yield waited_for))
        except BaseException as error:
            step = functools.partial(work.throw, error)


async def _is_cancelled(work: Coroutine[Any, Any, Any], number: int) -> bool:
    async def run() -> None:
        await _cancelled_at(work, number)

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return task.cancelled()


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_wherever_it_waits(tmp_path: Path, name: str) -> None:
    video = a_video(tmp_path / "v.mp4", os.urandom(50_000))
    channel = _bridge._channels.of(asyncio.get_running_loop())
    await asyncio.to_thread(int)  # asyncio's own thread is there from now on
    was_cancelled, number = True, 0
    pictures = [b"\xff\xd8\xff" + os.urandom(50_000) for _ in range(6)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while was_cancelled and number < 10_000:
            number += 1 if number < 12 else number // 2  # a listing waits hundreds of times
            cache = filesystem_cache(tmp_path / str(number), identity="content", memo=False)
            (tier,) = cache.cache.backends
            assert isinstance(tier, FilesystemCacheBackend)
            assert await cache.set_transcript(video, OLD)
            assert await cache.set_keyframes(video, METADATA, pictures)
            settle()
            gc.collect()
            before, tasks = descriptors(), asyncio.all_tasks()
            was_cancelled = await _is_cancelled(OPERATIONS[name](cache, video), number)
            until = time.monotonic() + HANG_SECONDS
            while time.monotonic() < until:  # what it began beside itself ends by itself
                settle()
                channel.drain()
                await asyncio.sleep(0)
                gc.collect()
                # A thread that read the video for nobody notices that at its next block.
                if asyncio.all_tasks() == tasks and descriptors() <= before:
                    break
            assert asyncio.all_tasks() == tasks
            assert channel.pending == 0
            assert not cache.cache._computations.flights._flights
            assert descriptors() <= before
            assert leftovers(tier.root) == []
            gone = name == "invalidate"
            assert await cache.get_transcript(video) in ((OLD, None) if gone else (OLD, NEW))
            found = await cache.get_keyframes(video, load_images=True)
            assert (found is None and gone) or len(found[1]) == 6
            assert await cache.set_transcript(video, OLD)  # it can be used as before
            assert await cache.get_transcript(video) == OLD
            await cache.aclose()
            assert tier._store.in_flight == 0
    assert number > 1, "nothing was ever awaited: this test tests nothing"
    assert not was_cancelled, "it waits more often than this test cancels it"
