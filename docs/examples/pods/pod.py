"""A pod: one process with a directory of its own, and the store that all pods share.

``open_cache`` is the part to read, and to copy. The pipeline is that of ``ingest/cached.py`` and
does not know how many machines there are.

The rest reports to whoever started the pod (``story.py``) what each stage did: a line of JSON on
standard output, upon which the pod waits for a line on standard input before it goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ingest.cached import ingest
from ingest.terminal import Teller
from ingest.watch import Reported

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    Keyframes,
    PipelineArtifactCache,
    S3CacheConfig,
    VideoCache,
)


def open_cache(directory: str | Path, bucket: str, endpoint_url: str) -> PipelineArtifactCache:
    """The cache of every pod: a directory of its own, then the bucket of all.

    Credentials come from the environment (``AWS_ACCESS_KEY_ID`` ...), as everywhere with S3.
    """
    manager = CacheManager(
        CacheConfig(
            [
                FilesystemCacheConfig(directory, max_size_mb=10_000),
                # "behind": a stage is done when its result lies in the directory. It is sent from
                # there in the background, by whichever process of the machine is alive.
                S3CacheConfig(
                    bucket, prefix="fleet", endpoint_url=endpoint_url, write_mode="behind"
                ),
            ]
        )
    )
    # "content": pods hold the same video at other paths, with other times of modification.
    return PipelineArtifactCache(manager, identity="content")


# --- what follows only serves to show what happens ------------------------------------------------

TIERS = {"FilesystemCacheBackend": "own disk", "S3Backend": "S3"}
SEND_SECONDS = 60


@dataclass(frozen=True)
class Job:
    """What a pod is to do.

    Attributes:
        directory: Its own.
        video: Where it has the video.
        bucket: Of the store.
        endpoint_url: Of the store.
        fps: Keyframes a second; ``None``: by similarity.
        settle: The stages after which it waits until all is sent, so that the requests that are
            shown with a stage are those of that stage. A pipeline of your own need not.
    """

    directory: str
    video: str
    bucket: str
    endpoint_url: str
    fps: float | None
    settle: tuple[str, ...]

    def __str__(self) -> str:
        return json.dumps(asdict(self))


class Meter:
    """Reads the statistics of the cache before and after a stage, and reports the difference."""

    def __init__(self, manager: CacheManager, stages: Reported, settle: tuple[str, ...]) -> None:
        self._manager = manager
        self._stages = stages
        self._settle = settle

    @asynccontextmanager
    async def stage(
        self, video: VideoCache, artifact: str, named: Mapping[str, Any]
    ) -> AsyncIterator[None]:
        """See ``ingest.cached.Watch``."""
        before = await self.look()
        begun = time.perf_counter()
        yield
        seconds = time.perf_counter() - begun
        if artifact in self._settle:
            await self._manager.flush(SEND_SECONDS)
        after = await self.look()
        hits = [tier for tier in TIERS if after[tier]["hits"] > before[tier]["hits"]]
        by = "computed" if artifact in self._stages.called else "".join(TIERS[t] for t in hits)
        await report("stage", stage=artifact, by=by, seconds=seconds, **moved(before, after))

    async def look(self) -> dict[str, Any]:
        """The statistics of all tiers."""
        stats = await self._manager.get_stats()
        tiers: dict[str, Any] = stats["backends"]
        return tiers


def moved(before: dict[str, Any] | None, after: dict[str, Any]) -> dict[str, Any]:
    """What went to the store and came from there between two looks at the statistics, or since the
    process began.

    Listing is left out: only ``get_stats`` itself does it, to say how much the store holds.
    """
    now = counters(after)
    if before is not None:
        now.subtract(counters(before))
    requests = {name: now.pop(name) for name in list(now) if "_" in name}
    return {
        **now,
        "requests": {name: n for name, n in requests.items() if n and not name.startswith("list_")},
        "waiting": after["S3Backend"]["queue"]["items"],
    }


def counters(tiers: dict[str, Any]) -> Counter[str]:
    """What the S3 tier of this process has done so far; names with ``_`` are requests."""
    store = tiers["S3Backend"]
    return Counter(
        received=store["bytes_in"],
        sent=store["bytes_out"],
        replicated=store["queue"]["sent"],
        **store["requests"],
    )


async def work(job: Job, stages: Any) -> None:
    """Live: open the cache, run the pipeline, end as one should."""
    reported = Reported(stages, Teller(sys.stderr))
    async with open_cache(job.directory, job.bucket, job.endpoint_url) as cache:
        manager = cache.cache
        meter = Meter(manager, reported, job.settle)
        # What a pod that was killed here has left is sent by itself; this only waits for it.
        await manager.flush(SEND_SECONDS)
        await report("opened", **moved(None, await meter.look()))
        path = Path(job.video)
        chosen = Keyframes(strategy="similarity", threshold=0.999)
        if job.fps is not None:
            chosen = Keyframes(strategy="fps", fps=job.fps)
        done = await ingest(await cache.video(path), path, reported, chosen, meter)
        values = {
            "keyframes": (done.keyframes, done.pictures),
            "transcript": done.transcript,
            "descriptions": done.descriptions,
            "embeddings": done.embeddings,
        }
        await report("done", values={name: fingerprint(value) for name, value in values.items()})


def fingerprint(value: Any) -> str:
    """Equal for equal results, whether they were computed or come from a tier."""
    digest = hashlib.sha256()

    def feed(item: Any) -> None:
        if isinstance(item, Mapping):
            for name in sorted(item, key=str):
                digest.update(f"{name}:".encode())
                feed(item[name])
        elif isinstance(item, list | tuple):
            for one in item:
                feed(one)
        elif isinstance(item, bytes | bytearray | memoryview):
            digest.update(item)
        elif hasattr(item, "tobytes"):
            digest.update(f"{item.dtype}{item.shape}".encode() + item.tobytes())
        else:
            digest.update(json.dumps(item).encode())
        digest.update(b";")

    feed(value)
    return digest.hexdigest()


_go_on = threading.Semaphore(0)


async def report(event: str, **about: Any) -> None:
    """Tell what happened, and wait until whoever listens says go on."""
    tell(event, **about)
    await asyncio.to_thread(_go_on.acquire)


def listen() -> None:
    """Hear when to go on; end at once when whoever started this pod is gone."""
    while heard := os.read(sys.stdin.fileno(), 1024):
        _go_on.release(len(heard))
    os._exit(1)


def tell(event: str, **about: Any) -> None:
    """One line of JSON."""
    print(json.dumps({"event": event, **about}), flush=True)


class Log(logging.Handler):
    """What the cache has to say goes the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        tell("log", text=record.getMessage())


def main(stages: Any) -> int:
    """Run the pod that the first argument describes, with these stages."""
    threading.Thread(target=listen, daemon=True).start()
    logging.getLogger("cogcache").addHandler(Log())
    given = json.loads(sys.argv[1])
    asyncio.run(work(Job(**{**given, "settle": tuple(given["settle"])}), stages))
    return 0


if __name__ == "__main__":
    from ingest import stages

    sys.exit(main(stages))
