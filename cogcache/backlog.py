"""What waits before one tier: jobs by key, within bounds, and whoever waits for a change of them.

Only bookkeeping under one lock, for any thread and loop; ``cogcache.behind`` does the sending.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Any, Final

from cogcache import _core
from cogcache._fork import renew_after_fork
from cogcache._inline import is_inline
from cogcache.spool import Spooled

__all__ = ["Backlog", "Job"]

# Between two tries while the tier does not answer. Its breaker makes a try in vain cost nothing.
FIRST_PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 2.0
BUSY_SECONDS: Final = 0.25  # another process has the job: it is done soon, or that process dies
_COUNTED: Final = (
    "queued",
    "sent",
    "sync",
    "blocked",
    "dropped",
    "replaced",
    "invalidated",
    "refused",
    "retried",
    "damaged",
    "lost",
)


@dataclass(eq=False, slots=True)
class Job:
    """An entry that is to be sent, from memory or from the spool."""

    key: bytes
    size: int
    source: int
    kind: int
    entry: _core.Entry | None = None  # in memory
    spooled: Spooled | None = None
    withdrawn: bool = False
    since: float = field(default_factory=time.monotonic)
    not_before: float = 0.0  # monotonic seconds


class Backlog:
    """The jobs before one tier. Of one key only the newest waits, and one is on its way at a time.

    Args:
        most_items: Jobs that wait, are on their way, or have room reserved for them.
        most_bytes: Of these together.
        forget: Called with the name of a spooled job that a newer one of its key has replaced; the
            lock is held.

    Attributes:
        counters: ``queued``, ``sent``, ``sync`` and ``blocked`` and ``dropped`` (no room),
            ``replaced`` (by a newer put of the key), ``invalidated``, ``refused`` (the tier will
            never take it), ``retried``, ``damaged``, ``lost`` (in memory at the end).
        closed: Nothing is taken in or given out any more.
    """

    def __init__(self, most_items: int, most_bytes: float, forget: Callable[[str], object]) -> None:
        self.most_bytes = most_bytes
        self._most_items = most_items
        self._forget = forget
        self._random = SystemRandom().random
        self.counters = dict.fromkeys(_COUNTED, 0)
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """What waits is the parent's to send."""
        self._lock = threading.Lock()
        self._waiting: OrderedDict[bytes, Job] = OrderedDict()
        self._sending: dict[bytes, Job] = {}
        self._names: set[str] = set()  # of spooled jobs that wait or are being sent
        self._items = self._bytes = 0  # that wait, are being sent, or have room reserved
        self._changed: list[Future[None]] = []  # resolved at the next change
        self._pause = 0.0
        self._paused_until = 0.0
        self.closed = False

    # --- in ---------------------------------------------------------------------------------------

    def reserve(self, size: int) -> bool:
        """Take room for a job of this size; whether there was any."""
        with self._lock:
            if self.closed or self._items >= self._most_items or size > self.most_bytes:
                return False
            if self._items and self._bytes + size > self.most_bytes:
                return False
            self._items += 1
            self._bytes += size
            return True

    def release(self, size: int, job: Job | None = None) -> None:
        """Give back the room for a job of this size, or fill it with ``job``."""
        with self._lock:
            self._items -= 1
            self._bytes -= size
            if job is not None:
                self._add(job)
            self._tell()

    def adopt(self, found: Iterable[Spooled]) -> list[Spooled]:
        """Take up jobs that other processes have left in the spool, at most one of a key; those for
        which a newer one waits here already are given back.
        """
        stale: list[Spooled] = []
        with self._lock:
            for one in found:
                ours = self._waiting.get(one.key) or self._sending.get(one.key)
                if one.name in self._names or self.closed:
                    continue
                if ours is not None and ours.spooled and ours.spooled.made_ms >= one.made_ms:
                    stale.append(one)
                else:
                    self._add(Job(one.key, one.size, one.source, one.kind, spooled=one))
        return stale

    def _add(self, job: Job) -> None:
        if job.spooled is not None and job.spooled.name in self._names:
            return  # a look into the spool has found it before its put was done
        older = self._waiting.pop(job.key, None)
        if older is not None:
            self._drop(older)
            self._note_replaced(older)
        self._waiting[job.key] = job
        self._items += 1
        self._bytes += job.size
        if job.spooled is not None:
            self._names.add(job.spooled.name)

    def _drop(self, job: Job) -> None:
        """A job will not be sent, or has been."""
        self._items -= 1
        self._bytes -= job.size
        if job.spooled is not None:
            self._names.discard(job.spooled.name)

    def _note_replaced(self, job: Job) -> None:
        self.counters["replaced"] += 1
        if job.spooled is not None:
            self._forget(job.spooled.name)

    # --- out --------------------------------------------------------------------------------------

    def take(self) -> Job | None:
        """The job that has waited longest and whose key is not on its way already."""
        with self._lock:
            now = time.monotonic()
            if self.closed or now < self._paused_until:
                return None
            for key, job in self._waiting.items():
                if key not in self._sending and job.not_before <= now:
                    del self._waiting[key]
                    self._sending[key] = job
                    return job
            return None

    def ended(self, job: Job, outcome: str) -> None:
        """A job that was taken came to this: ``"retried"`` and ``"busy"`` let it wait again."""
        again = outcome in ("retried", "busy") and not job.withdrawn
        with self._lock:
            if outcome == "retried":
                self._pause = min(LONGEST_PAUSE_SECONDS, max(FIRST_PAUSE_SECONDS, self._pause * 2))
                wait = self._pause * (1 - 0.2 * self._random())
                self._paused_until = time.monotonic() + wait
            elif outcome == "busy":
                job.not_before = time.monotonic() + BUSY_SECONDS
            else:
                self._pause = 0.0
            if outcome in self.counters:
                self.counters[outcome] += 1
            newer = job.key in self._waiting
            if not again or newer:
                self._drop(job)
            del self._sending[job.key]
            if again and newer:
                self._note_replaced(job)
            elif again:
                self._waiting[job.key] = job  # behind the others: it may be what is wrong
            self._tell()

    def next_try(self) -> float | None:
        """Monotonic seconds from which on ``take`` has a job, ``None`` if none waits. Those whose
        key is on its way are taken by whoever sends that.
        """
        with self._lock:
            ready = [
                job.not_before for key, job in self._waiting.items() if key not in self._sending
            ]
            return max(self._paused_until, min(ready)) if ready else None

    def hurry(self) -> None:
        """End the pause after a try in vain."""
        with self._lock:
            self._paused_until = 0.0

    def withdraw(self, meant: Callable[[bytes], bool]) -> tuple[list[Job], list[Job]]:
        """Give up the jobs of these keys: those that waited, and those that are on their way, which
        know it from now on.
        """
        with self._lock:
            dropped = [self._waiting.pop(key) for key in list(self._waiting) if meant(key)]
            for job in dropped:
                self._drop(job)
            on_their_way = [job for key, job in self._sending.items() if meant(key)]
            for job in on_their_way:
                job.withdrawn = True
            self._tell()
        return dropped, on_their_way

    def close(self) -> tuple[int, int]:
        """Take in and give out nothing more; how many jobs are left in memory and in the spool."""
        with self._lock:
            self.closed = True
            left = [*self._waiting.values(), *self._sending.values()]
            lost = sum(job.spooled is None for job in left)
            self.counters["lost"] += lost
            self._tell()
        return lost, len(left) - lost

    # --- what there is ----------------------------------------------------------------------------

    @property
    def left(self) -> int:
        """Jobs that have not been sent."""
        with self._lock:
            return len(self._waiting) + len(self._sending)

    @property
    def waiting(self) -> int:
        """Jobs that are not on their way."""
        return len(self._waiting)

    @property
    def names(self) -> frozenset[str]:
        """Of the spooled jobs that wait or are on their way."""
        with self._lock:
            return frozenset(self._names)

    def awaits(self, key: bytes) -> bool:
        """Whether a job of a key waits that is not on its way."""
        return key in self._waiting

    def is_sending(self, job: Job) -> bool:
        """Whether this very job is on its way."""
        return self._sending.get(job.key) is job

    def job_of(self, key: bytes) -> Job | None:
        """The newest job of a key."""
        with self._lock:
            job = self._waiting.get(key) or self._sending.get(key)
            return None if job is None or job.withdrawn else job

    def describe(self) -> dict[str, Any]:
        """For ``get_stats``."""
        with self._lock:
            jobs = [*self._waiting.values(), *self._sending.values()]
            oldest = min((job.since for job in jobs), default=None)
            return {
                **self.counters,
                "items": self._items,
                "bytes": self._bytes,
                "oldest_seconds": 0.0 if oldest is None else time.monotonic() - oldest,
            }

    # --- waiting for a change ---------------------------------------------------------------------

    def next_change(self) -> Future[None]:
        """Resolved at the next change; ask what it is about after this, so that none is missed."""
        future: Future[None] = Future()
        with self._lock:
            self._changed.append(future)
        return future

    async def until(self, done: Callable[[], bool], seconds: float) -> None:
        """Wait until ``done()``, which is asked at every change, at most so long."""
        until = time.monotonic() + seconds
        while True:
            future = self.next_change()
            left = until - time.monotonic()
            if done() or left <= 0:
                return
            if is_inline():
                wait_for_futures([future], left)
                continue
            waiter = asyncio.wrap_future(future)
            try:
                await asyncio.wait({waiter}, timeout=left)
            finally:
                waiter.cancel()

    def _tell(self) -> None:
        """Something changed; the lock is held."""
        changed, self._changed = self._changed, []
        for future in changed:
            if future.set_running_or_notify_cancel():
                future.set_result(None)
