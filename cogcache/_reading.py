"""Digests of files: whole in big blocks, or of spread samples; ``docs/keys.md`` says which
bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Final

from cogcache import _core
from cogcache._system import System

__all__ = [
    "DIGESTS",
    "Beat",
    "Digest",
    "content_digest",
    "no_beat",
    "sample_digest",
    "sample_offsets",
    "sha256_digest",
]

SAMPLE_SIZE: Final = 65_536
SAMPLE_COUNT: Final = 16
_BLOCK: Final = 1 << 20

Beat = Callable[[], None]


def no_beat() -> None:
    pass


def _read_into(
    system: System, fd: int, room: memoryview, offset: int, feed: Callable[[memoryview], object]
) -> int:
    """Feed ``len(room)`` bytes from ``offset``, or what there is; returns their number."""
    done = 0
    while done < len(room):
        count = system.read(fd, room[done:], offset + done)
        if count == 0:
            break
        done += count
    feed(room[:done])
    return done


def _whole(
    system: System, real: bytes, size: int, feed: Callable[[memoryview], object], beat: Beat
) -> None:
    fd = system.open(real)
    try:
        room = memoryview(bytearray(min(_BLOCK, size)))
        offset = 0
        # Not past the size of the stat: whoever reads on after a writer never ends.
        while offset < size:
            count = _read_into(system, fd, room[: size - offset], offset, feed)
            if count == 0:
                break
            offset += count
            beat()
    finally:
        os.close(fd)


def content_digest(system: System, real: bytes, found: os.stat_result, beat: Beat) -> bytes:
    hasher = _core.Hasher128()
    _whole(system, real, found.st_size, hasher.update, beat)
    return hasher.digest()


def sha256_digest(system: System, real: bytes, found: os.stat_result, beat: Beat) -> bytes:
    hasher = hashlib.sha256()
    _whole(system, real, found.st_size, hasher.update, beat)
    return hasher.digest()


def sample_offsets(size: int) -> list[int]:
    """Return where the blocks of a sampled digest start; 0 alone means the whole file."""
    if size <= SAMPLE_COUNT * SAMPLE_SIZE:
        return [0]
    last = SAMPLE_COUNT - 1
    return [index * (size - SAMPLE_SIZE) // last for index in range(SAMPLE_COUNT)]


def sample_digest(
    system: System, real: bytes, found: os.stat_result, beat: Beat = no_beat
) -> bytes:
    hasher = _core.Hasher128()
    offsets = sample_offsets(found.st_size)
    room = memoryview(bytearray(SAMPLE_SIZE if len(offsets) > 1 else found.st_size))
    fd = system.open(real)
    try:
        for offset in offsets:
            _read_into(system, fd, room, offset, hasher.update)
            beat()
    finally:
        os.close(fd)
    return hasher.digest()


Digest = Callable[[System, bytes, os.stat_result, Beat], bytes]
DIGESTS: Final[dict[str, Digest]] = {
    "content": content_digest,
    "sampled": sample_digest,
    "sha256": sha256_digest,
}
