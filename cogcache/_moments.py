"""Dates, times and zones as bytes: the wall clock, so that nothing depends on a zone's rules."""

from __future__ import annotations

import datetime as dt
import struct
from typing import Final

from cogcache._core import UnsupportedError
from cogcache.exceptions import ValueTypeError

_EPOCH: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001 (wall clocks are counted from it)
_EPOCH_DAYS: Final = dt.date(1970, 1, 1).toordinal()
_NAIVE: Final = -(2**31)
_MOMENT: Final = struct.Struct("<qiB")
_DATE: Final = struct.Struct("<i")
_TIMEDELTA: Final = struct.Struct("<iii")
_MICROSECOND: Final = dt.timedelta(microseconds=1)


def _zone(value: dt.datetime | dt.time) -> tuple[int, bytes]:
    """Offset in seconds and the zone: ``=name`` of a fixed one, else a name of the tz database."""
    zone = value.tzinfo
    if zone is None:
        return _NAIVE, b""
    key = getattr(zone, "key", None)
    if type(zone) is dt.timezone:
        offset = zone.utcoffset(None)
        name = (
            "" if dt.timezone(offset).tzname(None) == zone.tzname(None) else f"={zone.tzname(None)}"
        )
    elif isinstance(key, str) and type(zone).__module__.startswith("zoneinfo"):
        offset = value.utcoffset() or dt.timedelta()
        name = key
    else:
        raise ValueTypeError(
            f"a time in a zone of type {type(zone).__module__}.{type(zone).__qualname__}; "
            "use zoneinfo.ZoneInfo or datetime.timezone"
        )
    if offset % dt.timedelta(seconds=1):
        raise ValueTypeError("a time whose zone is off by a fraction of a second")
    return offset // dt.timedelta(seconds=1), name.encode()


def _zone_from(offset: int, name: str) -> dt.tzinfo | None:
    if offset == _NAIVE:
        return None
    if name and not name.startswith("="):
        import zoneinfo

        try:
            return zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            text = f"time zone {name!r} is not in this machine's database"
            raise UnsupportedError("unknown-zone", text) from None
    delta = dt.timedelta(seconds=offset)
    return dt.timezone(delta, name[1:]) if name else dt.timezone(delta)


def encode_datetime(value: dt.datetime) -> bytes:
    """Microseconds of the wall clock, offset, fold, zone."""
    offset, name = _zone(value)
    wall = (value.replace(tzinfo=None, fold=0) - _EPOCH) // _MICROSECOND
    return _MOMENT.pack(wall, offset, value.fold) + name


def decode_datetime(payload: bytes) -> dt.datetime:
    """The way back; the zone is looked up by its name."""
    wall, offset, fold = _MOMENT.unpack_from(payload)
    zone = _zone_from(offset, payload[_MOMENT.size :].decode())
    return (_EPOCH + dt.timedelta(microseconds=wall)).replace(tzinfo=zone, fold=fold)


def encode_time(value: dt.time) -> bytes:
    """Microseconds since midnight, offset, fold, zone."""
    offset, name = _zone(value)
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return _MOMENT.pack(seconds * 1_000_000 + value.microsecond, offset, value.fold) + name


def decode_time(payload: bytes) -> dt.time:
    """The way back."""
    total, offset, fold = _MOMENT.unpack_from(payload)
    seconds, micro = divmod(total, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    zone = _zone_from(offset, payload[_MOMENT.size :].decode())
    return dt.time(hour, minute, second, micro, zone, fold=fold)


def encode_date(value: dt.date) -> bytes:
    """Days since 1970-01-01."""
    return _DATE.pack(value.toordinal() - _EPOCH_DAYS)


def decode_date(payload: bytes) -> dt.date:
    """The way back."""
    return dt.date.fromordinal(_DATE.unpack(payload)[0] + _EPOCH_DAYS)


def encode_timedelta(value: dt.timedelta) -> bytes:
    """Days, seconds, microseconds."""
    return _TIMEDELTA.pack(value.days, value.seconds, value.microseconds)


def decode_timedelta(payload: bytes) -> dt.timedelta:
    """The way back."""
    days, seconds, microseconds = _TIMEDELTA.unpack(payload)
    return dt.timedelta(days, seconds, microseconds)
