"""A fleet: what one machine computed, no other computes again.

    make demo-fleet                              the demonstration video, an S3 store, three pods
    make demo-fleet VIDEO=path/to/your.mp4       your own video
    python docs/examples/fleet.py --help         all options

Starts an S3 store (SeaweedFS) on this machine, and pods: processes with a directory each, as on
machines of their own, which have the same video at other paths. The first one computes; the others
find everything in the store. Then the store is killed while a pod works, and the pod while results
of it wait to be sent; afterwards nothing is missing.

The code to read first is ``open_cache`` in ``pods/pod.py``: how a pod configures its cache. The
pipeline, ``ingest/cached.py``, is the one that ``ingest_video.py`` runs on one machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from ingest.command import WORK, choose, run
from ingest.terminal import Teller


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Run a video pipeline in several pods that share one S3 store."
    )
    parser.add_argument("video", nargs="?", type=Path, help="default: a demonstration video")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Run the example.

    Returns:
        0: all went as it must; 1: something was computed twice or went missing, or something is
        not installed; 2: the video cannot be used; 130: interrupted.
    """
    options = arguments(given)
    teller = Teller()

    def begin() -> Coroutine[Any, Any, int]:
        chosen = choose(options.video, WORK)
        from pods import story
        from pods.store import Store

        plan = story.Plan(chosen.path, chosen.about, chosen.notes, WORK, Store)
        return story.tell(plan, teller)

    return run(begin, teller, "make demo-fleet")


if __name__ == "__main__":
    sys.exit(main())
