"""The command line: ``cogcache`` and ``python -m cogcache`` (``docs/cli.md``).

Needs ``pip install cogcache-video[cli]``.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cogcache._installed import is_installed

__all__ = ["main", "run"]


def run(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command.

    Args:
        arguments: Those after the program's name; ``None`` are the process' own.

    Returns:
        The exit code: 0 done, 1 failed, 2 not understood, 3 not found or damaged, 130 interrupted.
    """
    if not is_installed("click"):
        sys.stderr.write(
            "cogcache: the command line needs click: pip install 'cogcache-video[cli]'\n"
        )
        return 1
    from cogcache.cli.program import run_program

    return run_program(sys.argv[1:] if arguments is None else list(arguments))


def main() -> NoReturn:
    """Carry out the process' arguments and exit."""
    _stand_in_for_streams()
    sys.exit(run())


def _stand_in_for_streams() -> None:
    """Streams that were closed swallow what they are given. With PYTHONUNBUFFERED a write may be
    cut short, by a disk that is full, and nobody would know: what is written goes out whole.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    raw = getattr(sys.stdout, "buffer", None)
    if isinstance(raw, io.RawIOBase):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), sys.stdout.encoding, sys.stdout.errors, line_buffering=True
        )
