"""What the example does with video files as files: refuse what is none, change one byte."""

from __future__ import annotations

import mmap
import os
from pathlib import Path


class NotAVideoError(ValueError):
    """The file cannot be read as a video; the message says why, for the person who named it."""


def check_file(path: Path) -> None:
    """See that there is a file with something in it, before anybody tries to decode it.

    Raises:
        NotAVideoError: nothing there, not a file, not readable, empty.
    """
    if not path.exists():
        raise NotAVideoError(f"{path}: no such file")
    if path.is_dir():
        raise NotAVideoError(f"{path}: this is a directory; name one video file in it")
    if not path.is_file():
        raise NotAVideoError(f"{path}: not a regular file")
    if not os.access(path, os.R_OK):
        raise NotAVideoError(f"{path}: no permission to read it")
    if path.stat().st_size == 0:
        raise NotAVideoError(f"{path}: the file is empty")


def change_one_byte(path: Path) -> int:
    """Change one byte of a video and return its offset.

    Where an encoder has signed its work, a letter of the signature; else the last byte. So the
    file stays a video and shows the same pictures: what differs is only that it is another file.
    """
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = [at for at in (data.find(mark) for mark in (b"x264 - core", b"Lavf")) if at >= 0]
        offset = found[0] if found else len(data) - 1
        file.seek(offset)
        file.write(bytes([data[offset] ^ 0x20]))
    return offset
