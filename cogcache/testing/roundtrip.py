"""Does a value come back from an entry as what it was?"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from cogcache.codecs import stored_form

__all__ = ["assert_round_trips"]


def assert_round_trips(value: Any) -> Any:
    """Store a value in memory, read it back, and compare deeply: types, order, bits.

    For tests of values that a program means to keep. Arrays must agree in dtype, shape and every
    bit, floats in every bit (NaN and -0.0 included), dicts in order; nothing may be shared with the
    original that could be changed.

    Returns:
        What came back.

    Raises:
        ValueTypeError: The value cannot be stored.
        AssertionError: It comes back different; names the path.
    """
    back = stored_form(value)
    _compare(value, back, "$")
    return back


def _compare(value: Any, back: Any, path: str) -> None:
    """Compare without recursion: values may be nested deeper than Python likes."""
    pairs: list[tuple[Any, Any, str]] = [(value, back, path)]
    while pairs:
        here, there, at = pairs.pop()
        if type(here) is not type(there):
            raise AssertionError(f"{at}: {_kind(here)} came back as {_kind(there)}")
        if isinstance(here, list | bytearray | dict | set) and here is there:
            raise AssertionError(f"{at}: the same object came back")
        parts = _parts(here, there, at)
        if parts is not None:
            pairs.extend(parts)
        elif not _same(here, there):
            raise AssertionError(f"{at}: {here!r:.200} came back as {there!r:.200}")


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _parts(here: Any, there: Any, at: str) -> list[tuple[Any, Any, str]] | None:
    """The pairs inside a container; ``None`` for what is compared as a whole."""
    if isinstance(here, dict):
        _check_length(here, there, at)
        keys = list(zip(here, there, strict=True))
        for left, right in keys:
            if type(left) is not type(right) or not _same(left, right):
                raise AssertionError(f"{at}: key {left!r} came back as {right!r}")
        return [(here[left], there[right], f"{at}[{left!r}]") for left, right in keys]
    if isinstance(here, list | tuple):
        _check_length(here, there, at)
        both = enumerate(zip(here, there, strict=True))
        return [(left, right, f"{at}[{index}]") for index, (left, right) in both]
    if dataclasses.is_dataclass(here) and not isinstance(here, type):
        names = [field.name for field in dataclasses.fields(here)]
        return [(getattr(here, n), getattr(there, n), f"{at}.{n}") for n in names]
    return None


def _check_length(here: Any, there: Any, at: str) -> None:
    if len(here) != len(there):
        raise AssertionError(f"{at}: {len(here)} items came back as {len(there)}")


def _same(here: Any, there: Any) -> bool:
    if isinstance(here, float):
        return struct.pack("<d", here) == struct.pack("<d", there)
    if isinstance(here, complex):
        left, right = (struct.pack("<dd", c.real, c.imag) for c in (here, there))
        return left == right
    if isinstance(here, Decimal):
        return bool(here.as_tuple() == there.as_tuple())  # a signalling NaN must not be compared
    if isinstance(here, tuple):  # a key
        pairs = zip(here, there, strict=False)
        return len(here) == len(there) and all(
            type(left) is type(right) and _same(left, right) for left, right in pairs
        )
    if isinstance(here, set | frozenset):
        return sorted(map(_shape, here)) == sorted(map(_shape, there))
    if isinstance(here, enum.Enum) or here is None:
        return here is there
    if hasattr(here, "dtype") and hasattr(here, "tobytes"):
        return _same_array(here, there)
    if hasattr(here, "getpalette") and hasattr(here, "tobytes"):
        return _same_picture(here, there)
    if isinstance(here, Mapping):
        return dict(here) == dict(there)
    return repr(here) == repr(there) and bool(here == there or here != here)


def _shape(value: Any) -> tuple[str, str]:
    return _kind(value), repr(value)


def _same_array(here: Any, there: Any) -> bool:
    writable = getattr(there.flags, "writeable", True) or here.shape == ()
    return bool(
        here.dtype == there.dtype
        and here.dtype.str == there.dtype.str
        and here.shape == there.shape
        and here.tobytes() == there.tobytes()
        and writable
    )


def _same_picture(here: Any, there: Any) -> bool:
    return bool(
        here.mode == there.mode
        and here.size == there.size
        and here.tobytes() == there.tobytes()
        and here.getpalette() == there.getpalette()
    )
