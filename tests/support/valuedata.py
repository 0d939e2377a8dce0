"""Values of every kind that can be kept, by name; the golden documents are made of them."""

import datetime as dt
import enum
import struct
import uuid
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import ml_dtypes
import numpy as np

from cogcache._core import Draft, Entry
from cogcache.codecs import register_type

DATA = Path(__file__).parents[1] / "data" / "values"
KEY = b"a key"


@dataclass
class Word:
    text: str
    start: float
    sure: bool = True


class Colour(enum.Enum):
    RED = 1
    GREEN = "g"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point:
    """Neither dataclass nor Enum."""

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    def __hash__(self) -> int:
        return hash((self.x, self.y))

    def __repr__(self) -> str:
        return f"Point({self.x}, {self.y})"


def register_all() -> None:
    register_type(Word, name="tests.Word")
    register_type(Colour, name="tests.Colour")
    register_type(Rights, name="tests.Rights")
    register_type(
        Point,
        name="tests.Point",
        version=3,
        to_plain=lambda p: (p.x, p.y),
        from_plain=lambda p: Point(*p),
    )


register_all()

NAN_WITH_PAYLOAD = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_DEAD_BEEF))[0]
LONG_TEXT = "keyframe " * 600
LONG_BYTES = bytes(range(256)) * 20
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def _ml(name: str) -> Any:
    return np.arange(6).astype(getattr(ml_dtypes, name)).reshape(2, 3)


VALUES: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "true": lambda: True,
    "false": lambda: False,
    "ints": lambda: [
        *(0, 1, 127, 128, 255, 256, 65535, 65536, 2**32, 2**63, 2**64 - 1),
        *(-1, -32, -33, -128, -129, -32768, -32769, -(2**31) - 1, -(2**63)),
    ],
    "big-ints": lambda: [2**64, -(2**63) - 1, 2**71 - 1, 2**71, -(2**71), -(2**71) - 1, 10**100],
    "floats": lambda: [
        0.0,
        -0.0,
        1.5,
        1e300,
        5e-324,
        float("inf"),
        float("-inf"),
        NAN_WITH_PAYLOAD,
    ],
    "complex": lambda: [1 + 2j, complex(-0.0, float("inf")), complex(0.0, -0.0)],
    "fractions": lambda: [Fraction(1, 3), Fraction(-(10**30), 7), Fraction(30000, 1001)],
    "decimals": lambda: [
        Decimal("1.10"),
        Decimal("-0"),
        Decimal("NaN123"),
        Decimal("sNaN"),
        Decimal("1E+999"),
    ],
    "texts": lambda: ["", "a", "plain", "Grüße, 世界, 🎬", "x" * 40, "NUL \0 within", "x" * 4096],
    "surrogates": lambda: ["\ud800", "a\udfffb", {"\ud800": 1}],
    "long-text": lambda: {"text": LONG_TEXT, "other": "é" * 3000, "odd": "\udc00" * 2000},
    "bytes": lambda: [b"", b"\0\xff", b"y" * 4096],
    "long-bytes": lambda: [LONG_BYTES, b"z" * 4097, LONG_TEXT],
    "bytearrays": lambda: [bytearray(), bytearray(b"ab"), bytearray(LONG_BYTES)],
    "lists": lambda: [[], [1, [2, [3, []]]], [None] * 20],
    "tuples": lambda: [(), (1,), (1, (2, "x")), tuple(range(300))],
    "dicts": lambda: {"b": 1, "a": {"nested": {}}, "long key " * 20: 2},
    "dict-keys": lambda: {
        "text": 1,
        5: 2,
        "5": 3,
        1.5: 4,
        None: 5,
        b"5": 6,
        True: 7,
        (1.5, 2.0): 8,
        ((), ("a", (1,))): 9,
        2**80: 10,
        -7: 11,
    },
    "sets": lambda: [set(), {1, "1", b"1", None, (1, 2)}, {frozenset({1}), frozenset()}],
    "frozensets": lambda: [frozenset(), frozenset({1.5, "a"}), frozenset({LONG_TEXT})],
    "datetimes": lambda: [
        dt.datetime(2026, 3, 1, 12, 30, 15, 123456),
        dt.datetime(1, 1, 1),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
        dt.datetime(2026, 3, 1, tzinfo=dt.UTC),
        dt.datetime(2026, 3, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, seconds=7))),
        dt.datetime(2026, 3, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")),
        dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),
        dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    ],
    "dates": lambda: [dt.date(1970, 1, 1), dt.date(1, 1, 1), dt.date(9999, 12, 31)],
    "times": lambda: [
        dt.time(),
        dt.time(23, 59, 59, 999999),
        dt.time(1, tzinfo=dt.UTC),
        dt.time(2, fold=1, tzinfo=BERLIN),
    ],
    "timedeltas": lambda: [
        dt.timedelta(),
        dt.timedelta(-1, 5, 7),
        dt.timedelta.max,
        dt.timedelta.min,
    ],
    "uuids": lambda: [uuid.UUID("12345678-1234-5678-1234-567812345678"), uuid.UUID(int=0)],
    "paths": lambda: [
        PurePosixPath("/a/b"),
        PurePosixPath("."),
        PureWindowsPath("C:\\x\\y"),
        PurePosixPath("/\udcff"),
    ],
    "dataclass": lambda: [Word("hi", 0.5), Word("nested", 1.0, sure=[Word("in", 2.0)])],
    "enums": lambda: [Colour.RED, Colour.GREEN, Rights.READ, Rights.READ | Rights.WRITE, Rights(0)],
    "registered": lambda: {"points": [Point(1, 2), Point(-3, 4)]},
    "array-small": lambda: np.arange(12, dtype="<i4").reshape(3, 4),
    "array-large": lambda: np.arange(3000, dtype="<f4").reshape(30, 100),
    "array-fortran": lambda: np.asfortranarray(np.arange(1200, dtype="<f8").reshape(30, 40)),
    "array-kinds": lambda: [
        np.array([True, False]),
        np.arange(3, dtype="u1"),
        np.arange(3, dtype=">u2"),
        np.arange(3, dtype="<i8"),
        np.arange(3, dtype="<f2"),
        np.array([1 + 2j], "<c8"),
        np.array([1 + 2j], ">c16"),
        np.array([b"ab", b"c"]),
        np.array(["ab", "ü"]),
        np.array(["2026-03-01"], "<M8[D]"),
        np.array([5], "<m8[25s]"),
        np.array(["NaT"], "<M8[ns]"),
        np.array(7.5),
        np.zeros((0, 3)),
        np.zeros((2, 0, 3), "i2"),
    ],
    "array-ml": lambda: [_ml("bfloat16"), _ml("float8_e4m3fn"), _ml("float8_e5m2")],
    "scalars": lambda: [
        np.float32(0.999),
        np.float64(-0.0),
        np.int64(-5),
        np.uint8(255),
        np.bool_(True),
        np.complex64(1 + 2j),
        np.datetime64("2026-03-01T12:00", "m"),
        np.timedelta64(5, "s"),
        np.float16(1.5),
        ml_dtypes.bfloat16(1.5),
    ],
    "many-parts": lambda: {
        "text": LONG_TEXT,
        "first": np.arange(2000.0),
        "blob": LONG_BYTES,
        "pair": (np.ones((50, 50), "f4"), bytearray(LONG_BYTES)),
        "tail": LONG_TEXT + "!",
    },
}


def draft(value: Any, **options: Any) -> Draft:
    settings: dict[str, Any] = {"meta": {}, "refreshed_ms": 0, "ttl_ms": None, **options}
    return Draft(value, KEY, **settings)


def image_of(value: Any, **options: Any) -> bytes:
    return draft(value, **options).compose().tobytes()


def entry_of(value: Any, **options: Any) -> Entry:
    return Entry.from_bytes(image_of(value, **options), KEY)


def round_trip(value: Any, **options: Any) -> Any:
    return entry_of(value, **options).value()


def document_of(entry: Entry) -> tuple[bytes, list[tuple[str, str, bytes]]]:
    """The document and the other parts, in the order of the file."""
    parts = [(part.kind, part.name, entry.read(part.number)) for part in entry.parts()]
    assert parts[-1][:2] == ("doc", "")
    return parts[-1][2], parts[:-1]
