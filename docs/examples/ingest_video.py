"""Ingest a video: keyframes, transcript, descriptions, embeddings; nothing twice.

    make demo                                    the demonstration video, built from public packages
    make demo VIDEO=path/to/your.mp4             your own
    python docs/examples/ingest_video.py --help  all options

Runs one real pipeline several times under changing circumstances and shows what the cache makes of
it: cold, warm, with other keyframes, on a copy of the video, on a copy with one byte changed. Then
it searches the cached embeddings and draws a contact sheet of what is in the cache.

The code to read first is ``ingest/cached.py``: the pipeline, with the cache in it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from ingest.command import WORK, choose, run
from ingest.terminal import Teller

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


def main(given: list[str] | None = None) -> int:
    """Run the example.

    Returns:
        0: all went as it must; 1: the cache did something else than it should, or a stage failed;
        2: the video cannot be used; 130: interrupted.
    """
    options = arguments(given)
    teller = Teller()

    def begin() -> Coroutine[Any, Any, int]:
        chosen = choose(options.video, WORK)
        from ingest import stages, story

        plan = story.Plan(
            video=chosen.path,
            about=chosen.about,
            notes=chosen.notes,
            work=WORK,
            cache=options.cache,
            sheet=options.sheet or WORK / "contact-sheet.html",
            queries=tuple(options.query or QUERIES),
            answers=QUERIES if chosen.is_demo else {},
            whole=chosen.is_demo,
        )
        return story.tell(plan, stages, teller)

    return run(begin, teller, "make demo")


if __name__ == "__main__":
    sys.exit(main())
