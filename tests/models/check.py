"""Check the models of the store's protocol with Spin: what must hold holds, each seeded bug is
found.

Three models, each an exhaustive search with a death possible before every step of every process:

- ``publish.pml``: put, overwrite, evict, quarantine, read and reap of one name;
- ``reserve.pml``: the size limit without a global lock or counter;
- ``rebuild.pml``: counting a shard anew and growing its table, against writers and an evictor.

They follow the steps of ``docs/store.md``; change them with it. ``python tests/models/check.py``
runs a bounded part (no deaths, and one seeded bug per model), ``--full`` all of it: hours, and up
to 16 GB of memory for the largest."""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """One search. ``wrong`` says that an error must be found, since a bug is built in."""

    model: str
    flags: str
    wrong: bool = False
    memory_mb: int = 6000
    collapse: bool = False  # slower, smaller

    def __str__(self) -> str:
        return f"{self.model} {self.flags}".strip()


QUICK = [
    Run("publish.pml", "-DMAXCRASH=0"),
    Run("publish.pml", "-DMAXCRASH=1 -DBUG_TOTAL_LATE", wrong=True),
    Run("reserve.pml", "-DNP=2 -DMAXCRASH=0"),
    Run("reserve.pml", "-DNP=2 -DMAXCRASH=1 -DBUG_CHECK_FIRST", wrong=True),
    Run("rebuild.pml", "-DMAXCRASH=0"),
    Run("rebuild.pml", "-DMAXCRASH=1 -DBUG_TOTAL_FROM_ZERO", wrong=True),
]


def full() -> Iterator[Run]:
    """Every search that was ever made of these models."""
    yield from QUICK
    yield Run("publish.pml", "-DMAXCRASH=1")
    yield Run("publish.pml", "-DMAXCRASH=2")
    for actor in ("READER", "QUARANTINE", "NEGATIVE"):
        yield Run("publish.pml", f"-DMAXCRASH=1 -D{actor}", memory_mb=8000, collapse=True)
    for limit in (2, 3):
        yield Run("reserve.pml", f"-DNP=2 -DMAXCRASH=2 -DLIMIT={limit}")
    yield Run("reserve.pml", "-DNP=2 -DMAXCRASH=2 -DLIMIT=4 -DSTREAM")
    three = "-DNP=3 -DMAXCRASH="
    yield Run("reserve.pml", three + "0", memory_mb=8000, collapse=True)
    yield Run("reserve.pml", three + "1 -DTRIES=0 -DLIMIT=4", memory_mb=12000, collapse=True)
    yield Run("reserve.pml", three + "1 -DSYM", memory_mb=16000, collapse=True)
    for flags in ("1", "2", "1 -DUNKNOWN", "1 -DOUTSIDER", "2 -DNEWFILE"):
        yield Run("rebuild.pml", f"-DMAXCRASH={flags}")
    yield from seeded()


def seeded() -> Iterator[Run]:
    """One bug at a time; a model that does not find it proves nothing."""
    one = "-DMAXCRASH=1 "
    for bug in (
        "NO_REVALIDATE",
        "INO_ONLY",
        "RENAME_UNLOCKED",
        "EARLY_RELEASE",
        "SUB_FIRST",
        "NO_DIRTY",
        "IN_PLACE -DREADER",
        "REAP_KEEP_TMP",
        "CLOSE_EARLY -DQUARANTINE",
        "NEG_NO_SEQ -DNEGATIVE",
    ):
        yield Run("publish.pml", f"{one}-DBUG_{bug}", wrong=True)
    for bug in (
        "WRITE_FIRST",
        "TOTALS_FIRST",
        "HELD_DOWN_FIRST",
        "REAP_KEEP_TMP",
        "TOTAL_LATE",
        "STORE_BUFFER",
        "CREDIT -DLIMIT=2",
        "GROW_AFTER -DSTREAM",
    ):
        yield Run("reserve.pml", f"-DNP=2 {one}-DBUG_{bug}", wrong=True)
    for bug in ("LIST_UNLOCKED", "UNKNOWN_ZERO -DUNKNOWN", "STALE_MAP -DNEWFILE"):
        yield Run("rebuild.pml", f"{one}-DBUG_{bug}", wrong=True)
    yield Run("rebuild.pml", "-DMAXCRASH=2 -DBUG_CLEAR_EARLY", wrong=True)


def missing_tools() -> list[str]:
    """What a search needs and this machine lacks."""
    return [tool for tool in ("spin", "cc") if shutil.which(tool) is None]


def search(run: Run, seconds: float | None = None) -> str | None:
    """Make one search.

    Returns:
        What is wrong with its outcome, or ``None``.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``seconds``.
        subprocess.CalledProcessError: the model does not compile.
    """
    with tempfile.TemporaryDirectory(prefix="cogcache-model-") as place:
        flags = run.flags.split()
        model = [str(HERE / run.model)]
        subprocess.run(["spin", "-a", *flags, *model], cwd=place, check=True, capture_output=True)
        compiler = ["cc", "-O1", "-w", "-DSAFETY", f"-DMEMLIM={run.memory_mb}", "-DVECTORSZ=2048"]
        if run.collapse:
            compiler.append("-DCOLLAPSE")
        subprocess.run(
            [*compiler, "-o", "pan", "pan.c"], cwd=place, check=True, capture_output=True
        )
        done = subprocess.run(
            ["./pan", "-m2000000"], cwd=place, capture_output=True, text=True, timeout=seconds
        )
    errors = re.search(r"errors: (\d+)", done.stdout)
    cut_short = re.search(r"max search depth too small|out of memory|reached -DMEMLIM", done.stdout)
    if errors is None:
        return "no result"
    found = int(errors[1]) > 0
    if run.wrong:
        return None if found else "its bug was not found"
    if found:
        return "a counterexample was found"
    return "the search was cut short" if cut_short else None


def main() -> int:
    """Run the searches one after the other; the number of bad outcomes."""
    parser = argparse.ArgumentParser(description="Check the models of the store's protocol.")
    parser.add_argument("--full", action="store_true", help="every search (hours, 16 GB)")
    wanted = parser.parse_args()
    if missing := missing_tools():
        print("missing:", ", ".join(missing), "(apt-get install spin gcc)")
        return 1
    bad = 0
    for run in full() if wanted.full else QUICK:
        wrong = search(run)
        bad += wrong is not None
        print(f"{run}: {wrong or ('found, as it must be' if run.wrong else 'holds')}", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
