"""Key encodings back into values, and values into the printed form of keys and back.

``docs/keys.md`` specifies both. The encoding itself is written by the C core alone; this module
reads it, for people:
printing, parsing what was printed, explaining. Nothing here is on the way of a hit.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from os import PathLike
from typing import Any, Final, NoReturn
from urllib.parse import unquote

from cogcache._core import hash128
from cogcache.exceptions import KeyTypeError

__all__ = [
    "INLINE_MAX",
    "LongValue",
    "decode_value",
    "escape",
    "parse_value",
    "print_value",
    "refuse",
    "unescape",
]

INLINE_MAX: Final = 64
"""Bytes up to which a parameter value is in a key itself; longer ones are there as a digest."""
DEPTH_MAX: Final = 32
_NESTING_MAX: Final = DEPTH_MAX + 1  # the list that is the key itself
_U32 = struct.Struct("<I")
_I64 = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class LongValue:
    """What a key holds of a parameter value over 64 bytes: enough to find the entry, not to read
    the value.

    Attributes:
        tag: ``"s"`` text, ``"b"`` bytes, ``"l"`` list, ``"m"`` map.
        digest: XXH3-128 of the value's typed encoding, 16 bytes.
        length: bytes of the UTF-8 text or of the bytes; for a list or map, of its encoding.
    """

    tag: str
    digest: bytes
    length: int

    def __post_init__(self) -> None:
        if self.tag not in ("s", "b", "l", "m"):
            raise ValueError(f"tag is one of s, b, l, m, not {self.tag!r}")
        if len(self.digest) != 16:
            raise ValueError(f"digest has 16 bytes, not {len(self.digest)}")
        if not INLINE_MAX < self.length < 1 << 32:
            raise ValueError(f"length is above {INLINE_MAX} and below 2**32, not {self.length}")

    @classmethod
    def of(cls, encoding: bytes) -> LongValue:
        """Return what the value with this typed encoding is folded to."""
        tag = chr(encoding[0])
        length = len(encoding) - (5 if tag in "sb" else 0)
        return cls(tag, hash128(encoding), length)

    def parts(self) -> tuple[str, bytes, int]:
        """Return tag, digest and length, as the C encoder wants them."""
        return self.tag, self.digest, self.length

    def __str__(self) -> str:
        return f"~{self.digest.hex()}+{self.length}{self.tag}"


# --- reading encodings ---------------------------------------------------------------------------


def number(numerator: int, denominator: int) -> int | float | Fraction:
    """Return the plainest Python number with exactly this value."""
    if denominator == 1:
        return numerator
    ratio = Fraction(numerator, denominator)
    if denominator & (denominator - 1) == 0:
        try:
            real = numerator / denominator
        except OverflowError:
            return ratio
        # Both denominators are powers of two: equal ratios are the same double.
        if math.isfinite(real) and Fraction(real) == ratio:
            return real
    return ratio


class _Reader:
    """One pass over an encoding; every length is checked against the bytes that are left."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise ValueError("a key encoding ends inside an item")
        part = self.data[self.at : end]
        self.at = end
        return part

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def integer(self) -> int:
        value = self.item(_NESTING_MAX)
        if type(value) is not int:
            raise ValueError("a ratio in a key encoding has a part that is no integer")
        return value

    def item(self, depth: int = 0) -> Any:
        tag = self.take(1)
        match tag:
            case b"n":
                return None
            case b"f" | b"t":
                return tag == b"t"
            case b"i":
                return _I64.unpack(self.take(8))[0]
            case b"+" | b"-":
                size = int.from_bytes(self.take(self.u32()), "little")
                return size if tag == b"+" else -size
            case b"r":
                numerator, denominator = self.integer(), self.integer()
                if denominator < 2:
                    raise ValueError("a ratio in a key encoding has a denominator below 2")
                return number(numerator, denominator)
            case b"?":
                return math.nan
            case b">" | b"<":
                return math.inf if tag == b">" else -math.inf
            case b"s":
                return self.take(self.u32()).decode()
            case b"b":
                return self.take(self.u32())
            case b"d":
                return LongValue(chr(self.take(1)[0]), self.take(16), self.u32())
            case b"l" | b"m" if depth < _NESTING_MAX:
                return self.items(tag, self.u32(), depth + 1)
        raise ValueError(f"a key encoding has an unknown or misplaced item {tag!r}")

    def items(self, tag: bytes, count: int, depth: int) -> Any:
        if tag == b"l":
            return tuple(self.item(depth) for _ in range(count))
        pairs: dict[str, Any] = {}
        for _ in range(count):
            name = self.item(depth)
            if not isinstance(name, str):
                raise ValueError("a map in a key encoding has a name that is no text")
            pairs[name] = self.item(depth)
        return pairs


def decode_value(encoding: bytes) -> Any:
    """Return the value of a typed encoding: numbers plain, lists as tuples, folded ones as
    `LongValue`.

    Raises:
        ValueError: it is not one whole well-formed item.
    """
    reader = _Reader(encoding)
    value = reader.item()
    if reader.at != len(encoding):
        raise ValueError("a key encoding has bytes after its end")
    return value


# --- printing ------------------------------------------------------------------------------------

_ESCAPED = [*range(0x20), *range(0x7F, 0xA0), *map(ord, ":=%*'")]
_ESCAPES = {point: "".join(f"%{byte:02X}" for byte in chr(point).encode()) for point in _ESCAPED}


def escape(text: str) -> str:
    """Percent-escape the UTF-8 of ``:`` ``=`` ``%`` ``*`` ``'`` and of control characters."""
    return text.translate(_ESCAPES)


def unescape(text: str) -> str:
    """Undo `escape`; ValueError when the escapes are not UTF-8."""
    return unquote(text, errors="strict") if "%" in text else text


def _print_int(value: int) -> str:
    # Hexadecimal has no limit of digits, and is linear.
    return str(value) if -(1 << 63) <= value < 1 << 63 else hex(value)


def print_value(value: Any) -> str:
    """Return the printed form of a decoded value."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return _print_int(value)
        case float():
            return repr(value)
        case Fraction():
            return f"{_print_int(value.numerator)}/{_print_int(value.denominator)}"
        case str():
            return f"'{escape(value)}'"
        case bytes():
            return f"x'{value.hex()}'"
        case tuple():
            return f"[{','.join(map(print_value, value))}]"
        case dict():
            names = sorted(value)
            return f"{{{','.join(f'{print_value(n)}={print_value(value[n])}' for n in names)}}}"
        case LongValue():
            return str(value)
    raise TypeError(f"not a decoded key value: {type(value).__name__}")


# --- parsing -------------------------------------------------------------------------------------

_WORDS: Final[dict[str, Any]] = {"null": None, "true": True, "false": False}
_LONG = re.compile(r"~([0-9a-f]{32})\+([1-9][0-9]{0,9})([sblm])")
_BARE = re.compile(r"[^,\]}=']+")


def _parse_int(text: str) -> int:
    return int(text, 16 if text.lstrip("-").startswith("0x") else 10)


def _parse_bare(text: str) -> Any:
    """Parse a word, a number or a folded value. Sloppy forms pass: whoever parses prints again and
    compares.
    """
    if text in _WORDS:
        return _WORDS[text]
    if long := _LONG.fullmatch(text):
        return LongValue(long[3], bytes.fromhex(long[1]), int(long[2]))
    if "/" in text:
        numerator, _, denominator = text.partition("/")
        bottom = _parse_int(denominator)
        if bottom < 2:
            raise ValueError("a denominator is at least 2")
        return number(_parse_int(numerator), bottom)
    try:
        return _parse_int(text)
    except ValueError:
        return float(text)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def expect(self, mark: str) -> None:
        if not self.accept(mark):
            raise ValueError(f"{mark!r} expected at {self.at}")

    def accept(self, mark: str) -> bool:
        found = self.text.startswith(mark, self.at)
        if found:
            self.at += len(mark)
        return found

    def quoted(self) -> str:
        end = self.text.index("'", self.at)
        part = self.text[self.at : end]
        self.at = end + 1
        return part

    def value(self, depth: int = 0) -> Any:
        if depth > DEPTH_MAX:
            raise ValueError("nested too deeply")
        if self.accept("x'"):
            return bytes.fromhex(self.quoted())
        if self.accept("'"):
            return unescape(self.quoted())
        if self.accept("["):
            return self.sequence(depth)
        if self.accept("{"):
            return self.mapping(depth)
        bare = _BARE.match(self.text, self.at)
        if bare is None:
            raise ValueError(f"a value expected at {self.at}")
        self.at = bare.end()
        return _parse_bare(bare[0])

    def sequence(self, depth: int) -> tuple[Any, ...]:
        items: list[Any] = []
        while not self.accept("]"):
            if items:
                self.expect(",")
            items.append(self.value(depth + 1))
        return tuple(items)

    def mapping(self, depth: int) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        while not self.accept("}"):
            if pairs:
                self.expect(",")
            self.expect("'")
            name = unescape(self.quoted())
            self.expect("=")
            pairs[name] = self.value(depth + 1)
        return pairs


def parse_value(text: str) -> Any:
    """Parse the printed form of one value; the caller compares the print of the result with
    ``text``.

    Raises:
        ValueError: it is no printed value.
    """
    parser = _Parser(text)
    value = parser.value()
    if parser.at != len(text):
        raise ValueError("text after the value")
    return value


# --- refusing ------------------------------------------------------------------------------------


def _place(steps: tuple[str | int, ...]) -> str:
    place = "$"
    for step in steps:
        if isinstance(step, int):
            place += f"[{step}]"
        else:
            place += f".{step}" if step.isidentifier() else f"[{step!r}]"
    return place


def _hint(value: object) -> str:
    """Say what to pass instead, when that is known."""
    if isinstance(value, Enum):
        return "; use its .value"
    if isinstance(value, PathLike):
        return "; use str(path) for its name or cogcache.file_digest(path) for its content"
    if isinstance(value, bytearray | memoryview):
        return "; use bytes(...)"
    if isinstance(value, set | frozenset):
        return "; use sorted(...)"
    if isinstance(value, complex):
        return "; use [z.real, z.imag]"
    if hasattr(value, "isoformat"):
        return "; use .isoformat()"
    if hasattr(value, "as_integer_ratio"):
        return "; use float(...), str(...) or fractions.Fraction(...)"
    if hasattr(value, "encoded") and hasattr(value, "digest"):
        return "; use its .digest"
    if hasattr(value, "tolist") and getattr(value, "shape", None) == ():
        return "; use .item(), or its text"
    if hasattr(value, "tolist"):
        return "; use .tolist(), or a digest of its bytes"
    if hasattr(value, "__dataclass_fields__"):
        return "; use dataclasses.asdict(...)"
    return ""


def refuse(kind: str, steps: tuple[str | int, ...], value: object) -> NoReturn:
    """Raise what the C encoder found: ``kind`` names the fault, ``steps`` the place."""
    place = _place(steps)
    name = type(value).__name__
    match kind:
        case "type":
            raise KeyTypeError(f"{place}: a key cannot hold a {name}{_hint(value)}", place)
        case "name":
            raise KeyTypeError(f"{place}: the names of a map in a key are str, not {name}", place)
        case "surrogate":
            raise KeyTypeError(f"{place}: text with a lone surrogate has no place in a key", place)
        case "nul":
            raise ValueError(f"{place}: text with a NUL character has no place in a key")
        case "depth":
            raise ValueError(
                f"{place}: lists and maps in a key nest at most {DEPTH_MAX} deep"
                " (does it hold itself?)"
            )
        case "duplicate":
            raise ValueError(f"{place}: two names of a map are the same text")
        case "empty":
            raise ValueError(f"{place}: the name of a parameter is an empty text")
        case "profile" | "artifact":
            size = len(str(value).encode())
            raise ValueError(f"a key has at most 65,536 bytes, and its {kind} alone has {size:,}")
        case "size":
            raise ValueError(
                "a key has at most 65,536 bytes, and its parameters make more: "
                "put long texts together into one parameter, which is kept as a digest"
            )
    raise ValueError(
        f"{place}: parameter values over 64 bytes are kept whole in the entry's metadata, which"
        " holds at most 983,040 bytes of them together; pass a digest of this one instead"
    )
