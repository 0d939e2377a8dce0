"""Reading everything that is stored and comparing it with its checksums:
``CacheManager.verify``.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from cogcache import _core
from cogcache._inline import is_inline
from cogcache.backends.base import CacheBackend
from cogcache.backends.faults import AbsentError, NotAskedError
from cogcache.backends.places import Place, Sieve
from cogcache.keys import Key
from cogcache.verifyreport import Damage, DamagedEntry, TierCheck, VerifyProgress, VerifyReport

if TYPE_CHECKING:
    from cogcache.selection import Selection

__all__ = ["verify_tiers"]

T = TypeVar("T")

AT_ONCE: Final = 4  # entries of a tier that are read together, ...
BATCHES_AT_ONCE: Final = 3  # ... or batches of files: a thread of the pool stays for other reads
SLICE_BYTES: Final = 8 << 20  # stored bytes that one step reads
INLINE_BYTES: Final = 64 << 10  # what is in memory and so short is checked on the loop's thread ...
BREATH_BYTES: Final = 1 << 20  # ... which turns after so much
TOLD_ENTRIES: Final = 1000
LISTED: Final = 10_000  # damaged entries of a tier that a report names
_FLAWS: Final[dict[str | None, str]] = {
    None: "",
    "life": "both records of how long it lives are damaged, so nobody gets its value any more; "
    "with fix it is taken away, and computed anew when it is asked for",
    "metadata": "its metadata breaks a rule of the format: what wrote it has an error",
}


async def verify_tiers(
    tiers: Sequence[CacheBackend],
    meant: Selection,
    *,
    fix: bool,
    progress: Callable[[VerifyProgress], object] | None,
) -> VerifyReport:
    """See ``CacheManager.verify``."""
    began = time.monotonic()
    done: list[_Check] = []
    for tier in tiers:
        check = _Check(tier, meant, fix, progress, done)
        await check.run()
        done.append(check)
    return VerifyReport(
        tiers=tuple(check.result() for check in done),
        damaged=tuple(one for check in done for one in check.damaged),
        unreadable=tuple(one for check in done for one in check.unreadable),
        entries=sum(check.entries for check in done),
        bytes_read=sum(check.bytes_read for check in done),
        seconds=time.monotonic() - began,
        fix=fix,
    )


class _InterruptError(Exception):
    """The callback raised its cause."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What reading an entry has shown.

    Attributes:
        damage: What does not hold.
        error: What else is wrong.
        is_known: Whether it was read; else nothing is known of it.
    """

    damage: tuple[Damage, ...] = ()
    error: str = ""
    is_known: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether it was read and is as it was written."""
        return not (self.damage or self.error)


class _Check:
    """The verification of one tier."""

    def __init__(
        self,
        tier: CacheBackend,
        meant: Selection,
        fix: bool,
        progress: Callable[[VerifyProgress], object] | None,
        before: Sequence[_Check],
    ) -> None:
        self._tier = tier
        self._meant = meant
        self._fix = fix
        self._progress = progress
        self._before = before
        self._told = (0, 0)  # entries and bytes, when last told
        self._breath = 0  # bytes since the loop turned
        self.damaged: list[DamagedEntry] = []
        self.unreadable: list[DamagedEntry] = []
        self.entries = self.bytes_read = 0
        self.damaged_count = self.unreadable_count = self.removed = 0
        self.error = ""

    def result(self) -> TierCheck:
        return TierCheck(
            self._tier.name,
            self.entries,
            self.bytes_read,
            self.damaged_count,
            self.removed,
            self.unreadable_count,
            self.error,
        )

    async def run(self) -> None:
        """Look through the tier; where it does not answer, ``error`` says so."""
        source = self._meant.source_hash
        sieve = self._tier.sieve(source, None if self._meant.everything else self._is_meant)
        try:
            if sieve is None:
                most = AT_ONCE if self._tier.is_remote else min(AT_ONCE, os.cpu_count() or 1)
                await _some_at_once(self._not_at_hand(source), self._look, most)
            else:
                work = partial(self._sift, sieve)
                await _some_at_once(self._answered(sieve.batches()), work, BATCHES_AT_ONCE)
            self._tell()
        except _InterruptError as error:
            raise error.args[0] from None

    async def _answered(self, all_of_it: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """All of it, as far as the tier answers."""
        try:
            while not self.error:
                try:
                    one = await anext(all_of_it)
                except StopAsyncIteration:
                    return
                except Exception as error:
                    self._give_up(error)
                    return
                yield one
        finally:
            if isinstance(all_of_it, AsyncGenerator):
                await all_of_it.aclose()

    async def _sift(self, sieve: Sieve, batch: bytes) -> None:
        """Read a batch, and look closer at what it leaves."""
        while batch and not self.error:
            try:
                sifted = await sieve.sift(batch)
            except Exception as error:
                self._give_up(error)
                return
            self._count(sifted.bytes_read)
            self._count_entries(sifted.entries)
            for place in sifted.left:
                await self._look(place)
            batch = sifted.rest

    async def _not_at_hand(self, source: int) -> AsyncGenerator[Place, None]:
        """The places that are meant, without those whose entries are at hand, short and whole."""
        async with aclosing(self._answered(self._tier.places(source))) as places:
            async for place in places:
                entry = place.entry
                if entry is not None and not self._is_meant(entry):
                    continue
                if entry is None or not _is_short_and_whole(entry):
                    yield place
                    continue
                self._count(entry.length)
                self._count_entries(1)
                await self._breathe(entry.length)

    def _is_meant(self, entry: _core.Entry) -> bool:
        if self._meant.everything or entry.flaw == "metadata":  # that does not tell what it is
            return True
        return self._meant.means(entry, Key.from_encoded(entry.key), self._tier.now_ms())

    async def _breathe(self, size: int) -> None:
        self._breath += size
        if self._breath >= BREATH_BYTES:
            self._breath = 0
            if not is_inline():
                await asyncio.sleep(0)

    async def _look(self, place: Place) -> None:
        """Read one entry, and once more if it is not whole; then it is what it seems."""
        verdict = await self._read(place, counting=True)
        if not verdict.is_whole:
            try:
                now = await self._tier.place_again(place)
            except Exception as error:
                if verdict.is_known:
                    verdict = _Verdict(error=str(error), is_known=False)
            else:
                if now is None:
                    return  # removed or replaced meanwhile
                place, verdict = now, await self._read(now)
        if verdict.is_known:
            self._count_entries(1)
        if not verdict.is_whole:
            await self._report(place, verdict)

    async def _read(self, place: Place, *, counting: bool = False) -> _Verdict:
        entry = place.entry
        if entry is None:
            return _Verdict(error=place.error, is_known=place.is_damaged)
        parts = entry.parts()
        found: list[Damage] = []
        left = entry.length
        try:
            for first, stop, size in _slices(parts):
                for number, chunk in await self._tier.damage_in(entry, first, stop):
                    found.append(_damage(parts, number, chunk))
                if counting:
                    self._count(min(size, left))
                    left -= min(size, left)
        except (_core.DamagedError, AbsentError) as error:
            return _Verdict(tuple(found), str(error) or "some of its bytes are missing")
        except NotAskedError as error:
            self._give_up(error)
            return _Verdict(error=str(error), is_known=False)
        except _InterruptError:
            raise
        except Exception as error:
            return _Verdict(error=str(error) or type(error).__name__, is_known=False)
        if counting:
            self._count(left)
        return _Verdict(tuple(found), place.error or _FLAWS[entry.flaw])

    async def _report(self, place: Place, verdict: _Verdict) -> None:
        removed = False
        if verdict.is_known and self._fix:
            try:
                removed = await self._tier.remove_place(place)
            except Exception as error:
                self._tier.note_fault("delete", error)
        entry = place.entry
        told = DamagedEntry(
            key=None if entry is None else Key.from_encoded(entry.key),
            tier=self._tier.name,
            place=place.name,
            damage=verdict.damage,
            error=verdict.error,
            stored_bytes=0 if entry is None else entry.length,
            removed=removed,
        )
        self.removed += removed
        if verdict.is_known:
            self.damaged_count += 1
        else:
            self.unreadable_count += 1
        listed = self.damaged if verdict.is_known else self.unreadable
        if len(listed) < LISTED:
            listed.append(told)

    def _give_up(self, error: Exception) -> None:
        """The tier does not answer: what comes now would not be answered either."""
        if not self.error:
            self._tier.note_fault("verify", error)
            self.error = f"{type(error).__name__}: {error}"

    # --- counting and telling ---------------------------------------------------------------------

    def _count_entries(self, count: int) -> None:
        self.entries += count
        if self.entries - self._told[0] >= TOLD_ENTRIES:
            self._tell()

    def _count(self, size: int) -> None:
        self.bytes_read += size
        if self.bytes_read - self._told[1] >= SLICE_BYTES:
            self._tell()

    def _tell(self) -> None:
        self._told = self.entries, self.bytes_read
        if self._progress is None:
            return
        checks = [*self._before, self]
        told = VerifyProgress(
            self._tier.name,
            sum(check.entries for check in checks),
            sum(check.bytes_read for check in checks),
            sum(check.damaged_count for check in checks),
        )
        try:
            self._progress(told)
        except BaseException as error:
            raise _InterruptError(error) from error


def _is_short_and_whole(entry: _core.Entry) -> bool:
    is_short = entry.in_memory and entry.length <= INLINE_BYTES
    return is_short and entry.flaw is None and not entry.damage()


def _slices(parts: Sequence[_core.PartInfo]) -> Iterator[tuple[int, int, int]]:
    """Chunks [first, stop) of a container to be read with one step, and about how many bytes they
    are; at least one slice, which may have no chunks.
    """
    first = stop = size = 0
    for part in parts:
        left = part.chunk_count
        while left:
            each = max(1, part.stored_size // part.chunk_count)
            some = min(left, max(1, (SLICE_BYTES - size) // each))
            left -= some
            stop += some
            size += some * each
            if size >= SLICE_BYTES and (left or part is not parts[-1]):
                yield first, stop, size
                first, size = stop, 0
    yield first, stop, size


def _damage(parts: Sequence[_core.PartInfo], number: int | None, chunk: int | None) -> Damage:
    if number is None:
        return Damage(None)
    return Damage(number, parts[number].kind, parts[number].name, chunk)


async def _some_at_once(
    things: AsyncGenerator[T, None], look: Callable[[T], Awaitable[None]], most: int
) -> None:
    """``look`` at every one, ``most`` of them together; one after another when inline. Leaving
    early cancels what is under way.
    """
    running: set[asyncio.Future[None]] = set()
    async with aclosing(things):
        try:
            async for thing in things:
                if is_inline():
                    await look(thing)
                    continue
                if len(running) >= most:
                    running = await _one_less(running)
                running.add(asyncio.ensure_future(look(thing)))
            while running:
                running = await _one_less(running)
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.gather(*running, return_exceptions=True)


async def _one_less(running: set[asyncio.Future[None]]) -> set[asyncio.Future[None]]:
    done, others = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    try:
        for task in done:
            task.result()
    finally:
        running.difference_update(done)
    return others
