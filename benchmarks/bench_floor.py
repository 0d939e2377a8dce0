"""cogcache beside the floor: a C program that makes the same system calls and takes the same
checksums, and does nothing else (``benchmarks/system_calls.c``).

Run alone with ``python -m benchmarks.bench_floor``; ``--quick`` for a look, ``--write`` to replace
the table in ``docs/benchmarks.md``.

Floor and cogcache take turns, block by block in random order inside one process, on the same files
or on files that were stored in the same way a moment ago, and **a ratio compares blocks of the same
round**. Before each block that stores something the memory it will need is touched, and nothing is
deleted while anything is timed (see ``bench_artifacts``). Values are let go at once on both sides.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import os
import platform
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_artifacts import (
    ROOT,
    SETTLED,
    Cell,
    human_time,
    machine,
    replace_between,
    touch_memory,
)
from cogcache import CacheManager, FilesystemCacheConfig, Key, PipelineArtifactCache, _core

BEGIN, END = "<!-- floor benchmark: begin -->", "<!-- floor benchmark: end -->"
ARRAY, ARRAYS = 10_000_000, 4  # bytes of one, and how many a block stores
FRAMES, FRAME = 200, 50_000
VERIFIED_ENTRIES = 20_000
STREAMED = 1 << 30
VERDICT = {True: "met", False: "**missed**"}
FIELDS = {"model": "whisper-large-v3", "language": "en", "beam_size": 5, "temperature": 0.5}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: What is done.
        goal: How many times the floor it may take.
        miss: Why it may take more, for the list of what misses.
    """

    name: str
    goal: float
    miss: str


INLINE = (
    "a call into Python, the name of the entry (XXH3 of its key), and a new `bytes` for the value, "
    "beside a floor of system calls into one buffer that is there already"
)
VERIFIED = (
    "the directories are listed, the indexes of the entries parsed, and the batches go to threads "
    "and back"
)
HELD = (
    "all values are held at once: 4 MB of new memory, which the kernel clears page by page at "
    "every call (a quarter to a half of the floor's time), where the floor reads into one buffer; "
    "the rest is that of a hit, without a call into Python for each"
)
MAPPED = (
    "an array is made of the map, of its document and of two objects that keep it alive; the index "
    "is kept, so a hit reads no more of the file than freshness and footer"
)
FRAME_OUT = (
    "two calls of coroutines in Python and new `bytes` for the frame, beside a floor of system "
    "calls into one buffer; index and key are kept, so a hit reads freshness, footer and frame"
)
WRITE = (
    "beside the floor's four system calls a put makes eight short ones, 8 µs: the lock of its "
    "shard and its release (2.5), charge of the directory (2.2), free space (1), state of the new "
    "file and of the index (1.5), the token of the write and the process (0.9); head, metadata and "
    "checksums of the container, 3 µs; and the way from `set` to the store, 5 µs of Python that "
    "become 10 to 12 where the system calls have emptied the caches before it"
)
AWAITED = (
    "two hand-overs between threads, so that the loop never waits for a disk: a sleeping thread "
    "takes 4 to 9 µs to run where the host keeps the processor awake, 25 to 40 where it does not, "
    "and to wake it takes the other one 5, both twice; two rounds of the event loop, 12 µs; and a "
    "thread that has not seen the value writes it 8 µs more slowly. The rest is that of a blocking "
    "put"
)
OBJECT = (
    "the arguments pass through the call of a class, and the object holds its seven fields; the "
    "encoding is the row below"
)
ENCODING = (
    "values are told apart, checked and brought to one form, where the floor knows its fields; and "
    "profile, source and artifact are in it"
)
ROWS = {
    "key": Row("key of 4 fields (`Key`)", 2.0, OBJECT),
    "encode": Row("key of 4 fields, encoding and digest", 2.0, ENCODING),
    "hit 4": Row("hit of 4 KB, awaited", 1.5, INLINE),
    "hit 50": Row("hit of 50 KB, awaited", 1.5, INLINE),
    "first 10": Row("first hit of a 10 MB array, verified, awaited", 1.2, MAPPED),
    "again 10": Row("the same again (floor: mapped, not read)", 2.0, MAPPED),
    "put 4": Row("put of 4 KB, blocking", 1.4, WRITE),
    "put 50": Row("put of 50 KB, blocking", 1.4, WRITE),
    "put 10": Row("put of a 10 MB array, blocking", 1.4, WRITE),
    "aput 4": Row("put of 4 KB, awaited", 1.4, AWAITED),
    "aput 50": Row("put of 50 KB, awaited", 1.4, AWAITED),
    "aput 10": Row("put of a 10 MB array, awaited", 1.4, AWAITED),
    "verify": Row("`verify` of entries of 4 KB, processor time for each", 1.5, VERIFIED),
    "many": Row("`get_many` of 1,000 x 4 KB, awaited", 1.5, HELD),
    "frame": Row("a frame of 50 KB out of a container of 10 MB (`get_frame`)", 1.5, FRAME_OUT),
}


def build_floor(folder: Path) -> Any:
    """Compile ``system_calls.c`` for this machine and load it."""
    target = folder / "system_calls.so"
    tool = shlex.split(os.environ.get("PKG_CONFIG") or "pkg-config")
    try:
        found = subprocess.run([*tool, "--cflags", "libxxhash"], capture_output=True, text=True)
        flags = shlex.split(found.stdout) if found.returncode == 0 else []
    except OSError:
        flags = []
    include = sysconfig.get_path("include")
    flags += ["-march=native"] if platform.machine() == "x86_64" else []
    link = shlex.split(sysconfig.get_config_var("LDSHARED"))
    source = ROOT / "benchmarks" / "system_calls.c"
    subprocess.run(
        [*link, "-std=gnu11", "-O3", "-fPIC", f"-I{include}", *flags, source, "-o", target],
        check=True,
    )
    spec = importlib.util.spec_from_file_location("system_calls", target)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Bench:
    """The cache, the floor's own folder, and what was taken.

    Args:
        folder: Empty; both write into it.
        quick: Few rounds and short blocks.

    Attributes:
        floor: The C program, see ``benchmarks/system_calls.c``.
        shrink: By how much blocks are shorter than they should be.
    """

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder = folder
        self.rounds = 3 if quick else 21
        self.shrink = 10 if quick else 1
        self.floor = build_floor(folder)
        self.cache = CacheManager(
            {"backends": [FilesystemCacheConfig(folder / "cache", max_size_mb=8_000)]}
        )
        self.objects = os.open(folder / "cache" / "v1" / "objects", os.O_RDONLY)
        (folder / "floor").mkdir()
        for shard in range(256):
            (folder / "floor" / f"{shard:02x}").mkdir()
        self.plain = os.open(folder / "floor", os.O_RDONLY)
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._random = random.Random(1)
        self._names = 0

    async def close(self) -> None:
        await self.cache.aclose()
        os.close(self.objects)
        os.close(self.plain)

    def names(self, count: int) -> list[str]:
        """New names."""
        self._names += count
        return [f"name-{number}" for number in range(self._names - count, self._names)]

    def paths(self, names: Sequence[str]) -> list[str]:
        """Where the cache keeps these."""
        digests = (_core.hash128(_core.raw_key(name)).hex() for name in names)
        return [f"{digest[:2]}/{digest[2:]}" for digest in digests]

    async def turns(self, row: str, floor: Callable[[], Any], ours: Callable[[], Any]) -> None:
        """One block of each, in random order; both give seconds for one operation."""
        sides = [("floor", floor), ("cogcache", ours)]
        for side, work in self._random.sample(sides, 2):
            taken = work()
            self.seconds[row, side].append(await taken if asyncio.iscoroutine(taken) else taken)

    # --- the blocks -------------------------------------------------------------------------------

    async def put(self, value: Any, names: list[str]) -> float:
        began = time.perf_counter()
        for name in names:
            assert await self.cache.set(name, value)
        return (time.perf_counter() - began) / len(names)

    def put_blocking(self, value: Any, names: list[str]) -> float:
        put = self.cache.sync.set
        began = time.perf_counter()
        for name in names:
            assert put(name, value)
        return (time.perf_counter() - began) / len(names)

    def put_floor(self, data: Any, names: list[str]) -> float:
        paths = [f"{number % 256:02x}/{name}" for number, name in enumerate(names)]
        return float(self.floor.put(self.plain, paths, data)) / len(names)

    async def hit(self, names: list[str], times: int) -> float:
        get = self.cache.get
        began = time.perf_counter()
        for _ in range(times):
            for name in names:
                await get(name)
        return (time.perf_counter() - began) / (times * len(names))

    def hit_floor(self, names: list[str], times: int) -> float:
        taken = self.floor.hit(self.objects, self.paths(names), times)
        return float(taken) / (times * len(names))

    def map_floor(self, names: list[str], times: int, checked: bool) -> float:
        taken = self.floor.map(self.objects, self.paths(names), times, checked)
        return float(taken) / (times * len(names))

    # --- the rows ---------------------------------------------------------------------------------

    async def keys(self) -> None:
        source, count = os.urandom(16), 20_000 // self.shrink
        floor, encode, digest = self.floor.key, _core.encode_key, _core.hash128

        def bare() -> float:
            began = time.perf_counter()
            for _ in range(count):
                floor(FIELDS)
            return (time.perf_counter() - began) / count

        def objects() -> float:
            began = time.perf_counter()
            for _ in range(count):
                Key("default", source, "transcript", FIELDS)
            return (time.perf_counter() - began) / count

        def encoded() -> float:
            began = time.perf_counter()
            for _ in range(count):
                digest(encode("default", source, "transcript", FIELDS))
            return (time.perf_counter() - began) / count

        for _ in range(self.rounds):
            await self.turns("key", bare, objects)
            await self.turns("encode", bare, encoded)

    async def small_hits(self) -> None:
        for row, size, times in (("hit 4", 4096, 200), ("hit 50", FRAME, 100)):
            names, times = self.names(100), max(1, times // self.shrink)
            await self.put(os.urandom(size), names)
            await self.hit(names, 2)
            for _ in range(self.rounds):
                await self.turns(
                    row,
                    partial(self.hit_floor, names, times),
                    partial(self.hit, names, times),
                )

    async def many(self) -> None:
        names, times = self.names(1000), max(1, 10 // self.shrink)
        await self.put(os.urandom(4096), names)
        assert len(await self.cache.get_many(names)) == len(names)

        async def ours() -> float:
            began = time.perf_counter()
            for _ in range(times):
                await self.cache.get_many(names)
            return (time.perf_counter() - began) / times

        for _ in range(self.rounds):
            await self.turns("many", lambda: 1000 * self.hit_floor(names, times), ours)

    async def small_puts(self) -> None:
        for row, size, count in (("put 4", 4096, 200), ("put 50", FRAME, 100)):
            value, count = os.urandom(size), count // min(4, self.shrink)
            for _ in range(self.rounds):
                for form, put in ((row, self.put_blocking), ("a" + row, self.put)):
                    touch_memory(size * count * 3, self.folder / "scratch")
                    names, others = self.names(count), self.names(count)
                    await self.turns(
                        form,
                        partial(self.put_floor, value, others),
                        partial(put, value, names),
                    )

    async def arrays(self) -> None:
        """Puts of arrays, and their first hits: of half of what was stored by either side, so that
        every file is read as it was left by its put.
        """
        value = np.random.default_rng(1).random(ARRAY // 8)
        for _ in range(self.rounds):
            stored = []
            for form, put in (("put 10", self.put_blocking), ("aput 10", self.put)):
                names, others = self.names(ARRAYS), self.names(ARRAYS)
                stored.append(names)
                touch_memory(value.nbytes * ARRAYS * 3, self.folder / "scratch")
                await self.turns(
                    form, partial(self.put_floor, value, others), partial(put, value, names)
                )
            theirs, ours = self._random.sample(stored, 2)
            await self.turns(
                "first 10", partial(self.map_floor, theirs, 1, True), partial(self.hit, ours, 1)
            )
            times = 400 // self.shrink
            await self.turns(
                "again 10",
                partial(self.map_floor, ours, times, False),
                partial(self.hit, ours, times),
            )

    async def frames(self) -> None:
        path = self.folder / "video.mp4"
        path.write_bytes(b"a video" * 1000)
        root, count = self.folder / "frames", 2000 // self.shrink
        async with PipelineArtifactCache.open(FilesystemCacheConfig(root)) as cache:
            video = await cache.video(path)
            pictures = {str(number): os.urandom(FRAME) for number in range(FRAMES)}
            metadata = {"keyframes": [{"frame_id": number} for number in range(FRAMES)]}
            assert await video.set_keyframes(metadata, pictures)
            assert await video.get_frame(7) == pictures["7"]
            files = [file for file in (root / "v1" / "objects").glob("*/*") if file.is_file()]
            stored = max(files, key=lambda file: file.stat().st_size)
            where = [str(stored.relative_to(root / "v1" / "objects"))]
            folder = os.open(root / "v1" / "objects", os.O_RDONLY)

            async def ours() -> float:
                began = time.perf_counter()
                for number in range(count):
                    await video.get_frame(number % FRAMES)
                return (time.perf_counter() - began) / count

            try:
                for _ in range(self.rounds):
                    await self.turns(
                        "frame",
                        lambda: self.floor.part(folder, where, count, FRAME, FRAMES) / count,
                        ours,
                    )
            finally:
                os.close(folder)

    async def verify(self) -> None:
        """Of a cache that holds nothing else. Several threads work, so processor time is taken."""
        root, count = self.folder / "verified", VERIFIED_ENTRIES // self.shrink
        files = FilesystemCacheConfig(root, max_size_mb=1_000)
        async with CacheManager({"backends": [files]}) as cache:
            names = self.names(count)
            for start in range(0, count, 500):
                values = {name: os.urandom(4096) for name in names[start : start + 500]}
                assert all((await cache.set_many(values)).values())
            paths = sorted(self.paths(names))
            folder = os.open(root / "v1" / "objects", os.O_RDONLY)

            def floor() -> float:
                began = time.process_time()
                self.floor.hit(folder, paths, 1)
                return (time.process_time() - began) / count

            async def ours() -> float:
                began = time.process_time()
                report = await cache.verify()
                assert report.ok and report.entries == count
                return (time.process_time() - began) / count

            try:
                for _ in range(self.rounds):
                    await self.turns("verify", floor, ours)
            finally:
                os.close(folder)

    async def all(self) -> dict[str, tuple[Cell, Cell]]:
        """Every row: floor and cogcache."""
        await self.put({"small": 1}, self.names(SETTLED))
        for work in (
            self.keys,
            self.small_hits,
            self.many,
            self.frames,
            self.verify,
            self.small_puts,
            self.arrays,
        ):
            print(f"  {work.__name__} ({self.rounds} rounds) ...", file=sys.stderr, flush=True)
            gc.collect()
            gc.disable()
            try:
                await work()
            finally:
                gc.enable()
        return {
            row: (
                Cell(tuple(self.seconds[row, "floor"])),
                Cell(tuple(self.seconds[row, "cogcache"])),
            )
            for row in ROWS
        }


# --- memory, in a fresh process -----------------------------------------------------------------


def resident(what: str) -> int:
    """Bytes of memory of this process: ``VmRSS`` now, ``VmHWM`` at most since it began."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {what}")


async def stream(folder: Path) -> None:
    """Stream a gibibyte in and out, and print by how much memory grew meanwhile."""
    block = os.urandom(1 << 20)

    async def blocks(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // len(block)):
            yield block

    async with CacheManager(
        {"backends": [FilesystemCacheConfig(folder, max_size_mb=16_000)]}
    ) as cache:
        await cache.put_stream("small", blocks(1 << 20))
        before = resident("VmRSS")
        assert await cache.put_stream("large", blocks(STREAMED))
        length = 0
        async for piece in cache.get_stream("large"):
            length += len(piece)
        assert length == STREAMED
        print(max(0, resident("VmHWM") - before))


def growth(folder: Path) -> int | None:
    """By how many bytes a process grows that streams; None where the system does not tell."""
    if not Path("/proc/self/status").exists():
        return None
    command = [sys.executable, "-m", "benchmarks.bench_floor", "--stream", str(folder)]
    answer = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return int(answer.stdout)


# --- what is printed ------------------------------------------------------------------------------


def page(cells: dict[str, tuple[Cell, Cell]], grown: int | None) -> str:
    """The table, what misses its goal and why, and where the floor itself was unsteady."""
    lines = [
        "| what | floor | cogcache | times the floor | middle half | goal | |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    missed: dict[str, list[str]] = defaultdict(list)
    unsteady = []
    for name, (floor, ours) in cells.items():
        row = ROWS[name]
        low, middle, high = ours.against(floor)
        met = middle <= row.goal
        if not met:
            missed[row.miss].append(f"{row.name} ({middle:.2f}x, goal {row.goal:g}x)")
        quarters = statistics.quantiles(floor.seconds, n=4)
        if quarters[2] - quarters[0] > 0.2 * floor.median:
            unsteady.append(row.name)
        lines.append(
            f"| {row.name} | {human_time(floor.median)} | **{human_time(ours.median)}** | "
            f"{middle:.2f}x | {low:.2f}-{high:.2f} | {row.goal:g}x | {VERDICT[met]} |"
        )
    if grown is not None:
        met = grown <= 64 << 20
        lines.append(
            f"| memory grown while 1 GiB streams in and out | | **{grown / 2**20:.0f} MiB** | | | "
            f"64 MiB | {VERDICT[met]} |"
        )
        if not met:
            missed["buffers of the stream in both directions"].append("memory grown")
    listed = "\n".join(f"- {'; '.join(rows)}: {why}." for why, rows in missed.items())
    parts = ["\n".join(lines), "What misses its goal, and why:\n\n" + (listed or "- nothing")]
    if unsteady:
        parts.append(
            "The floor's own blocks lay further apart than 20 %, so that little can be said: "
            + "; ".join(unsteady)
            + "."
        )
    return "\n\n".join(parts)


async def measure(folder: Path, quick: bool) -> dict[str, tuple[Cell, Cell]]:
    bench = Bench(folder, quick)
    try:
        return await bench.all()
    finally:
        await bench.close()


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit status: 0, also where a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_floor", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="short blocks: a look, no result")
    parser.add_argument("--dir", type=Path, help="where to write (default: build/, needs 8 GB)")
    parser.add_argument(
        "--write", action="store_true", help="replace the table in docs/benchmarks.md"
    )
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stream:
        asyncio.run(stream(options.stream))
        return 0
    if options.quick and options.write:
        parser.error("--write: --quick is a look, no result")
    place = options.dir or ROOT / "build"
    place.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(place).free < 8e9:
        parser.error(f"{place} has less than 8 GB free; name another place with --dir")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=place) as name:
        folder = Path(name)
        cells = asyncio.run(measure(folder, options.quick))
        text = page(cells, growth(folder / "stream"))
        where = machine(folder)
    print(f"{where}\n\n{text}")
    if options.write:
        text = f"{text}\n\nMeasured on: {where}."
        replace_between(ROOT / "docs" / "benchmarks.md", text, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
