"""Arrays of the cache into arrays of the caller: one copy, no array in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from cogcache import _core
from cogcache._inline import is_inline
from cogcache._offload import beside
from cogcache._types import Lookup
from cogcache.backends.base import SLOW
from cogcache.exceptions import shown

if TYPE_CHECKING:
    import numpy as np

    from cogcache.keys import Key
    from cogcache.tiering import Tiers

__all__ = ["LOOK_OPTIONS", "checked_array", "checked_rows", "fill", "fill_rows", "value_at_hand"]

# Stored values are looked at where they lie, each verified before the first byte is copied.
LOOK_OPTIONS: Final[dict[str, Any]] = {"mode": "view"}
_INLINE_BYTES: Final = 1 << 20  # that are copied on the loop's thread
_AT_ONCE: Final = 64  # rows whose values are held at a time

Rows = list[tuple[Any, Any]]
"""Arrays to fill, and what goes into each."""


def checked_array(array: Any, name: str) -> np.ndarray[Any, Any]:
    """An array that can be filled byte by byte.

    Raises:
        TypeError: It is no numpy array.
        ValueError: It is read-only, has gaps or another order, or holds Python objects.
    """
    # Only who has imported numpy has an array; whatever else it is, its type has another name.
    if not all(hasattr(array, one) for one in ("dtype", "flags", "shape", "nbytes")):
        raise TypeError(
            f"{name} must be a numpy array, not {type(array).__name__}; of a tensor give "
            "tensor.numpy(), which shares its memory"
        )
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be C-contiguous: fill np.empty(shape, dtype), or whole rows of one"
        )
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only; give one that may be written")
    if array.dtype.hasobject:
        raise ValueError(f"{name} holds Python objects; entries hold numbers and text")
    filled: np.ndarray[Any, Any] = array
    return filled


def checked_rows(out: Any, count: int) -> np.ndarray[Any, Any]:
    """An array with one row for each of ``count`` keys.

    Raises:
        ValueError: Another number of rows; and whatever ``checked_array`` raises.
    """
    rows = checked_array(out, "out")
    if rows.ndim == 0 or len(rows) != count:
        has = "no rows" if rows.ndim == 0 else f"{len(rows):,} rows"
        raise ValueError(f"out has {has} for {count:,} keys; give out[:{count}] or more rows")
    return rows


def value_at_hand(tiers: Tiers, encoded: bytes) -> Any:
    """The value that the first tier has at hand, to look at, or ``SLOW``."""
    first = tiers.backends[0]
    entry = tiers.fetch_now(first, encoded)
    if not isinstance(entry, _core.Entry):
        return SLOW
    return tiers.load_now(first, entry, LOOK_OPTIONS)


def _check_fits(key: str | Key, value: Any, array: Any, name: str) -> None:
    """Raise ``ValueError`` unless a stored value is an array like ``array``."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is None or shape is None or not hasattr(value, "flags"):
        raise ValueError(f"the value of {shown(str(key))} is no array but {type(value).__name__}")
    if dtype != array.dtype or shape != array.shape:
        raise ValueError(
            f"the value of {shown(str(key))} is {dtype} {shape}, {name} is {array.dtype} "
            f"{array.shape}"
        )


async def fill(key: str | Key, value: Any, array: Any, name: str = "array") -> None:
    """Copy a stored value into the caller's array.

    Raises:
        ValueError: It is no array, or one of another dtype or shape; nothing was written.
    """
    _check_fits(key, value, array, name)
    await _copy([(array, value)])


async def fill_rows(
    tiers: Tiers,
    keys: Sequence[str | Key],
    encoded: Sequence[bytes | None],
    rows: Any,
    look: Callable[[list[int]], Awaitable[Sequence[Lookup]]],
    hit: Callable[[], None],
) -> list[bool]:
    """Fill the row of each key that is there; which those are.

    Args:
        tiers: Of the manager.
        keys: One for each row.
        encoded: Their encodings; ``None`` for one that is never there or must be looked for.
        rows: The caller's.
        look: Looks for the keys of these numbers in all tiers, and counts.
        hit: Counts one that was at hand.
    """
    filled = [False] * len(keys)
    for start in range(0, len(keys), _AT_ONCE):
        left: list[int] = []
        found: Rows = []
        for at in range(start, min(start + _AT_ONCE, len(keys))):
            one = encoded[at]
            value = SLOW if one is None else value_at_hand(tiers, one)
            if value is SLOW:
                left.append(at)
                continue
            _check_fits(keys[at], value, rows[at], "a row of out")
            hit()
            found.append((rows[at], value))
            filled[at] = True
        for at, answer in zip(left, await look(left) if left else (), strict=True):
            if answer.hit:
                _check_fits(keys[at], answer.value, rows[at], "a row of out")
                found.append((rows[at], answer.value))
                filled[at] = True
        await _copy(found)
    return filled


async def _copy(found: Rows) -> None:
    """Copy, beside the loop where it is much. Who is cancelled meanwhile has some of it."""

    def work(beat: Callable[[], None]) -> None:
        for array, value in found:
            array[...] = value
            beat()

    if is_inline() or sum(array.nbytes for array, _ in found) <= _INLINE_BYTES:
        work(lambda: None)
    else:
        await beside(work)
