"""Names of numpy types in entries, and what of numpy is refused.

numpy is imported when the first array comes out of an entry, never before.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cogcache._core import UnsupportedError
from cogcache.exceptions import ValueTypeError

if TYPE_CHECKING:
    import numpy as np

_PLAIN_DTYPE = re.compile(
    r"\|b1|\|[iu]1|[<>][iu][248]|[<>]f[248]|[<>]c(?:8|16)|\|S[0-9]{1,9}|[<>]U[0-9]{1,9}"
    r"|[<>][Mm]8(?:\[[0-9]{0,9}(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)
_ML_DTYPES = frozenset(
    {
        "bfloat16",
        "float8_e3m4",
        "float8_e4m3",
        "float8_e4m3b11fnuz",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
    }
)


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name that an entry holds for a dtype.

    Raises:
        ValueTypeError: A dtype that is not stored, with what to do instead.
    """
    if dtype.type.__module__.partition(".")[0] == "ml_dtypes":
        if dtype.name in _ML_DTYPES:
            return str(dtype.name)
        raise ValueTypeError(f"an array of {dtype.name}; cast it to bfloat16, a float8 or an int8")
    if dtype.hasobject:
        raise ValueTypeError("an array of objects; store a list, or an array of numbers or text")
    if dtype.names is not None:
        raise ValueTypeError("a structured array; store a dict with one array per field")
    name = dtype.str
    if dtype.type.__module__ == "numpy" and _PLAIN_DTYPE.fullmatch(name):
        return str(name)
    raise ValueTypeError(
        f"an array of {dtype}; only bool, int8-64, uint8-64, float16-64, complex64-128, S, U, "
        "datetime64, timedelta64, bfloat16 and float8 are the same on every machine"
    )


def dtype_of(name: str) -> np.dtype[Any]:
    """The dtype for a stored name, from the closed list of what can be stored.

    Raises:
        UnsupportedError: A name that this version does not know, or numpy or ml_dtypes is missing.
    """
    try:
        import numpy as np
    except ImportError:
        raise UnsupportedError("missing-extra", "an array, and numpy is not installed") from None
    if name in _ML_DTYPES:
        try:
            import ml_dtypes
        except ImportError:
            text = f"an array of {name}, and ml_dtypes is not installed"
            raise UnsupportedError("missing-extra", text) from None
        scalar = getattr(ml_dtypes, name, None)
        if scalar is None:
            raise UnsupportedError("unknown-dtype", f"{name}: not in this ml_dtypes")
        made: np.dtype[Any] = np.dtype(scalar)
        return made
    if not _PLAIN_DTYPE.fullmatch(name):
        raise UnsupportedError("unknown-dtype", f"dtype {name!r}")
    return np.dtype(name)


def plain_array(array: Any, numpy: Any) -> Any:
    """The bare array of a subclass that adds nothing to it.

    Raises:
        ValueTypeError: A subclass that does.
    """
    if isinstance(array, numpy.ma.MaskedArray):
        raise ValueTypeError("a masked array; store value.data and value.mask, or value.filled()")
    if isinstance(array, numpy.matrix):
        raise ValueTypeError("a numpy.matrix; store numpy.asarray(value)")
    return array.view(numpy.ndarray)


def scalar_of(payload: Any) -> Any:
    """The numpy scalar for [dtype name, bytes]."""
    import numpy as np

    name, data = payload
    array = np.frombuffer(data, dtype_of(name))
    if array.shape != (1,):
        raise ValueError("a scalar of another size than its type")
    return array[0]
