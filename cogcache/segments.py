"""Frames of all segments of a long video in one call."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from cogcache._types import Lookup
from cogcache.exceptions import shown
from cogcache.tiering import together

Segment = tuple[int, float, float]
"""The id of a segment, its start and its end in seconds."""

AT_ONCE = 64
"""Segments that are looked up at the same time."""


def checked_segments(segments: Iterable[Segment]) -> list[Segment]:
    """The segments as a list.

    Raises:
        TypeError: They are not (id, start, end) each.
        ValueError: An id is there twice.
    """
    if isinstance(segments, str | bytes) or not isinstance(segments, Iterable):
        raise TypeError(
            f"segments must be (segment_id, start_time, end_time) each, not {shown(segments)}"
        )
    wanted: list[Segment] = []
    ids: set[int] = set()
    for number, one in enumerate(segments):
        if not isinstance(one, tuple | list) or len(one) != 3:
            raise TypeError(
                f"segments[{number}] must be (segment_id, start_time, end_time), not {shown(one)}"
            )
        if one[0] in ids:
            raise ValueError(f"segments[{number}]: segment {shown(one[0])} is there twice")
        ids.add(one[0])
        wanted.append((one[0], one[1], one[2]))
    return wanted


async def frames_of(
    segments: Iterable[Segment], look: Callable[[Segment], Coroutine[Any, Any, Lookup]]
) -> dict[int, Any]:
    """What ``look`` finds for each segment, by id; those that it does not find are left out."""
    wanted = checked_segments(segments)
    there: dict[int, Any] = {}

    for start in range(0, len(wanted), AT_ONCE):
        part = wanted[start : start + AT_ONCE]
        found = await together([look(one) for one in part])
        there |= {
            one[0]: answer.value for one, answer in zip(part, found, strict=True) if answer.hit
        }
    return there
