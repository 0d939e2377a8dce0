"""Ctrl-C while the command line still imports this package: exit code 130 and no traceback.

Imported before all else, and of effect only in a process that is the command line: a library
leaves the hooks of other programs alone. ``cogcache.cli`` handles what comes later.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType

__all__: list[str] = []


def _is_command_line() -> bool:
    """Whether this process is ``cogcache`` or ``python -m cogcache``."""
    given = getattr(sys, "argv", [])  # none in a program that embeds Python
    if given[:1] == ["-m"]:  # Python still looks for the module; its name is only here
        return sys.orig_argv[-len(given) :][:1] in (["cogcache"], ["-mcogcache"])
    return bool(given) and os.path.basename(given[0]) in ("cogcache", "cogcache.exe")


def _end_quietly(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        if sys.stderr is not None:  # it may have been closed
            sys.stderr.write("cogcache: interrupted\n")
        raise SystemExit(130)
    sys.__excepthook__(kind, error, trace)


if _is_command_line():
    sys.excepthook = _end_quietly
