"""Hit and put of pipeline artifacts: cogcache beside plain files and the caches of others.

Run alone with ``python -m benchmarks.bench_artifacts``; ``--quick`` for a look, ``--write`` to
replace the tables in ``docs/benchmarks.md`` and ``README.md``.

How it measures, and why so: speed on one machine drifts by 10 to 20 % within minutes, and by far
more where memory or the page cache is being taken back. Hence contenders take turns in short blocks
inside one run, in another random order each time, and **a ratio compares blocks of the same
round**. Reported are medians over rounds, and the middle half of the ratios. Before each timed
block the memory it will need is touched. A **first hit** reads what was stored a moment ago and not
read since, a **hit** what this process has read before; both find their bytes in the page cache.
Every contender has been in use: it holds 1,500 small entries. Nothing is deleted while anything is
timed.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import CONTENDERS, Cogcache, Contender
from benchmarks.corpus import ARTIFACTS, Artifact, raw_size

ROOT = Path(__file__).resolve().parents[1]
OPERATIONS = ("hit", "first hit", "put")
SETTLED = 1500  # small entries that every contender holds before anything is timed
BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"


@dataclass(frozen=True)
class Cell:
    """One contender at one operation on one artifact.

    Attributes:
        seconds: Per operation, a block each.
        blocking: Whether its calls block; they are set against the same form of cogcache.
    """

    seconds: tuple[float, ...]
    blocking: bool = False

    @property
    def median(self) -> float:
        """The median block."""
        return statistics.median(self.seconds)

    def against(self, other: Cell) -> tuple[float, float, float]:
        """How many times the time of ``other``: lower quartile, median, upper quartile."""
        ratios = [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return low, middle, high


AWAITED, BLOCKING, COMPRESSED = "cogcache", "cogcache, sync", "compressed"
Results = dict[tuple[str, str, str], Cell]  # (operation, artifact, contender)


def same(expected: Any, got: Any) -> bool:
    """Whether a contender gave back the value that was stored."""
    if isinstance(expected, np.ndarray):
        return got.dtype == expected.dtype and np.array_equal(expected, got)
    if isinstance(expected, tuple):
        return bool(got[0] == expected[0] and dict(got[1]) == expected[1])
    return bool(expected == got)


def touch_memory(size: int, scratch: Path) -> None:
    """Make the pages that a block will need resident, for whoever comes next.

    A virtual machine hands free memory back to its host; whoever touches it first pays several
    times over. So as much memory and page cache is taken and let go before each block, on each
    processor, since each has free pages of its own and some contenders work in threads.
    """
    everywhere = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    for processor in everywhere or {0}:
        if everywhere:
            os.sched_setaffinity(0, {processor})
        memory = bytearray(size)  # zeroed, so every page is touched
        with open(scratch, "wb", buffering=0) as file:
            file.write(memory)
            file.truncate(0)
    if everywhere:
        os.sched_setaffinity(0, everywhere)


async def put_block(
    contender: Contender, artifact: Artifact, value: Any, names: list[str]
) -> float:
    start = time.perf_counter()
    for name in names:
        await contender.put(artifact.kind, name, value)
    return (time.perf_counter() - start) / len(names)


async def hit_block(contender: Contender, artifact: Artifact, names: list[str]) -> float:
    start = time.perf_counter()
    for name in names:
        await contender.get(artifact.kind, name)
    return (time.perf_counter() - start) / len(names)


def shuffled(contenders: list[Contender], random_: random.Random) -> list[Contender]:
    """All of them in a new order: who comes after whom, and finds what it left behind, changes."""
    return random_.sample(contenders, len(contenders))


async def measure(artifact: Artifact, folder: Path, rounds: int) -> Results:
    """All contenders on one artifact, block by block in turn."""
    value = artifact.make()
    size = raw_size(value)
    contenders = [make(folder / f"c{number}") for number, make in enumerate(CONTENDERS)]
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    random_ = random.Random(artifact.name)
    try:
        for contender in contenders:
            for number in range(SETTLED):
                await contender.put("document", f"small-{number}", {"number": number})
            await contender.put(artifact.kind, "again", value)
            if not same(value, await contender.get(artifact.kind, "again")):
                raise RuntimeError(f"{contender.name} gave back another {artifact.name}")
        for round_ in range(rounds):
            names = [f"{round_}-{number}" for number in range(artifact.operations)]
            for contender in shuffled(contenders, random_):
                touch_memory(size * artifact.operations * 3 // 2, folder / "scratch")
                taken["put", contender.name].append(
                    await put_block(contender, artifact, value, names)
                )
            for contender in shuffled(contenders, random_):
                touch_memory(size * 3 // 2, folder / "scratch")
                await contender.get("document", "small-0")  # its code is warm, too
                taken["first hit", contender.name].append(
                    await hit_block(contender, artifact, names)
                )
            for contender in shuffled(contenders, random_):
                touch_memory(size * 3 // 2, folder / "scratch")
                await contender.get(artifact.kind, "again")
                taken["hit", contender.name].append(
                    await hit_block(contender, artifact, ["again"] * artifact.operations)
                )
    finally:
        for contender in contenders:
            await contender.close()
    blocking = {contender.name: contender.blocking for contender in contenders}
    return {
        (operation, artifact.name, name): Cell(tuple(taken[operation, name]), blocking[name])
        for operation in OPERATIONS
        for name in blocking
    }


async def measure_all(artifacts: Iterable[Artifact], folder: Path, quick: bool) -> Results:
    results: Results = {}
    for number, artifact in enumerate(artifacts):
        rounds = min(3, artifact.rounds) if quick else artifact.rounds
        print(f"  {artifact.name} ({rounds} rounds) ...", file=sys.stderr, flush=True)
        gc.collect()
        gc.disable()
        try:
            place = folder / f"a{number}"
            place.mkdir()
            results |= await measure(artifact, place, rounds)
        finally:
            gc.enable()
    return results


# --- what is printed ------------------------------------------------------------------------------


def human_time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            number = seconds * factor
            return f"{number:.3g} {unit}" if number < 100 else f"{number:.0f} {unit}"
    raise AssertionError("unreachable")


def human_size(size: int) -> str:
    for unit, factor in (("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            number = size / factor
            return f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}"
    return f"{size} B"


def own_form(results: Results, operation: str, artifact: str, name: str) -> Cell:
    """The cell of cogcache in the form in which the contender ``name`` is called."""
    blocking = results[operation, artifact, name].blocking
    return results[operation, artifact, BLOCKING if blocking else AWAITED]


def compared(cell: Cell, own: Cell, spread: bool) -> str:
    """A time, and how many times the time of cogcache it is."""
    low, middle, high = cell.against(own)
    ratio = f"{middle:.2g}x" if middle < 10 else f"{middle:.0f}x"
    between = f", {low:.2g}-{high:.2g}" if spread else ""
    return f"{human_time(cell.median)} ({ratio}{between})"


def table(results: Results, operation: str, sizes: dict[str, int], spread: bool) -> str:
    """A markdown table: the median time of each; peers beside the same form of cogcache."""
    names = dict.fromkeys(name for _, _, name in results if name != COMPRESSED)
    lines = [
        f"| {operation} | size | " + " | ".join(names) + " |",
        "|---|--:|" + "--:|" * len(names),
    ]
    for artifact, size in sizes.items():
        cells = [artifact, human_size(size)]
        for name in names:
            cell = results[operation, artifact, name]
            own = own_form(results, operation, artifact, name)
            ours = name in (AWAITED, BLOCKING)
            cells.append(f"**{human_time(cell.median)}**" if ours else compared(cell, own, spread))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compressed_table(results: Results, sizes: dict[str, int]) -> str:
    """A markdown table of cogcache told to compress, beside itself as it is by default."""
    lines = [
        "| compressed, awaited | size | " + " | ".join(OPERATIONS) + " |",
        "|---|--:|" + "--:|" * len(OPERATIONS),
    ]
    for artifact, size in sizes.items():
        cells = [artifact, human_size(size)]
        for operation in OPERATIONS:
            own = results[operation, artifact, AWAITED]
            cells.append(compared(results[operation, artifact, COMPRESSED], own, spread=True))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def behind(results: Results) -> list[str]:
    """Every cell in which a peer is faster than the form of cogcache beside it, in words."""
    found = []
    for (operation, artifact, name), cell in results.items():
        middle = cell.against(own_form(results, operation, artifact, name))[1]
        if name not in (AWAITED, BLOCKING, COMPRESSED) and middle < 1:
            found.append(f"{operation} of {artifact}: {name} takes {middle:.2f} of our time")
    return found


def behind_awaited(results: Results) -> list[str]:
    """Every cell in which a peer that blocks is faster than cogcache awaited, in words."""
    found = []
    for (operation, artifact, name), cell in results.items():
        middle = cell.against(results[operation, artifact, AWAITED])[1]
        if cell.blocking and name != BLOCKING and middle < 1:
            found.append(f"{operation} of {artifact}: {name} takes {middle:.2f} of its time")
    return found


def summary(results: Results) -> str:
    """Where a peer is ahead: all of it, for the end of the page."""
    parts = []
    for title, found in (
        ("A peer is ahead of cogcache called in the same form", behind(results)),
        ("A blocking peer is ahead of cogcache awaited", behind_awaited(results)),
    ):
        listed = "\n".join(f"- {line}" for line in found) if found else "- on no row"
        parts.append(f"{title}:\n\n{listed}")
    return "\n\n".join(parts)


async def single_hits(artifacts: Iterable[Artifact], folder: Path, count: int) -> str:
    """A markdown table of single hits of cogcache: the median and the 99th percentile."""
    lines = ["| hit, one by one | size | median | 99th percentile |", "|---|--:|--:|--:|"]
    for number, artifact in enumerate(artifacts):
        cache = Cogcache(folder / f"single{number}")
        value = artifact.make()
        await cache.put(artifact.kind, "again", value)
        seconds = []
        for _ in range(count):
            seconds.append(await hit_block(cache, artifact, ["again"]))
        await cache.close()
        worst = statistics.quantiles(seconds, n=100)[98]
        lines.append(
            f"| {artifact.name} | {human_size(raw_size(value))} | "
            f"{human_time(statistics.median(seconds))} | {human_time(worst)} |"
        )
    return "\n".join(lines)


def machine(folder: Path) -> str:
    """The machine and the day, in one paragraph."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = platform.release().split("-")[0]
    return (
        f"{os.cpu_count()} CPUs ({model}), {memory:.0f} GiB, {platform.system()} {kernel}, "
        f"{file_system(folder)}, Python {platform.python_version()}, "
        f"{datetime.datetime.now(datetime.UTC):%d %B %Y}"
    )


def file_system(folder: Path) -> str:
    """Type of the file system that holds ``folder``, where the system tells."""
    best, kind = -1, "file system not known"
    try:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, mount, type_, *_ = line.split()
            if folder.resolve().is_relative_to(mount) and len(mount) > best:
                best, kind = len(mount), type_
    except OSError:
        pass
    return kind


def replace_between(path: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Put ``text`` between the two marks in ``path``."""
    page = path.read_text(encoding="utf-8")
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise SystemExit(f"{path} has no lines {begin} and {end} to write between")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit status: 0, also where a peer is ahead."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="three rounds: a look, no result")
    parser.add_argument("--only", metavar="TEXT", help="artifacts whose name contains this")
    parser.add_argument("--dir", type=Path, help="where to write (default: build/, needs 10 GB)")
    parser.add_argument(
        "--write",
        action="store_true",
        help="replace the tables in README.md and docs/benchmarks.md",
    )
    options = parser.parse_args(arguments)
    chosen = [a for a in ARTIFACTS if not options.only or options.only in a.name]
    if not chosen:
        parser.error(f"--only: no artifact has {options.only!r} in its name")
    place = options.dir or ROOT / "build"
    place.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(place).free < 10e9 and not options.quick:
        parser.error(f"{place} has less than 10 GB free; name another place with --dir")
    sizes = {artifact.name: raw_size(artifact.make()) for artifact in chosen}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=place) as folder:
        results = asyncio.run(measure_all(chosen, Path(folder), options.quick))
        where = machine(Path(folder))
        single = asyncio.run(single_hits(chosen, Path(folder), 100))
    short = "\n\n".join(table(results, what, sizes, spread=False) for what in OPERATIONS)
    long = "\n\n".join(table(results, what, sizes, spread=True) for what in OPERATIONS)
    page = "\n\n".join((long, compressed_table(results, sizes), single, summary(results)))
    print(f"{where}\n\n{page}")
    if options.write:
        replace_between(ROOT / "README.md", f"{short}\n\n{where}.")
        replace_between(ROOT / "docs" / "benchmarks.md", f"{page}\n\nMeasured on: {where}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
