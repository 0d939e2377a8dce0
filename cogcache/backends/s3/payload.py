"""What a request carries: bytes that stay where they are until they are sent."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

__all__ = ["Payload", "Reading", "payloads_of"]

_SMALL: Final = 64 << 10  # pieces below this are copied together: a request of many is slow


class Payload:
    """Bytes in pieces, without a copy of those that are large. ``len()`` is how many there are.

    Args:
        pieces: Taken in their order. Whoever gives one leaves it as it is until the payload is not
            needed any more.
    """

    __slots__ = ("_pieces", "_size", "_tail")

    def __init__(self, pieces: Iterable[bytes | bytearray | memoryview] = ()) -> None:
        self._pieces: list[memoryview] = []
        self._tail = bytearray()
        self._size = 0
        for piece in pieces:
            self.take(memoryview(piece))

    def __len__(self) -> int:
        return self._size

    def take(self, piece: memoryview) -> None:
        """Append a piece of bytes."""
        self._size += len(piece)
        if len(piece) < _SMALL:
            self._tail += piece
            if len(self._tail) >= _SMALL:
                self._close_tail()
        else:
            self._close_tail()
            self._pieces.append(piece)

    @property
    def pieces(self) -> list[memoryview]:
        """All of it, in a list of the caller's."""
        self._close_tail()
        return list(self._pieces)

    def sha256(self) -> str:
        """In hexadecimal digits."""
        return self._hashed(hashlib.sha256())

    def md5(self) -> str:
        """In hexadecimal digits."""
        return self._hashed(hashlib.md5(usedforsecurity=False))

    def crc32(self) -> int:
        """As zlib has it."""
        crc = 0
        for piece in self.pieces:
            crc = zlib.crc32(piece, crc)
        return crc

    def _hashed(self, made: hashlib._Hash) -> str:
        for piece in self.pieces:
            made.update(piece)
        return made.hexdigest()

    def _close_tail(self) -> None:
        if self._tail:
            self._pieces.append(memoryview(self._tail))
            self._tail = bytearray()


class Reading:
    """A payload as the file that boto3 wants: it sends one in blocks, each with a timeout of its
    own, where bytes would have to be taken whole within the time to connect.

    Args:
        payload: Not to be added to any more.
        look: Called before each read; what it raises ends the sending.
    """

    def __init__(self, payload: Payload, look: Callable[[], None]) -> None:
        self._pieces = payload.pieces
        self._size = len(payload)
        self._look = look
        self._at = 0
        self.seek(0)

    def __len__(self) -> int:
        return self._size

    def tell(self) -> int:
        """How many bytes were read."""
        return self._at

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        """Go on elsewhere, as files do."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = min(max(0, start + to), self._size)
        self._piece, self._within = 0, self._at
        while self._piece < len(self._pieces) and self._within >= len(self._pieces[self._piece]):
            self._within -= len(self._pieces[self._piece])
            self._piece += 1
        return self._at

    def read(self, size: int = -1) -> bytes | memoryview:
        """The next bytes, up to the end of a piece, without a copy; all that is left without a
        ``size``.
        """
        self._look()
        if size is None or size < 0:
            rest = bytearray()
            while block := self.read(self._size):
                rest += block
            return bytes(rest)
        if self._piece == len(self._pieces) or not size:
            return b""
        piece = self._pieces[self._piece]
        block = piece[self._within : self._within + size]
        self._at += len(block)
        self._within += len(block)
        if self._within == len(piece):
            self._piece, self._within = self._piece + 1, 0
        return block


def payloads_of(pieces: Sequence[memoryview], size: int) -> Iterator[Payload]:
    """The bytes of ``pieces`` in payloads of exactly ``size`` bytes, the last one shorter."""
    payload = Payload()
    for piece in pieces:
        at = 0
        while at < len(piece):
            count = min(size - len(payload), len(piece) - at)
            payload.take(piece[at : at + count])
            at += count
            if len(payload) == size:
                yield payload
                payload = Payload()
    if len(payload):
        yield payload
