"""Folders of a cache directory that Python keeps beside what the core keeps."""

from __future__ import annotations

import contextlib
import os
from typing import Final

__all__ = ["FLAGS", "opened"]

FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def opened(path: str, *, group: bool) -> int:
    """A descriptor of a folder, which is made when it is not there; never through a link.

    Args:
        path: Of the folder; what it lies in is there.
        group: Whether the directory's group may write there too.

    Raises:
        OSError: As the system has it.
    """
    try:
        return os.open(path, FLAGS)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            if group:
                os.chmod(path, 0o2770)  # noqa: S103  what shared="group" is
        return os.open(path, FLAGS)
