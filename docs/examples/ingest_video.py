"""Ingest a video: keyframes, transcript, descriptions, embeddings; nothing twice.

    make demo                                    the demonstration video, built from public packages
    make demo VIDEO=path/to/your.mp4             your own
    python docs/examples/ingest_video.py --help  all options

Runs one real pipeline several times under changing circumstances and shows what the cache makes of
it: cold, warm, with other keyframes, on a copy of the video, on a copy with one byte changed. Then
it searches the cached embeddings and draws a contact sheet of what is in the cache.

The code to read first is ``ingest/cached.py``: the pipeline, with the cache in it.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from ingest.files import NotAVideoError, check_file
from ingest.terminal import Stopped, Teller

# Before numpy is imported. One thread per matrix product is hardly slower on an idle machine, and
# ten times faster on a busy one, where every product would wait for the slowest thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

TOP = Path(__file__).resolve().parents[2]
WORK = TOP / ".demo"

# What is searched for, and a word that the first finding in the demonstration video must have.
QUERIES = {"a selfish man": "selfish", "a person's face": "face", "something dark": "dark"}


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Run a video pipeline through cogcache and show what the cache makes of it."
    )
    parser.add_argument("video", nargs="?", type=Path, help="default: a demonstration video")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep the cache here and use it again (default: a fresh one, removed at the end)",
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="where the contact sheet goes (HTML)"
    )
    parser.add_argument(
        "--query", action="append", metavar="TEXT", help="what to search for; may be repeated"
    )
    return parser.parse_args(given)


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


def main(given: list[str] | None = None) -> int:
    """Run the example.

    Returns:
        0: all went as it must; 1: the cache did something else than it should, or a stage failed;
        2: the video cannot be used; 130: interrupted.
    """
    options = arguments(given)
    try:
        if options.video is not None:
            check_file(options.video)
        from ingest import media, stages
    except NotAVideoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(
            f"{error.name} is not installed; `make demo` brings everything, or run\n"
            f"    {sys.executable} {Path(__file__).with_name('install.py')}",
            file=sys.stderr,
        )
        return 1
    from ingest import story

    teller = Teller()
    try:
        demo = options.video is None
        video: Path = options.video or media.demo_video(WORK, WORK / "speech")
        plan = story.Plan(
            video=video,
            about=str(media.probe(video)),
            notes=(*media.CREDIT, *stages.HONEST) if demo else stages.HONEST,
            work=WORK,
            cache=options.cache,
            sheet=options.sheet or WORK / "contact-sheet.html",
            queries=tuple(options.query or QUERIES),
            answers=QUERIES if demo else {},
            whole=demo,
        )
        return asyncio.run(interruptible(story.tell(plan, stages, teller)))
    except (NotAVideoError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError, Stopped):
        teller.say("interrupted; what was finished is complete, what was not left nothing behind")
        return 130


if __name__ == "__main__":
    sys.exit(main())
