"""Reading ranges of one part of one generation of an entry."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from cogcache import _core
from cogcache._inline import SyncFacade
from cogcache.exceptions import IncompleteError
from cogcache.images import content_type_of

if TYPE_CHECKING:
    from cogcache.backends.base import CacheBackend

STREAM_PIECE = 1 << 20  # bytes of one step of ``stream``


class Reader:
    """A pinned generation: whatever happens to the key, it reads the bytes that it was opened on.

    Attributes:
        size: Bytes of the part.
        content_type: As it was stored with, else ``"application/octet-stream"``.
        etag: Changes with every write of the key; strong, quoted, fit for HTTP.
        created: Unix seconds of the write.
        parts: Names of all parts of the entry.
        part: Name of the part that ``read`` reads.
        sync: The same methods, blocking.
    """

    def __init__(
        self, tier: CacheBackend, entry: _core.Entry, part: str, number: int, size: int
    ) -> None:
        self._tier = tier
        self._entry = entry
        self._number = number
        self._inline: bytes | None = None
        self.sync: Any = SyncFacade(self, lambda: tier.runs_inline)
        self.part = part
        self.size = size
        self.etag = f'"{entry.token:016x}-{part}"'
        self.created = entry.created_ms / 1000
        self.parts = tuple(_part_name(p) for p in entry.parts())
        stored = entry.meta.get(4)
        self.content_type = stored if isinstance(stored, str) else "application/octet-stream"

    async def _look_at_frame(self) -> Reader:
        """The type of a picture is in its first bytes."""
        if self.part.startswith("frame/"):
            self.content_type = content_type_of(await self.read(0, min(self.size, 16)))
        return self

    @classmethod
    async def open(cls, tier: CacheBackend, entry: _core.Entry, part: str | None) -> Reader:
        """Open ``part`` of an entry; ``None`` means the bytes of a value that is bytes.

        Raises:
            ValueError: There is no such part, or the value is not bytes.
        """
        parts = {_part_name(p): p for p in entry.parts()}
        if part is not None:
            if part not in parts:
                raise ValueError(
                    f"the entry has no part {part!r}; it has: {', '.join(parts) or 'none'}"
                )
            reader = cls(tier, entry, part, parts[part].number, parts[part].raw_size)
            return await reader._look_at_frame()
        value_parts = [p for p in parts.values() if p.kind != "doc"]
        if not value_parts or (len(value_parts) == 1 and value_parts[0].kind == "blob"):
            if value_parts:
                one = value_parts[0]
                if entry.value_type() in ("bytes", "bytearray"):
                    return cls(tier, entry, _part_name(one), one.number, one.raw_size)
            else:
                value = await tier.load(entry)
                if isinstance(value, bytes | bytearray):
                    reader = cls(tier, entry, "doc", 0, len(value))
                    reader._inline = bytes(value)
                    return reader
        raise ValueError(
            f"the value is not bytes, so a part must be named; it has: {', '.join(parts) or 'none'}"
        )

    def _range(self, start: Any, stop: Any) -> tuple[int, int]:
        ends: list[int] = []
        for name, at in (("start", start), ("stop", self.size if stop is None else stop)):
            if isinstance(at, bool) or not hasattr(at, "__index__"):
                raise TypeError(f"{name} must be a number of bytes, not {type(at).__name__}")
            ends.append(operator.index(at))
        if not 0 <= ends[0] <= ends[1] <= self.size:
            raise ValueError(
                f"the range {ends[0]}..{ends[1]} does not lie within the part's {self.size} bytes"
            )
        return ends[0], ends[1]

    async def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes ``start`` to ``stop`` (half open, within the size); every chunk is verified before
        any byte is given out.

        Raises:
            ValueError: The range does not lie within ``size``.
            IncompleteError: The stored bytes are damaged or cannot be read now. (An ``OSError``.)
        """
        start, end = self._range(start, stop)
        if self._inline is not None:
            return self._inline[start:end]
        try:
            return await self._tier.read_part(self._entry, self._number, start, end)
        except (_core.DamagedError, _core.UnsupportedError) as error:
            await self._tier.value_failed(self._entry, error)
            raise IncompleteError(f"{self.part}: bytes {start} to {end}: {error}") from error

    async def stream(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The same range in pieces of at most 1 MiB, in order."""
        at, end = self._range(start, stop)
        while at < end:
            piece = await self.read(at, min(at + STREAM_PIECE, end))
            at += len(piece)
            yield piece


def _part_name(part: _core.PartInfo) -> str:
    return f"{part.kind}/{part.name}" if part.name else part.kind
