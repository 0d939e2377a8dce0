"""Every exception and warning that cogcache raises itself.

::

    Exception
    └── CogcacheError
        ├── ConfigError            (also ValueError)    a setting that cannot be: names the field,
        its limits, the fix
        ├── KeyTypeError           (also TypeError)     a key parameter of a type that keys cannot
        hold; has ``path``
        ├── ValueTypeError         (also TypeError)     a value of a type that no codec knows; has
        ``path``
        ├── ClosedError            (also RuntimeError)  the cache was closed before this call
        ├── RecursiveComputeError  (also RuntimeError)  a computation asked for the very key that
        it computes
        ├── MissingExtraError      (also ImportError)   names the optional extra to install
        ├── IncompleteError        (also OSError)       a stream ended before its declared size
        ├── NotFoundError          (also KeyError)      a stream of a key that no tier has
        └── PinLimitError          (also ValueError)    more would be pinned than may be
    UserWarning
    └── CogcacheWarning            a misuse or a change of state that does not fail the call

A fault of a tier, of the disk, of an entry or of a source file is none of these: it is a miss or
an answer ``False``
with a reason, and is counted.
"""

from __future__ import annotations

import reprlib
import sys
import warnings

__all__ = [
    "ClosedError",
    "CogcacheError",
    "CogcacheWarning",
    "ConfigError",
    "IncompleteError",
    "KeyTypeError",
    "MissingExtraError",
    "NotFoundError",
    "PinLimitError",
    "RecursiveComputeError",
    "ValueTypeError",
]


class CogcacheError(Exception):
    """The root of all errors of this package."""


class ConfigError(CogcacheError, ValueError):
    """A configuration that cannot work; the message names the field and what it accepts.

    Attributes:
        origin: Where the wrong thing is said, such as ``cogcache.toml:7``, where that is known; the
            message begins with it.
    """

    origin: str | None = None


class _PathTypeError(CogcacheError, TypeError):
    """A type error that knows where inside the argument the offender sits."""

    path: str

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(message, path)
        self.path = path

    def __str__(self) -> str:
        return str(self.args[0])


class KeyTypeError(_PathTypeError):
    """A key parameter has a type that keys cannot hold; ``path`` says where, such as
    ``$.params.sizes[2]``.
    """


class ValueTypeError(_PathTypeError):
    """A value has a type that the codec does not know; ``path`` says where, such as
    ``$.frames[3].meta``.
    """


class ClosedError(CogcacheError, RuntimeError):
    """The cache or backend was closed before this call."""


class RecursiveComputeError(CogcacheError, RuntimeError):
    """A computation asked, inside itself, for the key that it is computing: it would wait for
    itself.
    """


class PinLimitError(CogcacheError, ValueError):
    """No more entries may be pinned; says what the limit is."""


class MissingExtraError(CogcacheError, ImportError):
    """An optional dependency is missing; the message names the extra to install."""


class IncompleteError(CogcacheError, OSError):
    """A stream ended before the size that it had declared: a source that was to be stored, of which
    nothing is kept, or a stored value that cannot be read to its end.

    Attributes:
        tier: Name of the tier that failed; ``None`` for a source.
        part: Name of the part that was read; ``None`` for a source.
        position: Byte from which on it is missing; ``None`` where that is unknown.
    """

    tier: str | None = None
    part: str | None = None
    position: int | None = None


class NotFoundError(CogcacheError, KeyError):
    """``get_stream`` of a key that no tier has: an empty stream would be an empty value."""

    def __str__(self) -> str:
        return str(self.args[0])


class CogcacheWarning(UserWarning):
    """Something is probably not as meant, yet the call went on."""


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80


def shown(value: object) -> str:
    """``repr`` of a caller's argument for a message, cut short where it is long."""
    try:
        return _short.repr(value)
    except Exception:  # an int of more digits than Python prints, or a __repr__ that fails
        return f"<{type(value).__name__}>"


def warn(message: str) -> None:
    """Give a ``CogcacheWarning`` that names the line which called into this package, however deep
    inside it the reason was found.
    """
    level = 1
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("cogcache."):
        frame = frame.f_back
        level += 1
    warnings.warn(message, CogcacheWarning, stacklevel=level)
