"""A stream that is stored while its caller consumes it: the caller never waits for a tier."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cogcache._inline import SyncFacade, without_caller
from cogcache.background import Background
from cogcache.exceptions import IncompleteError
from cogcache.feeding import PIECE_BYTES, StreamSource, as_given, pieces_of
from cogcache.streams import Branch, Inflow, StreamResult

__all__ = ["TeeInflow", "TeeStream"]

logger = logging.getLogger("cogcache")

TOO_SLOW: Final = "too-slow"
_LAST: Final = object()  # there are no more pieces
_READ_ON: Final = object()  # the caller has left, and the source has more


@dataclass(eq=False)
class _Lane:
    """What one tier has still to take.

    Attributes:
        branch: The tier.
        waiting: Pieces of its container, each with the number of the value's bytes that it goes up
            to; ``None`` after the last one.
        taken: Bytes of the value that it has taken.
        task: Carries them.
    """

    branch: Branch
    waiting: asyncio.Queue[tuple[bytes | None, int]] = field(default_factory=asyncio.Queue)
    taken: int = 0
    task: asyncio.Task[None] = field(init=False)


class TeeInflow(Inflow):
    """An inflow whose tiers go each at its own pace, and are given up where they lag too far
    behind. What is held for the slowest is what the caller was handed and it has not taken.

    Attributes:
        moved: Set when something was taken.
        patient: Whether tiers that lag are waited for: nobody else waits any more.
    """

    def __init__(self, *args: Any, most: int, **named: Any) -> None:
        super().__init__(*args, **named)
        self._most = most
        self._lanes: list[_Lane] = []
        self.moved = asyncio.Event()
        self.patient = False

    def lags(self, handed: int) -> bool:
        """Whether anything is too far behind ``handed`` bytes."""
        behind = min([self._size, *(lane.taken for lane in self._live_lanes())])
        return handed - behind > self._most

    def give_up_slow(self, handed: int) -> bool:
        """Leave the tiers behind that lag too far; ``False`` if it is not theirs alone: what
        compresses the value does.
        """
        if handed - self._size > self._most:
            return False
        for lane in self._live_lanes():
            if handed - lane.taken > self._most:
                self._leave(lane, TOO_SLOW)
        return True

    async def run(self, pieces: AsyncGenerator[memoryview, None]) -> StreamResult:
        try:
            return await super().run(pieces)
        finally:
            await asyncio.gather(*(lane.task for lane in self._lanes), return_exceptions=True)

    # --- steps ------------------------------------------------------------------------------------

    async def _look_for_unfinished(self, branch: Branch) -> None:
        """Nothing is waited for; so what broke off is not gone on with."""

    async def _begin(self, branch: Branch) -> None:
        lane = _Lane(branch)
        lane.task = asyncio.create_task(self._carry(lane), name="cogcache-tee-tier")
        self._lanes.append(lane)

    async def _carry(self, lane: _Lane) -> None:
        branch = lane.branch
        try:
            await super()._begin(branch)
            while branch.word is None:
                data, goes_to = await lane.waiting.get()
                if data is None:
                    return
                if data:
                    await self._feed_to(branch, data)
                lane.taken = goes_to
                self.moved.set()
        finally:
            if branch.word is not None:
                await self._give_up(branch)
            self.moved.set()

    async def _send(self, made: Mapping[int, bytes]) -> None:
        self._check_required()
        for lane in self._live_lanes():
            lane.waiting.put_nowait((made[id(lane.branch.writer)], self._size))
        self.moved.set()
        while self.patient and self.lags(self._size):
            self.moved.clear()
            await self.moved.wait()

    async def _sent(self) -> None:
        tasks = []
        for lane in self._live_lanes():
            lane.waiting.put_nowait((None, self._size))
            tasks.append(lane.task)
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()
        self._check_required()

    @contextlib.asynccontextmanager
    async def _publishing(self) -> AsyncIterator[None]:
        """Who changes the key calls this off and waits for that, but from another loop or thread
        cannot wait. So what may have come above a newer value is taken back: the key is a miss
        then.
        """
        if not self._live():
            yield
            return
        await self._tiers.storing.withdraw(self.key.__eq__)  # older streams of this loop
        await asyncio.sleep(0)  # who has called this off by now is heard
        changes = self._tiers.promotions.changes
        since = changes.number
        if not changes.unchanged(self.key, since):
            raise asyncio.CancelledError
        with changes.of([self.key]):
            try:
                yield
            finally:
                if not changes.is_alone(self.key, since):
                    await self._tiers.each(
                        "delete", lambda tier: tier.discard(self.key), failed=False, bounded=True
                    )

    async def _drop(self, branch: Branch, word: str) -> None:
        for lane in self._live_lanes():
            if lane.branch is branch:
                self._leave(lane, word)

    async def _leave_nothing(self, word: str) -> None:
        live = self._live_lanes()
        for lane in live:
            self._leave(lane, word)
        await asyncio.gather(*(lane.task for lane in live), return_exceptions=True)
        for lane in live:  # whose task had ended
            await self._give_up(lane.branch)

    # --- lanes ------------------------------------------------------------------------------------

    def _live_lanes(self) -> list[_Lane]:
        return [lane for lane in self._lanes if lane.branch.word is None]

    def _leave(self, lane: _Lane, word: str) -> None:
        lane.branch.word = word
        lane.task.cancel()  # which gives it up


class TeeStream:
    """The pieces of a source, as it gives them, which are stored meanwhile.

    Made by ``CacheManager.tee_stream``; read it inside ``async with``.

    Attributes:
        sync: The same, blocking.
    """

    def __init__(
        self,
        source: StreamSource,
        inflow: TeeInflow | None,
        store: Callable[[Inflow, AsyncGenerator[memoryview, None]], Awaitable[StreamResult]],
        background: Background,
        *,
        wait_seconds: float,
        finish: bool,
    ) -> None:
        self._given = as_given(source)
        self._inflow = inflow
        self._store = store
        self._background = background
        self._wait_left = wait_seconds
        self._finish = finish
        self._handed = 0
        self._turned = 0
        self._waiting: asyncio.Queue[object] = asyncio.Queue()
        self._reading: asyncio.Task[bytes] | None = None
        self._storing: asyncio.Task[StreamResult] | None = None
        self._word = "bad-key" if inflow is None else "abandoned"
        self._taking = True
        self._ended = False
        self.sync: Any = SyncFacade(self, bool)

    async def __aenter__(self) -> TeeStream:
        if self._inflow is not None and self._storing is None:
            work = self._stored_in(self._inflow)
            context = without_caller()
            self._storing = asyncio.create_task(work, name="cogcache-tee", context=context)
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next piece, as soon as the source has it.

        Raises:
            StopAsyncIteration: After the last one.
            RuntimeError: Outside of ``async with``.
            Exception: Whatever the source raises. Nothing is stored then.
        """
        if self._ended:
            raise StopAsyncIteration
        if self._storing is None and self._inflow is not None:
            raise RuntimeError("read it inside 'async with manager.tee_stream(...) as stream'")
        try:
            piece = await self._next()
        except Exception:
            self._ended = True
            self._call_off("source-failed")
            raise
        if piece:
            await self._offer(piece)
            return piece
        self._ended = True
        self._go_on_without_caller(_LAST)
        raise StopAsyncIteration

    async def __aexit__(self, *_: object) -> None:
        if self._ended:
            return
        self._ended = True
        if self._finish and self._is_taking():
            self._go_on_without_caller(_READ_ON)
            return
        self._call_off("abandoned")
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        await self._given.aclose()

    async def stored(self) -> StreamResult:
        """What has become of it: waits for the tiers, which have deadlines, after the last piece.

        Beside the words of ``put_stream``, ``reason`` may be ``too-slow`` (nothing kept up),
        ``source-failed``, ``abandoned`` (its pieces were not read to the last), ``withdrawn`` (its
        key was forgotten or put again meanwhile), ``incomplete`` or ``too-large`` (fewer or more
        bytes than ``length`` says, or more than ``chunking.max_chunks`` hold).

        Raises:
            RuntimeError: There are pieces that were not read yet.
        """
        if not self._ended:
            raise RuntimeError("stored() is known after the last piece; read the stream to its end")
        if self._storing is not None:
            await asyncio.wait({self._storing})
            if not self._storing.cancelled():
                return self._storing.result()
        return StreamResult(False, self._word, size=self._handed)

    # --- for the caller ---------------------------------------------------------------------------

    async def _next(self) -> bytes:
        """The next piece; an empty one after the last."""
        if not self._finish:
            return await anext(self._given, b"")
        if self._reading is None:  # which goes on where this call is cancelled
            self._reading = asyncio.ensure_future(_next_of(self._given))
        await asyncio.wait({self._reading})
        reading, self._reading = self._reading, None
        return reading.result()

    async def _offer(self, piece: bytes) -> None:
        """Let the tiers have it too."""
        self._handed += len(piece)
        inflow = self._inflow
        if inflow is None or not self._is_taking():
            return
        self._waiting.put_nowait(piece)
        if inflow.lags(self._handed):
            await self._make_room(inflow)
        elif self._handed - self._turned >= PIECE_BYTES:  # some sources never let the loop turn
            self._turned = self._handed
            await asyncio.sleep(0)

    async def _make_room(self, inflow: TeeInflow) -> None:
        await asyncio.sleep(0)
        while self._is_taking() and inflow.lags(self._handed):
            if self._wait_left <= 0:
                if not inflow.give_up_slow(self._handed):
                    self._call_off(TOO_SLOW)
                return
            began = time.monotonic()
            inflow.moved.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._wait_left):
                    await inflow.moved.wait()
            self._wait_left -= time.monotonic() - began

    def _is_taking(self) -> bool:
        return self._taking and self._storing is not None and not self._storing.done()

    def _call_off(self, word: str) -> None:
        """Store nothing. What tiers have is cleared away in the background."""
        if self._is_taking():
            assert self._storing is not None and self._inflow is not None
            self._word, self._taking = word, False
            self._waiting = asyncio.Queue()
            self._storing.cancel()
            self._background.add(self._storing, self._inflow.key)

    def _go_on_without_caller(self, last: object) -> None:
        """From now on whoever forgets the key, or puts it again, calls this off."""
        if self._is_taking():
            assert self._storing is not None and self._inflow is not None
            self._word = "withdrawn"
            self._inflow.patient = last is _READ_ON
            self._waiting.put_nowait(last)
            self._background.call_off(self._inflow.key.__eq__)  # what is older
            self._background.add(self._storing, self._inflow.key)

    # --- for the tiers ----------------------------------------------------------------------------

    async def _stored_in(self, inflow: TeeInflow) -> StreamResult:
        try:
            return await self._store(inflow, pieces_of(self._pieces()))
        except Exception as error:
            return StreamResult(False, self._word_for(error), size=self._handed)

    def _word_for(self, error: Exception) -> str:
        if self._word == "source-failed":
            return self._word
        if isinstance(error, IncompleteError):
            return "incomplete"
        if isinstance(error, ValueError):
            return "too-large"
        logger.warning("a stream was not stored: %s: %s", type(error).__name__, error)
        return "io-error"

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        """What the caller was handed, and if it left and that is wanted, the rest."""
        waiting = self._waiting
        while isinstance(piece := await waiting.get(), bytes):
            yield piece
        if piece is _LAST:
            return
        async with contextlib.aclosing(self._given):  # the caller has left early
            while rest := await self._next_alone():
                self._handed += len(rest)
                yield rest

    async def _next_alone(self) -> bytes:
        try:
            return await self._next()
        except Exception:
            self._word = "source-failed"
            raise


async def _next_of(given: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(given, b"")
