"""Values that the C walk does not know by itself: what they are stored as, and how they come back.

The walk in ``_core`` writes None, bool, int, float, str, bytes, bytearray, list, tuple, dict, set,
frozenset and numpy arrays alone. Everything else passes ``encode`` here, once a value, and comes
back through ``decode``. Types of a program's own are made known with ``register_type``; a stored
name is only ever looked up among those, never imported.

``docs/values.md`` is the specification of what is stored.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import pathlib
import struct
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from cogcache import _moments, images
from cogcache._arrays import dtype_name, dtype_of, plain_array, scalar_of
from cogcache._core import Draft, Entry, UnsupportedError
from cogcache.exceptions import MissingExtraError, ValueTypeError, shown, warn

__all__ = ["dtype_name", "dtype_of", "register_type", "stored_form"]

# Extension codes of the document; csrc/python/py_value.h has the same list.
BIGINT: Final = 4
DATETIME: Final = 5
DATE: Final = 6
TIME: Final = 7
TIMEDELTA: Final = 8
DECIMAL: Final = 9
UUID: Final = 10
ENUM: Final = 11
OBJECT: Final = 12
SCALAR: Final = 14
IMAGE: Final = 15
FRACTION: Final = 18
COMPLEX: Final = 19
PATH: Final = 21
BUNDLE: Final = 23

Answer = tuple[int | None, Any]
"""(code, payload bytes), (code, list inside the extension) or (None, what to store instead)."""


class FrameRef(int):
    """Number of the part that holds a frame; the C half makes them."""

    __slots__ = ()


class FramePart:
    """Encoded bytes that become a part named after a frame; the C walk knows this type."""

    __slots__ = ("compress", "data", "name")

    def __init__(self, name: str, data: bytes | memoryview, *, compress: bool = False) -> None:
        self.name = name
        self.data = data
        self.compress = compress


# --- types of the program's own -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Registration:
    cls: type
    name: str
    version: int
    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]
    is_enum: bool


_by_class: dict[type, _Registration] = {}
_by_name: dict[tuple[str, int], _Registration] = {}


def register_type(
    cls: type,
    *,
    name: str,
    version: int = 1,
    to_plain: Callable[[Any], Any] | None = None,
    from_plain: Callable[[Any], Any] | None = None,
) -> None:
    """Make a class storable: a dataclass, an Enum, or any class with two functions.

    An entry holds ``name``, ``version`` and the plain form. Whoever reads it must have registered
    the same name and version: otherwise the entry is a miss with the reason ``unknown-type`` and
    stays where it is. Nothing is ever imported by a stored name. Raise ``version`` when the plain
    form changes its meaning; a reader that can still read an old form registers both versions.

    Args:
        cls: The class; its subclasses are not included.
        name: What identifies it in entries, such as ``"myapp.Transcript"``; not a module path.
        version: From 1. An instance is stored with the highest version registered for its name.
        to_plain: Turns an instance into what can be stored; what it returns may hold registered
            types again. Default: the name of an Enum's member, the dict of a dataclass's fields.
        from_plain: The way back. Default: for an Enum the member of that name; for a dataclass an
            instance with these fields, made without calling ``__init__``.

    Raises:
        TypeError: ``cls`` is no class, or needs both functions and has them not.
        ValueError: The name and version belong to another class, or the type is stored exactly
            without being registered.
    """
    if not isinstance(cls, type):
        raise TypeError(f"cls: a class is needed, not {shown(cls)}")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.encode()) < 256:
        raise ValueError(f"name: {shown(name)}; a printable text of 1 to 255 bytes is needed")
    if type(version) is not int or not 1 <= version <= 0xFFFF:
        raise ValueError(f"version: {shown(version)}; an int from 1 to 65535 is needed")
    if (to_plain is None) != (from_plain is None):
        raise TypeError("to_plain and from_plain: give both or neither")
    for label, function in (("to_plain", to_plain), ("from_plain", from_plain)):
        if function is not None and not callable(function):
            raise TypeError(f"{label} must be a function, not {type(function).__name__}")
    if cls in _BUILT_IN:
        raise ValueError(f"{cls.__qualname__} is stored exactly without being registered")
    is_enum = to_plain is None and issubclass(cls, enum.Enum)
    if to_plain is None or from_plain is None:
        to_plain, from_plain = _default_plain(cls)
    known = _by_name.get((name, version))
    if known is not None and _identity(known.cls) != _identity(cls):
        raise ValueError(
            f"name: {shown(name)} version {version} is "
            f"{known.cls.__module__}.{known.cls.__qualname__}"
        )
    made = _Registration(cls, name, version, to_plain, from_plain, is_enum)
    _by_name[name, version] = made
    current = _by_class.get(cls)
    if current is None or current.name != name or current.version <= version:
        _by_class[cls] = made


def _identity(cls: type) -> tuple[str, str]:
    """A class that is defined again, in a notebook or on reload, is the same one."""
    return cls.__module__, cls.__qualname__


def _default_plain(cls: type) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    if issubclass(cls, enum.Enum):
        return _member_to_plain, lambda plain: cls[plain] if isinstance(plain, str) else cls(plain)
    if dataclasses.is_dataclass(cls):
        return _fields_of, lambda plain: _with_fields(cls, plain)
    raise TypeError(
        f"{cls.__qualname__}: to_plain and from_plain are needed; no dataclass, no Enum"
    )


def _member_to_plain(member: enum.Enum) -> Any:
    """The name; combined flags have none of their own, so their value."""
    name = member.name
    return name if isinstance(name, str) and name in type(member).__members__ else member.value


def _fields_of(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _with_fields(cls: type, plain: Any) -> Any:
    """An instance with exactly the stored fields: ``__init__`` may check, convert or count."""
    names = {field.name for field in dataclasses.fields(cls)}
    if not isinstance(plain, dict) or set(plain) != names:
        raise ValueError("other fields than the class has; register it with a higher version")
    value: Any = object.__new__(cls)
    for name, field in plain.items():
        object.__setattr__(value, name, field)
    return value


# --- on the way in --------------------------------------------------------------------------------

_warned: set[str] = set()


def encode(value: Any) -> Answer:
    """Say how a value is stored that the C walk does not know.

    Raises:
        ValueTypeError: It cannot be; the walk adds the path.
    """
    cls = type(value)
    made = _by_class.get(cls)
    if made is not None:
        return (ENUM if made.is_enum else OBJECT), [made.name, made.version, made.to_plain(value)]
    exact = _ENCODERS.get(cls)
    if exact is not None:
        return exact(value)
    module = cls.__module__.partition(".")[0]
    special = _BY_MODULE.get(module)
    if special is not None:
        answer = special(value)
        if answer is not None:
            return answer
    return _encode_kin(value)


def _encode_kin(value: Any) -> Answer:
    """A subclass of something known is stored as that, with one warning a type."""
    cls = type(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        plain = plain_array(value, numpy)
        if cls is not numpy.memmap:
            _warn_once(cls, numpy.ndarray)
        return None, plain
    _refuse_by_shape(value)
    for base, as_base in _BASES:
        if isinstance(value, base):
            plain = as_base(value)
            _warn_once(cls, base)
            return None, plain
    raise ValueTypeError(_refusal(value))


def _warn_once(cls: type, base: type) -> None:
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name not in _warned:
        _warned.add(name)
        warn(f"{name} is stored as {base.__name__}; register_type() keeps the type")


def _refuse_by_shape(value: Any) -> None:
    """Kin whose plain form would lose what makes them useful."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        raise ValueTypeError(
            f"{type(value).__name__} is a NamedTuple; store value._asdict() or register_type()"
        )
    if isinstance(value, tuple) and hasattr(value, "n_sequence_fields"):
        raise ValueTypeError(
            f"{type(value).__name__} has named fields; store tuple(value) or a dict"
        )
    if isinstance(value, dt.datetime) and getattr(value, "nanosecond", None):
        raise ValueTypeError(
            f"{type(value).__name__} with nanoseconds; store value.to_datetime64() or .isoformat()"
        )


def _refusal(value: Any) -> str:
    """The message for a type that nothing here can store, with what to do instead."""
    cls = type(value)
    name = (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )
    return f"{name} cannot be stored{_hint(value)}"


def _hint(value: Any) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "; register_type() it, or store dataclasses.asdict(value)"
    if isinstance(value, enum.Enum):
        return "; register_type() it, or store value.value or value.name"
    if isinstance(value, type):
        return ", nor can any class or function"
    if callable(getattr(value, "model_dump", None)):
        return "; store value.model_dump(), or register_type()"
    if hasattr(value, "gi_frame") or hasattr(value, "cr_frame") or hasattr(value, "ag_frame"):
        return "; store list(...) of it" if hasattr(value, "gi_frame") else "; await it first"
    if callable(getattr(value, "read", None)):
        return "; store what it reads"
    if isinstance(value, memoryview):
        return "; store bytes(value)"
    if hasattr(value, "__next__") or isinstance(value, range):
        return "; store list(...) of it"
    if isinstance(value, Mapping):
        return "; store dict(value)"
    if hasattr(value, "__array__"):
        return "; store numpy.asarray(value)"
    if callable(value):
        return "; functions and methods are not data"
    return "; register_type() makes a class storable"


# --- numpy, torch, Pillow -------------------------------------------------------------------------


def _encode_numpy(value: Any) -> Answer | None:
    numpy: Any = sys.modules["numpy"]
    if not isinstance(value, numpy.generic) or isinstance(value, (str, bytes)):
        return None  # np.str_ and np.bytes_ are kin of our own text
    return SCALAR, [dtype_name(value.dtype), value.tobytes()]


def _encode_ml_dtypes(value: Any) -> Answer | None:
    return (SCALAR, [dtype_name(value.dtype), value.tobytes()]) if hasattr(value, "dtype") else None


def _refuse_torch(value: Any) -> Answer | None:
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        grad, device = getattr(value, "requires_grad", False), str(getattr(value, "device", "cpu"))
        steps = (".detach()" if grad else "") + (".cpu()" if device != "cpu" else "")
        raise ValueTypeError(f"a torch.Tensor cannot be stored; store value{steps}.numpy()")
    return None


def _encode_pillow(value: Any) -> Answer | None:
    return (IMAGE, images.encode_exact(value)) if images.is_image(value) else None


_BY_MODULE: dict[str, Callable[[Any], Answer | None]] = {
    "numpy": _encode_numpy,
    "ml_dtypes": _encode_ml_dtypes,
    "torch": _refuse_torch,
    "PIL": _encode_pillow,
    "cogcache": lambda value: _encode_own(value),
}


# --- the rest -------------------------------------------------------------------------------------


def _encode_path(value: pathlib.PurePath) -> Answer:
    flavour = _FLAVOURS[type(value)]
    text = str(value)
    windows = isinstance(value, pathlib.PureWindowsPath)
    return PATH, [flavour, text.encode("utf-8", "surrogatepass" if windows else "surrogateescape")]


def _decode_path(payload: Any) -> pathlib.PurePath:
    flavour, data = payload
    if flavour.endswith("posix"):
        text = data.decode("utf-8", "surrogateescape")
        here = pathlib.PosixPath if sys.platform != "win32" else pathlib.PurePosixPath
        return (here if flavour == "posix" else pathlib.PurePosixPath)(text)
    if flavour not in ("windows", "pure-windows"):
        raise UnsupportedError("unknown-type", f"path of flavour {flavour!r}")
    text = data.decode("utf-8", "surrogatepass")
    there = pathlib.WindowsPath if sys.platform == "win32" else pathlib.PureWindowsPath
    return (there if flavour == "windows" else pathlib.PureWindowsPath)(text)


_FLAVOURS: Final[dict[type, str]] = {
    pathlib.PosixPath: "posix",
    pathlib.WindowsPath: "windows",
    pathlib.PurePosixPath: "pure-posix",
    pathlib.PureWindowsPath: "pure-windows",
}


def _encode_own(value: Any) -> Answer | None:
    """Frames on their way in: see ``frames.py``."""
    if hasattr(value, "to_document"):
        return BUNDLE, value.to_document()
    return (IMAGE, value.to_image()) if hasattr(value, "to_image") else None


_ENCODERS: dict[type, Callable[[Any], Answer]] = {
    dt.datetime: lambda value: (DATETIME, _moments.encode_datetime(value)),
    dt.date: lambda value: (DATE, _moments.encode_date(value)),
    dt.time: lambda value: (TIME, _moments.encode_time(value)),
    dt.timedelta: lambda value: (TIMEDELTA, _moments.encode_timedelta(value)),
    Decimal: lambda value: (DECIMAL, str(value).encode()),
    uuid.UUID: lambda value: (UUID, value.bytes),
    Fraction: lambda value: (FRACTION, [value.numerator, value.denominator]),
    complex: lambda value: (COMPLEX, struct.pack("<dd", value.real, value.imag)),
    **dict.fromkeys(_FLAVOURS, _encode_path),
}


def _decode_uuid(payload: bytes) -> uuid.UUID:
    return uuid.UUID(bytes=payload)


def _decode_fraction(payload: Any) -> Fraction:
    numerator, denominator = payload
    if type(numerator) is not int or type(denominator) is not int or denominator < 1:
        raise ValueError("a fraction of no ints")
    return Fraction(numerator, denominator)


def _decode_object(payload: Any) -> Any:
    name, version, plain = payload
    made = _by_name.get((name, version)) if isinstance(name, str) and type(version) is int else None
    if made is None:
        text = f"type {shown(name)} version {shown(version)} is not registered here"
        raise UnsupportedError("unknown-type", text)
    try:
        return made.from_plain(plain)
    except (UnsupportedError, MemoryError):
        raise
    except Exception as error:
        text = f"from_plain of {shown(name)} version {version}: {error!r}"
        raise UnsupportedError("type-failed", text) from error


def _decode_image(payload: Any) -> Any:
    if isinstance(payload[4], FrameRef):
        return images.EncodedImage.from_fields(payload)  # for Frames, which decode when asked
    try:
        return images.decode_exact(payload)
    except MissingExtraError as error:
        raise UnsupportedError("missing-extra", str(error)) from None


_DECODERS: dict[int, Callable[[Any], Any]] = {
    BIGINT: lambda payload: int.from_bytes(payload, "little", signed=True),
    DATETIME: _moments.decode_datetime,
    DATE: _moments.decode_date,
    TIME: _moments.decode_time,
    TIMEDELTA: _moments.decode_timedelta,
    DECIMAL: lambda payload: Decimal(payload.decode("ascii")),
    UUID: _decode_uuid,
    ENUM: _decode_object,
    OBJECT: _decode_object,
    SCALAR: scalar_of,
    IMAGE: _decode_image,
    FRACTION: _decode_fraction,
    COMPLEX: lambda payload: complex(*struct.unpack("<dd", payload)),
    PATH: _decode_path,
}


def decode(code: int, payload: Any) -> Any:
    """Turn the payload of an extension into its value: bytes, or the decoded list inside it.

    Raises:
        UnsupportedError: It needs something that this process does not have; ``args[0]`` says what.
        Exception: Any other means that the bytes are not what they should be; the caller says so.
    """
    return _DECODERS[code](payload)


_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, lambda value: bytes(memoryview(value))),
    (bytearray, lambda value: bytearray(memoryview(value))),
    (dict, dict.copy),
    (list, list.copy),
    (tuple, lambda value: tuple.__getitem__(value, slice(None))),
    (set, set),
    (frozenset, frozenset),
    (complex, complex.__complex__),
    (dt.datetime, lambda value: dt.datetime.combine(value.date(), value.timetz())),
    (dt.date, lambda value: dt.date(value.year, value.month, value.day)),
)

_BUILT_IN: Final = frozenset(
    {type(None), bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset}
) | frozenset(_ENCODERS)


# --- what a value is after a round trip -----------------------------------------------------------


def stored_form(value: Any) -> Any:
    """The value as a later hit would give it: encoded and decoded once, in memory.

    Raises:
        ValueTypeError: It cannot be stored.
    """
    draft = Draft(value, b"stored form", meta={}, refreshed_ms=0, ttl_ms=None, compress=False)
    return Entry.from_bytes(draft.compose().tobytes()).value()
