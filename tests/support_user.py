"""What root's tests do as somebody else, in a place where somebody else gets to."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


def stop_being_root() -> None:
    """Become an unprivileged user for good; nothing to do for who is none."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _may_stop_being_root() -> bool:
    child = os.fork()
    if child == 0:
        try:
            stop_being_root()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@contextmanager
def place_for_others() -> Iterator[Path]:
    """A directory that the user of `stop_being_root` gets to, other than the test's own, which are
    private. Skips by name where there is none: root of a container that may not act as others, or
    a ``TMPDIR`` below a private directory.
    """
    place = Path(tempfile.mkdtemp(prefix="cogcache-test-"))
    try:
        place.chmod(0o755)
        if os.geteuid() == 0:
            closed = [str(p) for p in place.parents if not p.stat().st_mode & stat.S_IXOTH]
            if closed:
                pytest.skip(f"not run: other users do not get past {closed[0]}; set TMPDIR")
            if not _may_stop_being_root():
                pytest.skip("not run: this root may not act as another user")
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
