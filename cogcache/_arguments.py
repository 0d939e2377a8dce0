"""Arguments that several methods take, checked before anything is done with them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from cogcache._types import Duration, duration_ms

_MODES = ("cow", "view", "copy")


def load_options(mode: object, frames: object) -> dict[str, Any]:
    """What the decoder is told; checked here, so that a slip is never taken for damage."""
    options: dict[str, Any] = {}
    if mode != "cow":
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(_MODES)}, not {mode!r}")
        options["mode"] = mode
    if frames is not True:
        if frames is not False:
            frames = checked_frame_ids(frames)
        options["frames"] = frames
    return options


def checked_frame_ids(frames: Any) -> list[int | str]:
    """The ids of the frames that a caller wants, as a list.

    Raises:
        TypeError: It is not several ids, each an int or a string.
    """
    if isinstance(frames, str | bytes | Mapping) or not isinstance(frames, Iterable):
        raise TypeError(f"frames must be several frame ids, not {frames!r}")
    return [_frame_id(one) for one in frames]


def _frame_id(value: Any) -> int | str:
    if isinstance(value, str):
        return value
    if not isinstance(value, bool) and hasattr(value, "__index__"):  # numpy's integers too
        return operator.index(value)
    raise TypeError(f"frames: a frame id is an int or a string, not {value!r}")


def check_kept(ttl: Duration | None, cost_seconds: float | None) -> None:
    """Find a mistake before anything is computed."""
    duration_ms(ttl, None)
    if cost_seconds is not None:
        milliseconds(cost_seconds)


def checked_tags(tags: Iterable[str]) -> list[str]:
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise TypeError(
            f"tags must be several strings, not one {type(tags).__name__}; write [{tags!r}]"
        )
    names = list(dict.fromkeys(tags))
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"a tag must be a non-empty string, not {name!r}")
        if len(name.encode("utf-8", "surrogatepass")) > 512:
            raise ValueError(f"a tag may have at most 512 UTF-8 bytes; {name[:40]!r}... has more")
    return names


def milliseconds(seconds: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        raise ValueError(f"cost_seconds must be a number of seconds from 0 to 1e9, not {seconds!r}")
    return round(seconds * 1000)
