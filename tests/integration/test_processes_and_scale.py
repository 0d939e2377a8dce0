"""What only shows over several processes, many entries or large values."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import DictTier, a_video, filesystem_cache, filesystem_manager, manager_over

from cogcache import Lookup, PipelineArtifactCache, _core
from cogcache.backends.base import META_USER
from cogcache.keys import key_bytes
from cogcache.testing import FakeClock

PIPELINE = """
import os, signal, sys
from cogcache import PipelineArtifactCache

cache, video, die_in = PipelineArtifactCache.open(sys.argv[1]), sys.argv[2], sys.argv[3]

def stage(name, value):
    def compute():
        if name == die_in:
            os.kill(os.getpid(), signal.SIGKILL)
        print("computed", name, flush=True)
        return value
    return compute

keyframes = ({"keyframes": [{"frame_id": 0}]}, {"0": b"\\xff\\xd8\\xff"})
cache.sync.get_or_compute_keyframes(video, stage("keyframes", keyframes))
cache.sync.get_or_compute_transcript(video, stage("transcript", {"segments": []}))
cache.sync.get_or_compute_descriptions(video, stage("descriptions", {"0": "x"}), model_name="vlm")
"""


def run_python(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=300
    )


def test_a_killed_run_computes_only_what_was_missing(tmp_path: Path) -> None:
    video = str(a_video(tmp_path / "v.mp4"))
    killed = run_python(PIPELINE, str(tmp_path / "c"), video, "descriptions")
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout.split() == ["computed", "keyframes", "computed", "transcript"]
    again = run_python(PIPELINE, str(tmp_path / "c"), video, "nowhere")
    assert again.stdout.split() == ["computed", "descriptions"], again.stderr
    assert run_python(PIPELINE, str(tmp_path / "c"), video, "nowhere").stdout == ""


async def test_an_invalidated_video_is_a_miss_in_every_process(tmp_path: Path) -> None:
    video = a_video(tmp_path / "v.mp4")
    cache = filesystem_cache(tmp_path / "c")
    await cache.set_transcript(video, {"segments": []})
    program = """
import sys
from cogcache import PipelineArtifactCache
cache = PipelineArtifactCache.open(sys.argv[1])
print(cache.sync.get_transcript(sys.argv[2]), flush=True)
sys.stdin.readline()
print(cache.sync.get_transcript(sys.argv[2]), flush=True)
"""
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "c"), str(video)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "{'segments': []}\n"
    assert await cache.invalidate_video(video) == 1
    out, _ = other.communicate("\n", timeout=300)
    assert out == "None\n"
    assert await cache.get_transcript(video) is None
    await cache.aclose()


async def test_keys_do_not_depend_on_the_process(tmp_path: Path) -> None:
    video = a_video(tmp_path / "v.mp4")
    program = """
import asyncio, sys
from cogcache import Keyframes
from cogcache.testing import memory_cache
key = asyncio.run(memory_cache(profile="p").key(
    "descriptions", sys.argv[1], model_name="m", params={"b": 1, "a": [1, 2]},
    keyframes=Keyframes("fps", fps=2)))
print(key)
"""
    printed = set()
    for seed in ("0", "1", "random"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", program, str(video)],
            capture_output=True,
            text=True,
            env=env,
            timeout=300,
        )
        printed.add(done.stdout)
    assert len(printed) == 1 and printed.pop().startswith("p:video:")


async def test_all_artifacts_are_asked_for_at_once(tmp_path: Path) -> None:
    class Slow(DictTier):
        """Answers only when four questions are waiting."""

        waiting = 0
        together = asyncio.Event()

        async def read(self, key: bytes) -> Any:
            Slow.waiting += 1
            if Slow.waiting == 4:
                Slow.together.set()
            await asyncio.wait_for(Slow.together.wait(), 300)
            return await super().read(key)

    cache = PipelineArtifactCache(manager_over(Slow()))
    config = {
        "extract_keyframes": True,
        "transcribe_audio": True,
        "generate_descriptions": True,
        "generate_embeddings": True,
        "embedding_model": "m",
    }
    artifacts = await cache.get_all_artifacts(a_video(tmp_path / "v.mp4"), config)
    assert len(artifacts.missing(config)) == 4


async def test_ten_thousand_embeddings(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(10_000, 768)).astype(np.float32)
    manager = filesystem_manager(tmp_path / "c")
    one = await manager.store("all", vectors)
    assert one.stored_bytes <= 3200 * 10_000
    assert np.array_equal(await manager.get("all"), vectors)
    items = {f"embedding:{n}": vectors[n] for n in range(10_000)}
    stored = await manager.set_many(items)
    assert all(stored.values()) and len(stored) == 10_000
    got = await manager.get_many(items)
    assert list(got) == list(items)
    assert all(np.array_equal(got[name], items[name]) for name in items)
    listed = await manager.list_keys("embedding:*")
    assert len(listed) == 10_000
    await manager.aclose()


async def test_metadata_is_read_without_the_value(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path / "c")
    vector = np.ones(5_000_000, np.float32)
    about = {
        "title": "x",
        "platforms": ["a"],
        "updated_at": "2026-11-21T12:00:00+00:00",
        "popularity_rank": 42,
    }
    await manager.store("vector", vector, metadata=about)
    before = (await manager.get_stats())["backends"]["FilesystemCacheBackend"].get("read_bytes", 0)
    metadata = await manager.get_metadata("vector")
    assert metadata is not None
    assert metadata["user"] == about
    assert metadata["raw_bytes"] >= vector.nbytes
    after = (await manager.get_stats())["backends"]["FilesystemCacheBackend"].get("read_bytes", 0)
    assert after == before
    sizes: list[int] = []
    entry = await manager.backends[0].fetch(key_bytes("vector"))
    assert isinstance(entry, _core.Entry)
    image = entry.tobytes()

    def read(offset: int, size: int) -> bytes:
        sizes.append(size)
        return image[offset : offset + size]

    remote = _core.Entry.from_reader(len(image), read)
    assert remote.meta[META_USER] == about
    assert len(sizes) == 1 and sizes[0] <= 65_536
    await manager.aclose()


@pytest.mark.parametrize("size", [0, 1, 100_000, 20_000_000])
async def test_values_of_every_size(tmp_path: Path, size: int) -> None:
    manager = filesystem_manager(tmp_path / "c")
    value = os.urandom(size)
    assert await manager.set("value", value)
    assert await manager.get("value") == value
    await manager.aclose()


@pytest.mark.torture
async def test_a_gigabyte(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path / "c")
    value = os.urandom(1 << 20) * 1024
    assert await manager.set("value", value)
    assert await manager.get("value") == value
    await manager.aclose()


async def test_a_life_begins_anew_without_touching_the_bytes(tmp_path: Path) -> None:
    manager = filesystem_manager(tmp_path / "c")
    clock = FakeClock(manager)
    data = os.urandom(100_000)
    await manager.set("key", data, ttl=100)
    first = await manager.lookup("key")
    for _ in range(50):
        clock.advance(60)
        assert await manager.touch("key")
    found: Lookup = await manager.lookup("key")
    assert found.value == data
    assert found.stored_bytes == first.stored_bytes
    clock.advance(99)
    assert await manager.exists("key")
    clock.advance(2)
    assert not await manager.exists("key")
    assert not await manager.touch("key")
    assert not await manager.touch("absent")
    await manager.aclose()


async def test_compressed_and_plain_entries_are_read_alike(tmp_path: Path) -> None:
    text = {"text": "the same words again and again " * 2000}
    sizes = []
    for flag, key in ((True, "a"), (False, "b")):
        manager = filesystem_manager(tmp_path / "c", enable_compression=flag)
        sizes.append((await manager.store(key, text)).stored_bytes)
        await manager.aclose()
    assert sizes[0] * 10 < sizes[1]
    for flag in (True, False):
        manager = filesystem_manager(tmp_path / "c", enable_compression=flag)
        assert await manager.get_many(["a", "b"]) == {"a": text, "b": text}
        await manager.aclose()


async def test_multi_vector_frames_are_exact_in_both_precisions(tmp_path: Path) -> None:
    import ml_dtypes

    manager = filesystem_manager(tmp_path / "c")
    bits = np.random.default_rng(2).integers(0, 1 << 16, (150, 1024, 320), np.uint16)
    for array in (bits.view(ml_dtypes.bfloat16), bits[:40].astype(np.float32)):
        assert await manager.set("frames", array)
        got = await manager.get("frames")
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        assert np.array_equal(got.view(np.uint16), array.view(np.uint16))
        assert got.flags.writeable
    await manager.aclose()
