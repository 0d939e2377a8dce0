"""What a request carries: bytes that stay where they are until they are sent."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

__all__ = ["Payload", "payloads_of"]

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

    def joined(self) -> bytearray:
        """A copy in one piece. A ``bytearray``, since for ``bytes`` botocore waits for a ``100
        Continue``.
        """
        return bytearray().join(self.pieces)

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
