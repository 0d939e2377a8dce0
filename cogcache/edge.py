"""Chunks of remote values of which only a part was asked for, kept for the next range of them.

A chunk is fetched and verified whole, however little of it is wanted: a player that asks for a few
kilobytes here and there would fetch the same megabytes again and again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

__all__ = ["EDGE_BYTES", "Edge"]

EDGE_BYTES: Final = 16 << 20  # of all chunks of a manager
WIDEST: Final = 8 << 20  # a read that would become larger than this is left as it is
KEPT_WHOLE: Final = 1 << 20  # parts and ranges up to here are kept when they are whole chunks, too
_MOST: Final = 256  # chunks

Part = tuple[int, str]
"""Token of the write and name of the part: bytes that never change."""


class Edge:
    """What is kept, least recently used first to go. From any thread.

    Args:
        seconds: How long a chunk is kept.
        count: ``count(name, more)`` adds to the counters: ``edge_hits`` are chunks that were here.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        seconds: float,
        count: Callable[[str, int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._count = count
        self._clock = clock
        self._held: dict[tuple[Part, int], tuple[float, bytes]] = {}

    async def read(
        self,
        part: Part,
        size: int,
        chunk: int,
        start: int,
        stop: int,
        fetch: Callable[[int, int], Awaitable[bytes]],
    ) -> bytes:
        """Bytes ``start`` to ``stop`` of a part, from here as far as its chunks are here.

        Args:
            part: Which.
            size: Of all of it.
            chunk: Bytes that are verified together; 0 keeps nothing.
            start: First byte.
            stop: Behind the last one.
            fetch: Reads a range.
        """
        if not chunk or start >= stop:
            return await fetch(start, stop)
        low, high = start // chunk * chunk, min(size, -(-stop // chunk) * chunk)
        is_whole = (low, high) == (start, stop)
        if high - low > WIDEST or (is_whole and high - low > KEPT_WHOLE):
            return await fetch(start, stop)
        numbers = range(low // chunk, -(-high // chunk))
        found = {number: self._take(part, number) for number in numbers}
        missing = [number for number, data in found.items() if data is None]
        if missing:
            first, last = missing[0], missing[-1]
            data = await fetch(first * chunk, min(size, (last + 1) * chunk))
            for number in range(first, last + 1):
                at = (number - first) * chunk
                found[number] = data[at : at + chunk]
                self._keep(part, number, data[at : at + chunk])
        self._count("edge_hits", len(numbers) - len(missing))
        whole = b"".join(data for data in found.values() if data is not None)
        return whole[start - low : stop - low]

    def clear(self) -> None:
        """Let go of all."""
        self._held = {}

    def _take(self, part: Part, number: int) -> bytes | None:
        kept = self._held.pop((part, number), None)
        if kept is None or self._clock() >= kept[0]:
            return None
        self._held[part, number] = kept
        return kept[1]

    def _keep(self, part: Part, number: int, data: bytes) -> None:
        if self._seconds <= 0:
            return
        self._held[part, number] = (self._clock() + self._seconds, data)
        items = list(self._held.items())
        total = sum(len(data) for _, (_, data) in items)
        for at, (name, (_, data)) in enumerate(items):
            if total <= EDGE_BYTES and len(items) - at <= _MOST:
                break
            self._held.pop(name, None)
            total -= len(data)
