"""What the programs of these examples share: which video, what Ctrl-C does, the exit status."""

# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingest.files import NotAVideoError, check_file
from ingest.terminal import Stopped, Teller

# Before numpy is imported. One thread per matrix product is hardly slower on an idle machine, and
# ten times faster on a busy one, where every product would wait for the slowest thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

EXAMPLES = Path(__file__).resolve().parents[1]
WORK = EXAMPLES.parents[1] / ".demo"


@dataclass(frozen=True)
class Chosen:
    """The video to work on.

    Attributes:
        path: Where it is.
        about: What it is, in a line.
        notes: What a reader of the results should know, a sentence each.
        is_demo: Whether it is the demonstration video.
    """

    path: Path
    about: str
    notes: tuple[str, ...]
    is_demo: bool


def choose(video: Path | None, work: Path) -> Chosen:
    """Look at the caller's video, or build the demonstration video.

    Raises:
        NotAVideoError: It is none.
        ImportError: The packages of the stages are not installed.
    """
    if video is not None:
        video = video.expanduser()  # a shell leaves the "~" of `make demo VIDEO=~/x.mp4` as it is
        check_file(video)  # even where nothing is installed
    from ingest import media, stages

    path = video or media.demo_video(work, work / "speech")
    notes = stages.HONEST if video else (*media.CREDIT, *stages.HONEST)
    return Chosen(path, str(media.probe(path)), notes, video is None)


def run(begin: Callable[[], Coroutine[Any, Any, int]], teller: Teller, brings: str) -> int:
    """Run a program.

    Args:
        begin: Makes the work to be awaited; may raise as ``choose`` does.
        teller: Prints.
        brings: The command that installs what is missing.

    Returns:
        What the work answers; 1: something is not installed; 2: the video cannot be used;
        130: interrupted.
    """
    try:
        return asyncio.run(interruptible(begin()))
    except ImportError as error:
        install = f"{sys.executable} {EXAMPLES / 'install.py'}"
        print(
            f"{error.name} is not installed; `{brings}` brings everything, or run\n    {install}",
            file=sys.stderr,
        )
        return 1
    except (NotAVideoError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError, Stopped):
        teller.say("interrupted; what was finished is complete, what was not left nothing behind")
        return 130


async def interruptible(work: Coroutine[Any, Any, int]) -> int:
    """Run ``work`` so that the first Ctrl-C (or SIGTERM) cancels it, and a second one ends it at
    once.

    ``asyncio.run`` alone nearly does so, but misses a signal that arrives in the instant between
    giving the interpreter to another thread and waiting for events.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)

    def interrupt() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    return await task
