"""What takes an entry that is still being made: its container in pieces, in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from cogcache import _core

__all__ = ["BufferedReceiver", "Receiver", "Unfinished", "seal"]


class Receiver(Protocol):
    """An entry on its way into one tier. Nobody sees any of it before ``finish``.

    Methods answer ``None`` or one word for why not; after a word it is over, and nothing is left.
    ``feed`` may wait as long as the tier cannot take more: that is the back-pressure of a stream.

    One that may be gone on with after it broke off also has ``seal()``, called when all bytes are
    there and before any tier shows the entry: from then on its token is not for another one.
    """

    async def feed(self, data: bytes, /) -> str | None:
        """Take the next bytes of the container."""
        ...

    async def finish(self) -> str | None:
        """All bytes are there: make the entry visible."""
        ...

    async def abort(self) -> None:
        """Give it up and leave nothing; may be called at any time, and does nothing after the
        end.
        """
        ...


class Unfinished(Protocol):
    """What a put that broke off has left in a tier; ``receive`` may go on with it."""

    @property
    def token(self) -> int | None:
        """The write token of that put, if nobody can have seen an entry with it: with the same
        token the container of the same bytes is the same.
        """
        ...

    def release(self) -> None:
        """Leave it as it is; nothing after ``receive`` has taken it."""
        ...


async def seal(receiver: object) -> str | None:
    """``seal()`` of a receiver that has one."""
    sealing = getattr(receiver, "seal", None)
    return None if sealing is None else await sealing()


class BufferedReceiver:
    """For tiers that write whole entries.

    Args:
        write: Writes one.
        key: Of the entry.
        most: Bytes that are kept, to be written at once; no entry is larger.
    """

    def __init__(
        self, write: Callable[[_core.Image], Awaitable[str | None]], key: bytes, most: int
    ) -> None:
        self._write = write
        self._key = key
        self._most = most
        self._buffer = bytearray()

    async def feed(self, data: Any, /) -> str | None:
        if len(self._buffer) + len(data) > self._most:
            await self.abort()
            return "too-large"
        self._buffer += data
        return None

    async def finish(self) -> str | None:
        data, self._buffer = bytes(self._buffer), bytearray()
        image = _core.Entry.from_bytes(data, self._key).to_image()
        return await self._write(image)

    async def abort(self) -> None:
        self._buffer = bytearray()
