"""One container on its way into or out of an archive: in memory, or in a nameless file where it is
large.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any, Final

from cogcache import _core

__all__ = ["IN_MEMORY", "Scratch"]

IN_MEMORY: Final = 16 << 20  # bytes of a container; larger ones go through a file
_STEP: Final = 1 << 20


class Scratch:
    """The bytes of one container. A ``ContainerSink``; usable from several threads.

    A large one is in a file without a name in the directory for temporary files (``TMPDIR``), which
    goes with it.

    Args:
        length: Bytes. Of memory and disk only what is written is taken.

    Attributes:
        length: See above.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._lock = threading.Lock()
        self._written: list[tuple[int, int]] = []
        self._file: IO[bytes] | None = None
        self._pieces: dict[int, bytes] = {}
        if length > IN_MEMORY:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._pieces.clear()

    @property
    def written(self) -> list[tuple[int, int]]:
        """Ranges (start, stop) that are there, in order."""
        with self._lock:
            return _merged(self._written)

    def write_at(self, offset: int, data: Any, /) -> str | None:
        """Take bytes at their place."""
        if self._file is not None:
            view = memoryview(data).cast("B")
            done = 0
            while done < len(view):
                done += os.pwrite(self._file.fileno(), view[done:], offset + done)
        with self._lock:
            if self._file is None:
                self._pieces[offset] = bytes(data)
            self._written = _merged([*self._written, (offset, offset + len(data))])
        return None

    def entry(self, key: bytes | None = None) -> _core.Entry:
        """What is there, opened; blocks.

        Raises:
            _core.DamagedError: It is no whole container.
            _core.ForeignError: It is of another key, or of a version that this one does not know.
        """
        if self._file is None:
            data = b"".join(self._pieces[at] for at in sorted(self._pieces))
            self._pieces = {0: data}
            return _core.Entry.from_bytes(data, key)
        return _core.Entry.from_reader(self.length, self.read, key)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of it; fewer where there are no more."""
        if self._file is None:
            return self._pieces[0][offset : offset + size] if self._pieces else b""
        data = os.pread(self._file.fileno(), size, offset)
        while len(data) < size:  # a signal, or the end
            piece = os.pread(self._file.fileno(), size - len(data), offset + len(data))
            if not piece:
                break
            data += piece
        return data

    def pieces(self) -> Iterator[bytes]:
        """All of it, in steps of 1 MiB."""
        for at in range(0, self.length, _STEP):
            yield self.read(at, min(_STEP, self.length - at))

    def digest(self, beat: Callable[[], None]) -> str:
        """XXH3-128 of all of it, 32 hex digits; blocks."""
        hasher = _core.Hasher128()
        for piece in self.pieces():
            hasher.update(piece)
            beat()
        return hasher.digest().hex()


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged
