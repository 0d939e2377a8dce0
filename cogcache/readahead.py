"""Reading ahead of ranges that follow each other, as players and decoders ask for them.

Two ranges in a row are a habit: the one after them is then brought along, whole chunks, while the
caller is busy with what it has. One range ahead, at most 8 MiB; a range that begins elsewhere ends
it. What was asked for never waits for what was not: reading ahead begins when a range was given,
and a range that is on its way already is only waited for because it began earlier.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["AHEAD_BYTES", "RUNS", "Run", "Runs"]

AHEAD_BYTES: Final = 8 << 20  # of one run, at hand and on their way
RUNS: Final = 4  # of one manager, for ranges that are asked for by key
_HABIT: Final = 2  # ranges in a row

Fetch = Callable[[int, int], Coroutine[Any, Any, bytes]]


@dataclass(frozen=True, slots=True)
class _Held:
    """Bytes of the part that are at hand."""

    at: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Coming:
    """Bytes of the part that are on their way."""

    at: int
    task: asyncio.Task[bytes]


_NOTHING: Final = _Held(-1, b"")


class Run:
    """What one reader of one part has asked for last, and what is there of what comes next. Of one
    event loop. Several tasks may read at once: every piece says where it belongs.

    Args:
        count: ``count(name, more)`` adds to the counters: ``prefetches``, ``prefetch_bytes``,
            ``prefetch_hits`` (ranges of which something was there), ``prefetch_unused`` (bytes that
            nobody asked for), ``prefetch_errors``.
    """

    def __init__(self, count: Callable[[str, int], None]) -> None:
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._next = -1  # where a range goes on
        self._streak = 0
        self._held = _NOTHING
        self._coming: _Coming | None = None

    async def take(self, start: int, stop: int) -> bytes:
        """As many of these bytes, from the first, as have been read ahead or are on their way; none
        after a seek.
        """
        if start != self._next or self._held.at not in (-1, start):
            self.close()
            return b""
        held, self._held = self._held.data, _NOTHING
        coming = self._coming
        if coming is not None and coming.at != start + len(held):
            self.close()
        elif coming is not None and coming.at < stop:
            self._coming = None
            held += await self._result(coming.task)
        given, left = held[: stop - start], held[stop - start :]
        if left:
            if self._held is _NOTHING and self._next == start:
                self._held = _Held(stop, left)
            else:  # somebody else has read meanwhile
                self._count("prefetch_unused", len(left))
        if given:
            self._count("prefetch_hits", 1)
        return given

    async def _result(self, task: asyncio.Task[bytes]) -> bytes:
        try:
            data = await task
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if not task.cancelled() or (me is not None and me.cancelling()):
                raise
        except OSError:
            self._count("prefetch_errors", 1)
        else:
            self._count("prefetch_bytes", len(data))
            return data
        return b""

    def went_on(self, start: int, stop: int, size: int, chunk: int, fetch: Fetch) -> None:
        """A range was given; read ahead if it is a habit by now.

        Args:
            start: Of the range.
            stop: Of the range.
            size: Of the whole part.
            chunk: Bytes that are verified together.
            fetch: Reads a range.
        """
        self._streak = self._streak + 1 if start == self._next else 1
        self._next = stop
        held = self._held
        if held.at not in (-1, stop):
            self.close()
            return
        begin, wanted = stop + len(held.data), min(size, 2 * stop - start)
        if self._coming is not None and self._coming.at != begin:
            self.close()
            return
        if self._streak < _HABIT or self._coming is not None or begin >= wanted:
            return
        most = begin + AHEAD_BYTES - len(held.data)
        end = min(size, -(-wanted // chunk) * chunk)
        if end > most:
            end = most // chunk * chunk
        if end > begin:
            self._count("prefetches", 1)
            task = asyncio.create_task(fetch(begin, end), name="cogcache-ahead")
            task.add_done_callback(_forget_outcome)
            self._coming = _Coming(begin, task)

    def close(self) -> None:
        """Let go of everything; from any thread."""
        held, self._held = self._held, _NOTHING
        coming, self._coming = self._coming, None
        unused = len(held.data)
        if coming is not None:
            task = coming.task
            if task.done():
                if not task.cancelled() and task.exception() is None:
                    unused += len(task.result())
                    self._count("prefetch_bytes", len(task.result()))
            else:
                with contextlib.suppress(RuntimeError):  # the loop is closed, and the task with it
                    self._loop.call_soon_threadsafe(task.cancel)
        if unused:
            self._count("prefetch_unused", unused)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Whose it is."""
        return self._loop


class Runs:
    """The runs of ranges that are asked for by key: those of the last few values."""

    def __init__(self) -> None:
        self._runs: OrderedDict[tuple[int, int, str], Run] = OrderedDict()

    def of(self, token: int, part: str, count: Callable[[str, int], None]) -> Run:
        """The run of a part of a generation."""
        loop = asyncio.get_running_loop()
        name = (id(loop), token, part)
        run = self._runs.pop(name, None)
        if run is None or run.loop is not loop:
            run = Run(count)
        self._runs[name] = run
        while len(self._runs) > RUNS:
            with contextlib.suppress(KeyError):  # another thread has
                self._runs.popitem(last=False)[1].close()
        return run

    def close(self) -> None:
        """Let go of all."""
        while self._runs:
            with contextlib.suppress(KeyError):
                self._runs.popitem()[1].close()


def _forget_outcome(task: asyncio.Task[bytes]) -> None:
    if not task.cancelled():
        task.exception()  # said where it is asked for, if it is
