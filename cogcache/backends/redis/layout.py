"""How a container lies in Redis; pure. ``docs/tiers.md`` has the layout.

A container has bytes 0 to ``cut``, which are bulk, and the rest, which every reader needs: the
index, and the value document where it is small. The *manifest* of an entry holds the head of the
container and that rest; bytes 32 to ``cut`` lie beside it in *slices* of one size, the last may be
shorter. Small containers have no slices: their manifest holds everything.

The names of slices carry the write token, so that slices of two writes never meet; the braces in
all names keep what belongs together in one slot of a cluster.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cogcache import _core

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["HEAD_BYTES", "Manifest", "Names", "Place", "cut_of", "index_bytes", "slice_count"]

HEAD_BYTES: Final = 32  # of a container
FIXED_BYTES: Final = 16 + HEAD_BYTES  # of a manifest, before the rest of the container
SMALLEST_CONTAINER: Final = 144
WHOLE_BYTES: Final = 256 * 1024  # up to which a container has no slices
DOCUMENT_BYTES: Final = 64 * 1024  # up to which the document goes into the manifest with the index
MOST_SLICES: Final = 1 << 20
_START: Final = struct.Struct("<QII")
_TOKEN_AT: Final = 16 + 8  # in a manifest


def slice_count(cut: int, slice_size: int) -> int:
    """How many slices lie before ``cut``."""
    return -(-(cut - HEAD_BYTES) // slice_size)


@dataclass(frozen=True, slots=True)
class Place:
    """A range of one slice: bytes ``start`` to ``stop`` of slice ``number``."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the manifest of an entry says.

    Attributes:
        cut: Where the rest begins in the container.
        slice_size: Of all slices but the last.
        head: The first 32 bytes of the container.
        length: Of the container.
        tail: The end of the container, as much of it as was read.
    """

    cut: int
    slice_size: int
    head: bytes
    length: int
    tail: bytes

    @classmethod
    def of(cls, container: memoryview, cut: int, slice_size: int) -> Manifest:
        """The manifest of a container."""
        head, tail = bytes(container[:HEAD_BYTES]), bytes(container[cut:])
        return cls(cut, slice_size, head, len(container), tail)

    @classmethod
    def parse(cls, start: bytes, tail: bytes, size: int) -> Manifest:
        """Read a manifest of ``size`` bytes of which ``start`` (at least the first 48 bytes) and
        ``tail`` (any number of the last, without those) are here. What the container itself says
        is checked by its reader.

        Raises:
            DamagedError: These bytes are no manifest.
        """
        if size < FIXED_BYTES + SMALLEST_CONTAINER - HEAD_BYTES or len(start) < FIXED_BYTES:
            raise _core.DamagedError("a manifest that ends too early")
        cut, slice_size, reserved = _START.unpack_from(start)
        if reserved or slice_size < 1 or cut < HEAD_BYTES:
            raise _core.DamagedError("not a manifest")
        if slice_count(cut, slice_size) > MOST_SLICES:
            raise _core.DamagedError("a manifest of too many slices")
        length = cut + size - FIXED_BYTES
        head = bytes(start[16:FIXED_BYTES])
        if len(tail) > size - FIXED_BYTES or len(tail) < 48 or tail[-48:-40] != head[8:16]:
            raise _core.DamagedError("a manifest of two writes")
        return cls(cut, slice_size, head, length, bytes(tail))

    @classmethod
    def parse_whole(cls, data: bytes) -> Manifest:
        """``parse`` of a manifest that is all here."""
        return cls.parse(data[:FIXED_BYTES], data[FIXED_BYTES:], len(data))

    def pack(self) -> bytes:
        """The bytes of a manifest whose rest is all here."""
        return _START.pack(self.cut, self.slice_size, 0) + self.head + self.tail

    @property
    def token(self) -> int:
        """The write that the container is of."""
        return int.from_bytes(self.head[8:16], "little")

    @property
    def tail_start(self) -> int:
        """Where ``tail`` begins in the container."""
        return self.length - len(self.tail)

    @property
    def slices(self) -> int:
        """How many there are."""
        return slice_count(self.cut, self.slice_size)

    def slice_bytes(self, number: int) -> int:
        """The size of one slice."""
        return min(self.slice_size, self.cut - HEAD_BYTES - number * self.slice_size)

    def places(self, start: int, stop: int) -> list[Place]:
        """Where bytes ``start`` to ``stop`` of the container lie, both from 32 to ``cut``."""
        start, stop = start - HEAD_BYTES, stop - HEAD_BYTES
        found = []
        while start < stop:
            number, offset = divmod(start, self.slice_size)
            end = min(self.slice_size, offset + stop - start)
            found.append(Place(number, offset, end))
            start += end - offset
        return found


def cut_of(size: int, footer: Buffer, entry: _core.Entry) -> int:
    """Where to cut a container: all of a small one is rest; else the document where it and what
    follows are small, or the index.

    Args:
        size: Of the container.
        footer: Its last 48 bytes.
        entry: Opened from it.
    """
    if size <= WHOLE_BYTES:
        return HEAD_BYTES
    index = size - 112 - index_bytes(footer)
    parts = entry.parts()
    if parts and parts[-1].kind == "doc":
        document = index - parts[-1].stored_size
        if size - document <= DOCUMENT_BYTES:
            return document
    return index


def index_bytes(footer: Buffer) -> int:
    """The length of the index as stored, as the last 48 bytes of a container say it."""
    length: int = struct.unpack_from("<I", footer, 16)[0]
    return length


class Names:
    """The names of keys under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self.tags = self._prefix + b":{tags}"
        plain = b"".join(
            b"\\" + bytes([c]) if c in b"*?[]\\^-" else bytes([c]) for c in self._prefix
        )
        self.manifests = plain + b":{" + b"?" * 32 + b"}:m"
        self.slices = plain + b":{" + b"?" * 32 + b"}:c:*"

    def of_digest(self, digest: bytes) -> bytes:
        """What the names of all keys of an entry begin with."""
        return self._prefix + b":{" + digest.hex().encode() + b"}"

    def of_key(self, key: bytes) -> bytes:
        """``of_digest`` of a key."""
        return self.of_digest(_core.hash128(key))

    @staticmethod
    def manifest(base: bytes) -> bytes:
        """The manifest of an entry."""
        return base + b":m"

    @staticmethod
    def slice_prefix(base: bytes, token: int) -> bytes:
        """What the names of the slices of a write begin with; their number follows."""
        return base + b":c:%016x:" % token

    def manifest_of_slice(self, name: bytes) -> tuple[bytes, int] | None:
        """The manifest that a slice belongs to, and its token; ``None`` for other keys."""
        base, found, rest = name.rpartition(b":c:")
        token, _, number = rest.partition(b":")
        if not found or len(token) != 16 or not number.isdigit():
            return None
        try:
            return self.manifest(base), int(token, 16)
        except ValueError:
            return None
