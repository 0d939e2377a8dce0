"""A reader of value documents written from docs/values.md alone, in plain Python."""

import datetime as dt
import struct
import uuid
import zoneinfo
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any


@dataclass(frozen=True)
class Registered:
    """An Enum member or an object of a registered type, as it lies in the document."""

    code: int
    name: str
    version: int
    plain: Any


@dataclass(frozen=True)
class Picture:
    format: str
    size: tuple[int, int]
    mode: str
    done: dict[str, Any]
    data: bytes


@dataclass(frozen=True)
class Bundle:
    metadata: Any
    frames: list[tuple[Any, Any]]


@dataclass
class Reader:
    """A position in a document, and the parts that it may refer to: (kind, name, bytes)."""

    data: bytes
    parts: list[tuple[str, str, bytes]] = field(default_factory=list)
    at: int = 0

    def take(self, size: int) -> bytes:
        assert self.at + size <= len(self.data), "ends within a value"
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def items(self, count: int) -> list[Any]:
        return [self.value() for _ in range(count)]

    def pairs(self, count: int) -> dict[Any, Any]:
        made = {}
        for _ in range(count):
            key = self.value()
            assert key not in made
            made[key] = self.value()
        return made

    def value(self) -> Any:
        lead = self.number(1)
        if lead < 0x80:
            return lead
        if lead < 0x90:
            return self.pairs(lead & 15)
        if lead < 0xA0:
            return self.items(lead & 15)
        if lead < 0xC0:
            return self.take(lead & 31).decode()
        if lead >= 0xE0:
            return lead - 256
        width = 1 << (lead & 3)
        if 0xC4 <= lead <= 0xC6:
            return self.take(self.number(1 << (lead - 0xC4)))
        if 0xC7 <= lead <= 0xC9:
            size = self.number(1 << (lead - 0xC7))
            return self.extension(self.number(1), size)
        if 0xCC <= lead <= 0xCF:
            return self.number(width)
        if 0xD0 <= lead <= 0xD3:
            return int.from_bytes(self.take(width), "big", signed=True)
        if 0xD4 <= lead <= 0xD8:
            return self.extension(self.number(1), 1 << (lead - 0xD4))
        if 0xD9 <= lead <= 0xDB:
            return self.take(self.number(1 << (lead - 0xD9))).decode()
        if lead in (0xDC, 0xDD):
            return self.items(self.number(2 if lead == 0xDC else 4))
        if lead in (0xDE, 0xDF):
            return self.pairs(self.number(2 if lead == 0xDE else 4))
        return {0xC0: lambda: None, 0xC2: lambda: False, 0xC3: lambda: True, 0xCB: self.float}[
            lead
        ]()

    def float(self) -> float:
        return struct.unpack(">d", self.take(8))[0]

    def extension(self, code: int, size: int) -> Any:
        if code in _FLAT:
            return _FLAT[code](self, self.take(size))
        end = self.at + size
        inner = self.value()
        assert self.at == end, "an extension of another length"
        return _NESTED[code](inner)


def _part(reader: Reader, payload: bytes) -> Any:
    number, role = struct.unpack("<IB", payload)
    kind, _, data = reader.parts[number]
    assert kind in ("array", "blob", "frame")
    if role == 2:
        return data.decode("utf-8", "surrogatepass")
    return bytearray(data) if role == 1 else data


def _zone(offset: int, name: bytes) -> dt.tzinfo | None:
    if offset == -(2**31):
        return None
    delta, text = dt.timedelta(seconds=offset), name.decode()
    if text.startswith("="):
        return dt.timezone(delta, text[1:])
    return zoneinfo.ZoneInfo(text) if text else dt.timezone(delta)


def _datetime(_: Reader, payload: bytes) -> dt.datetime:
    wall, offset, fold = struct.unpack("<qiB", payload[:13])
    moment = dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=wall)
    return moment.replace(tzinfo=_zone(offset, payload[13:]), fold=fold)


def _time(_: Reader, payload: bytes) -> dt.time:
    wall, offset, fold = struct.unpack("<qiB", payload[:13])
    moment = (dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=wall)).time()
    return moment.replace(tzinfo=_zone(offset, payload[13:]), fold=fold)


def _array(payload: list[Any]) -> Any:
    import ml_dtypes
    import numpy as np

    name, shape, order, data = payload
    dtype = np.dtype(getattr(ml_dtypes, name) if "float" in name else name)
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _scalar(payload: list[Any]) -> Any:
    name, data = payload
    return _array([name, [1], "C", data])[0]


def _path(payload: list[Any]) -> Any:
    flavour, data = payload
    if "windows" in flavour:
        return PureWindowsPath(data.decode("utf-8", "surrogatepass"))
    return PurePosixPath(data.decode("utf-8", "surrogateescape"))


_FLAT = {
    1: _part,
    4: lambda _, payload: int.from_bytes(payload, "little", signed=True),
    5: _datetime,
    6: lambda _, p: dt.date(1970, 1, 1) + dt.timedelta(struct.unpack("<i", p)[0]),
    7: _time,
    8: lambda _, payload: dt.timedelta(*struct.unpack("<iii", payload)),
    9: lambda _, payload: Decimal(payload.decode("ascii")),
    10: lambda _, payload: uuid.UUID(bytes=payload),
    16: lambda _, payload: bytearray(payload),
    17: lambda _, payload: payload.decode("utf-8", "surrogatepass"),
    19: lambda _, payload: complex(*struct.unpack("<dd", payload)),
}
_NESTED = {
    2: tuple,
    3: set,
    11: lambda payload: Registered(11, *payload),
    12: lambda payload: Registered(12, *payload),
    13: _array,
    14: _scalar,
    15: lambda p: Picture(p[0], tuple(p[1]), p[2], p[3], p[4]),
    18: lambda payload: Fraction(*payload),
    20: frozenset,
    21: _path,
    23: lambda payload: Bundle(payload[0], [tuple(item) for item in payload[1]]),
}


def decode(document: bytes, parts: list[tuple[str, str, bytes]]) -> Any:
    """The value of a document with its parts, in the order of the file."""
    reader = Reader(document, parts)
    value = reader.value()
    assert reader.at == len(document), "bytes after the value"
    return value
