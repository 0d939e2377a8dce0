"""Plain tar, as much of it as archives need: written so that every ``tar`` reads it, read as if an
enemy had written it.

No name is ever a path here, nothing but bytes of plain files comes out, and every amount is bounded
by what was really read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["BLOCK", "END", "Member", "TarError", "TarReader", "header", "padding"]

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
_OCTAL_LIMIT: Final = 8**11
_SIZE_LIMIT: Final = 1 << 62
_EXTENDED_LIMIT: Final = 64 << 10
_STEP: Final = 1 << 20

Kind = Literal["file", "directory", "other"]
_KINDS: Final[dict[bytes, Kind]] = {b"0": "file", b"\0": "file", b"7": "file", b"5": "directory"}


class TarError(Exception):
    """The bytes are no tar from here on."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member, as its header says.

    Attributes:
        name: For comparing and showing; never a path.
        size: Bytes that it says will follow.
        kind: Links, devices, sparse files and all that is unknown are ``"other"``.
    """

    name: str
    size: int
    kind: Kind


def padding(size: int) -> bytes:
    """What fills the last block of so many bytes."""
    return bytes(-size % BLOCK)


def header(name: str, size: int, mtime: int) -> bytes:
    """The header of a plain file (USTAR; with a PAX header where the size needs it).

    Args:
        name: At most 100 ASCII characters.
        size: Bytes.
        mtime: Unix seconds.
    """
    if size < _OCTAL_LIMIT:
        return _header(name, size, mtime, b"0")
    record = _record("size", str(size))
    extended = _header(f"PaxHeaders/{name}"[:100], len(record), mtime, b"x")
    return extended + record + padding(len(record)) + _header(name, 0, mtime, b"0")


def _record(keyword: str, value: str) -> bytes:
    """``LENGTH keyword=value``, with a length that counts itself."""
    rest = f" {keyword}={value}\n".encode()
    size = len(rest) + 1
    while len(str(size)) + len(rest) != size:
        size = len(str(size)) + len(rest)
    return str(size).encode() + rest


def _header(name: str, size: int, mtime: int, kind: bytes) -> bytes:
    block = bytearray(BLOCK)
    block[0 : len(name)] = name.encode("ascii")
    for at, number in ((100, 0o644), (108, 0), (116, 0)):  # mode and owner
        block[at : at + 8] = b"%07o\0" % number
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"%011o\0" % min(max(mtime, 0), _OCTAL_LIMIT - 1)
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


class TarReader:
    """Members of a tar, strictly forward. Blocks.

    Args:
        read: Gives up to so many bytes; none at the end.
        beat: Called after every step of at most 1 MiB.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._left = 0  # of the current member
        self._pad = 0
        self.beat: Callable[[], None] = lambda: None

    def next(self) -> Member | None:
        """The next member, whatever was read of the one before; ``None`` behind the last.

        Raises:
            TarError: There is none, nor an end.
        """
        self._finish()
        size = name = None
        sparse = False
        while True:
            block = self._exactly(BLOCK)
            if block == bytes(BLOCK):
                self._exactly(BLOCK)  # archives end with two of them
                return None
            member = _parsed(block)
            kind = block[156:157]
            if kind not in (b"x", b"g"):
                break
            if member.size > _EXTENDED_LIMIT:
                raise TarError(f"an extended header of {member.size:,} bytes")
            self._begin(member.size)
            records = _records(self.read(member.size))
            self._finish()
            if kind == b"x":  # what is said of all members at once is nothing that is used here
                name = records.get("path", name)
                size = _decimal(records["size"]) if "size" in records else size
                sparse = sparse or any(one.startswith("GNU.sparse") for one in records)
        size = member.size if size is None else size
        self._begin(size)
        return Member(name or member.name, size, "other" if sparse else member.kind)

    def read(self, most: int) -> bytes:
        """The next bytes of the member, at most so many and all of those that it has."""
        data = self._exactly(min(most, self._left))
        self._left -= len(data)
        return data

    def _begin(self, size: int) -> None:
        self._left, self._pad = size, -size % BLOCK

    def _finish(self) -> None:
        while self._left:
            self.read(_STEP)
        self._exactly(self._pad)
        self._pad = 0

    def _exactly(self, size: int) -> bytes:
        pieces: list[bytes] = []
        left = size
        while left:
            piece = self._read(min(left, _STEP))
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise TypeError(f"source.read() gave {type(piece).__name__}, not bytes")
            if not piece:
                raise TarError("it ends in the middle" if size else "it ends")
            pieces.append(bytes(piece))
            left -= len(piece)
            self.beat()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _parsed(block: bytes) -> Member:
    counted = sum(block) - sum(block[148:156]) + 8 * 32
    if block[257:262] != b"ustar" or _number(block[148:156]) != counted:
        raise TarError("what should be the header of a member is none")
    size = _number(block[124:136])
    name, prefix = _text(block[:100]), _text(block[345:500])
    if prefix and block[257:263] == b"ustar\0":
        name = f"{prefix}/{name}"
    kind = _KINDS.get(block[156:157], "other")
    # Links and the like have no bytes of their own, whatever they say.
    return Member(name, 0 if block[156:157] in b"123456" else size, kind)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _number(field: bytes) -> int:
    """An octal number, or a large one as GNU tar writes it."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if not all(0x30 <= digit < 0x38 for digit in digits):
            raise TarError("a header has a number that is none")
        value = int(digits or b"0", 8)
    if value > _SIZE_LIMIT:
        raise TarError("a header has a number beyond all bounds")
    return value


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _SIZE_LIMIT):
        raise TarError("an extended header has a size that is none")
    return int(text)


def _records(data: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        length, space, _ = data[at : at + 8].partition(b" ")
        if not space or not length.isdigit():
            raise TarError("an extended header is damaged")
        record = data[at : at + int(length)]
        keyword, equals, value = record[len(length) + 1 : -1].partition(b"=")
        if len(record) != int(length) or not equals or record[-1:] != b"\n":
            raise TarError("an extended header is damaged")
        records[keyword.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        at += int(length)
    return records
