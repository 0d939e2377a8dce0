"""Asking the tiers: in order for reading, together for writing, and never failing for a fault of
one of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, TypeVar

from cogcache import _core
from cogcache._inline import is_inline
from cogcache.backends.base import META_TAGS, SLOW, CacheBackend
from cogcache.backends.faults import NotAskedError
from cogcache.background import Background
from cogcache.behind import WriteBehind
from cogcache.exceptions import ClosedError
from cogcache.guard import Guard
from cogcache.promotion import Promotions

_T = TypeVar("_T")


class Tiers:
    """The tiers of one manager.

    Args:
        backends: In the order in which they are asked.
        counters: See below.
        most_uncut: Stored bytes of a value that tiers take at most which would cut it; ``None``
            lets them cut.

    Attributes:
        backends: The one asked first first.
        counters: Of the manager; what becomes of promotions is counted here.
        promotions: Copies on their way up.
        storing: Streams that callers have read to their end, and tiers not.
    """

    def __init__(
        self,
        backends: list[CacheBackend],
        counters: dict[str, int],
        *,
        most_uncut: int | None = None,
    ) -> None:
        self.backends = backends
        self.counters = counters
        self.promotions = Promotions(counters)
        self.storing = Background()
        self._run_inline = all(tier.runs_inline for tier in backends)
        self.queues: dict[int, WriteBehind] = {}
        self._guards = {
            id(tier): Guard(tier, most_uncut if tier.cuts_values else None) for tier in backends
        }
        self._closed = False

    def guard(self, tier: CacheBackend) -> Guard:
        """The guard of one of the tiers."""
        return self._guards[id(tier)]

    def runs_inline(self) -> bool:
        """Whether every tier answers in the calling thread, so that ``sync`` needs no event
        loop.
        """
        return self._run_inline

    def capture_stamp(self, tags: Iterable[str] = ()) -> int:
        """Now, in microseconds, as the version of values computed from here on; never below a tag's
        own version.
        """
        now_us = max(tier.now_ms() for tier in self.backends) * 1000
        return max([now_us, self.tag_version(tags)])

    def tag_version(self, tags: Iterable[str]) -> int:
        """The newest version that any tier knows of any of ``tags``; 0 for none."""
        return max((tier.tag_version(tag) for tag in tags for tier in self.backends), default=0)

    def fetch_now(
        self, tier: CacheBackend, encoded: bytes, *, index_only: bool = False
    ) -> _core.Entry | str | None:
        """What ``fetch`` answers, where a local tier has it at hand; else ``None``."""
        if tier.is_remote or self.queues:
            return None
        try:
            answer = tier.fetch_now(encoded, index_only=index_only)
        except Exception as error:
            self.failed(tier, "read", error)
            return "unavailable"
        if answer.__class__ is _core.Entry:
            tier.note_works("read")
        return answer

    def frame_now(self, encoded: bytes, token: int, name: str) -> Any:
        """What the first tier has of one frame of a write, see ``CacheBackend.frame_now``."""
        return SLOW if self.queues else self.backends[0].frame_now(encoded, token, name, SLOW)

    async def fetch(
        self, tier: CacheBackend, encoded: bytes, *, index_only: bool = False, parts: bool = False
    ) -> _core.Entry | str:
        """The live entry that one tier has, or its word for why not; with ``parts`` one that is
        read piece by piece.
        """
        if self.queues and id(tier) in self.queues:
            waiting = self.queues[id(tier)].pending(encoded)
            if waiting is not None and not self.is_dead(waiting):
                return waiting
        guard = self.guard(tier)
        began = time.perf_counter()
        try:
            if parts:
                answer = await guard.call(lambda: tier.fetch_parts(encoded))
            else:
                answer = await guard.call(lambda: tier.fetch(encoded, index_only=index_only))
        except NotAskedError:
            return "unavailable"
        except Exception as error:
            self.failed(tier, "read", error)
            return "unavailable"
        if answer != "unavailable":
            guard.reads.add(time.perf_counter() - began)
        return self._heard(tier, answer)

    async def fetch_many(
        self, tier: CacheBackend, encoded: Sequence[bytes]
    ) -> list[_core.Entry | str] | None:
        """``fetch`` of at most ``tier.fetch_at_once`` keys with one call; ``None`` where each is
        to be asked for by itself: it may wait in a queue, or has a deadline of its own.
        """
        if len(encoded) < 2 or id(tier) in self.queues or self.guard(tier).breaker is not None:
            return None
        try:
            answers = await tier.fetch_many(encoded)
        except Exception as error:
            self.failed(tier, "read", error)
            none: list[_core.Entry | str] = ["unavailable"] * len(encoded)
            return none
        return [self._heard(tier, answer) for answer in answers]

    def _heard(self, tier: CacheBackend, answer: _core.Entry | str) -> _core.Entry | str:
        if not isinstance(answer, str):
            tier.note_works("read")
            if tier.is_remote and self._is_invalidated(answer):
                return "tag-invalidated"
        return answer

    def is_dead(self, entry: _core.Entry) -> bool:
        """Whether the life of an entry is over, or any tier knows that it was invalidated."""
        now_ms = max(tier.now_ms() for tier in self.backends)
        return entry.is_expired(now_ms) or self._is_invalidated(entry)

    def _is_invalidated(self, entry: _core.Entry) -> bool:
        """Whether any tier knows that a tag of this entry was invalidated: a remote tier forgets
        that with the process, a local one keeps it.
        """
        return any(
            version < tier.tag_version(name)
            for name, version in entry.meta.get(META_TAGS) or ()
            for tier in self.backends
        )

    async def find(self, encoded: bytes) -> tuple[tuple[_core.Entry, CacheBackend] | None, str]:
        """The first live entry, opened without its value, and its tier; or the word for why
        not.
        """
        reason = "absent"
        for tier in self.backends:
            answer = await self.fetch(tier, encoded, index_only=True)
            if not isinstance(answer, str):
                return (answer, tier), "hit"
            reason = better_reason(reason, answer)
        return None, reason

    @staticmethod
    def load_now(tier: CacheBackend, entry: _core.Entry, options: Mapping[str, Any]) -> Any:
        """The value of an entry if that takes little and waits for nothing, else ``SLOW``."""
        try:
            return tier.load_now(entry, SLOW, **options)
        except Exception:  # for ``load`` to meet again, and to report
            return SLOW

    async def load(
        self, tier: CacheBackend, entry: _core.Entry, options: Mapping[str, Any]
    ) -> tuple[Any, str | None]:
        """Decode the value of an entry that ``load_now`` did not; or ``None`` and the word for why
        it cannot be.
        """
        try:
            return await self.guard(tier).call(lambda: tier.load(entry, **options)), None
        except NotAskedError:
            return None, "unavailable"
        except (_core.DamagedError, _core.UnsupportedError) as error:
            return None, await self.value_failed(tier, entry, error)
        except Exception as error:
            self.failed(tier, "read", error)
            return None, "unavailable"

    async def value_failed(self, tier: CacheBackend, entry: _core.Entry, error: Exception) -> str:
        """Let a tier set a value aside that could not be decoded; the word for it."""
        try:
            return await tier.value_failed(entry, error)
        except Exception as second:
            self.failed(tier, "discard", second)
            return "damaged"

    async def each(
        self,
        what: str,
        call: Callable[[CacheBackend], Coroutine[Any, Any, _T]],
        failed: Any = 0,
        *,
        bounded: bool = False,
    ) -> list[_T]:
        """Ask every tier at once; one that raises is logged and answers ``failed``.

        Args:
            what: The operation, for the log.
            call: Of one tier.
            failed: See above.
            bounded: It is about one entry, so the deadline of the tier's policy holds for it.
        """

        async def guarded(tier: CacheBackend) -> _T:
            result: _T = failed
            try:
                if bounded:
                    answer = await self.guard(tier).call(lambda: call(tier))
                else:
                    answer = await call(tier)
            except NotAskedError:
                return result
            except Exception as error:
                self.failed(tier, what, error)
                return result
            tier.note_works(what)
            return answer

        return await together([guarded(tier) for tier in self.backends])

    def promote_from(
        self, entry: _core.Entry, below: CacheBackend, since: int
    ) -> Callable[[], Awaitable[None]] | None:
        """What copies an entry into the tiers above the one that gave it, with its remaining life,
        version and tags; ``None`` if it is not to be copied. To be called when its value has been
        decoded, but asked for before that, which takes the map of the entry. Nothing is copied over
        what was put or forgotten ``since``, see ``Changes``.
        """
        above = self.backends[: self.backends.index(below)]
        into = self.promotions.wanted(entry, above)
        if not into:
            return None
        if not entry.in_memory and below.is_remote:
            return lambda: self.promotions.start_large(entry, below, into, since)
        image = entry.to_image()
        return lambda: self.promotions.start(image, into, since)

    async def aclose(self, timeout: float) -> None:
        """Let streams and promotions end and send what waits, for at most ``timeout`` seconds, and
        close every tier.
        """
        until = time.monotonic() + timeout
        try:
            await self.storing.aclose(timeout)
            await self.promotions.aclose(max(0.0, until - time.monotonic()))
            for queue in self.queues.values():
                await queue.aclose(max(0.0, until - time.monotonic()))
        finally:
            self._closed = True
            for queue in self.queues.values():
                queue.end()  # nothing after its aclose; but that may have been cancelled
            await self.each("close", lambda tier: tier.aclose())

    async def iter_keys(
        self, pattern: str | None, include_metadata: bool
    ) -> AsyncGenerator[tuple[str, dict[str, Any] | None], None]:
        """See ``CacheManager.iter_keys``."""
        told: set[str] = set()
        for tier in self.backends:
            is_last = tier is self.backends[-1]  # then nobody asks what was told any more
            try:
                async for key, metadata in tier.iter_keys(pattern, include_metadata):
                    if key not in told:
                        if not is_last:
                            told.add(key)
                        yield key, metadata
            except Exception as error:
                self.failed(tier, "list", error)

    def failed(self, tier: CacheBackend, what: str, error: Exception) -> None:
        """Note a fault of a tier; being closed while something was under way is none."""
        if isinstance(error, ClosedError) and self._closed:
            return
        tier.note_fault(what, error)


def better_reason(so_far: str, answer: str) -> str:
    """Of the words of two tiers the one that tells more."""
    return answer if so_far == "absent" else so_far


async def together(work: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run coroutines together; one after another when inline or alone. The first error is raised
    when all have ended.
    """
    if len(work) == 1 or is_inline():
        results: list[_T] = []
        waiting = list(work)
        try:
            while waiting:
                results.append(await waiting.pop(0))
        finally:
            for one in waiting:
                one.close()
        return results
    answers = await asyncio.gather(*work, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]
