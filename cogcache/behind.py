"""Write-behind: a put is done before a slow tier has the entry, which is sent in the background.

What waits is bounded in items and bytes; ``behind_when_full`` says what a put does that finds no
room. Of one key only the newest waits, and two writes of a key never overtake each other. Where a
filesystem tier above has the entry, the job lies in its spool (``cogcache.spool``) and outlives the
process; otherwise it is a copy in memory and ends with it.

Senders are tasks of the package's background loop, so no loop of a caller needs to stay alive for
them, and none leaves tasks behind.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import wait as wait_for_futures
from typing import Any, Final

from cogcache import _bridge, _core
from cogcache._fork import renew_after_fork
from cogcache._inline import call_in_background, is_inline
from cogcache.backends.base import CacheBackend
from cogcache.backends.lanes import sent_again
from cogcache.backends.policy import Policy
from cogcache.backlog import BUSY_SECONDS, Backlog, Job
from cogcache.spool import Claim, Spool, Spooled, is_newer

__all__ = ["LATER", "WriteBehind"]

logger = logging.getLogger("cogcache")

LATER: Final = "later"  # the word for an entry that a tier gets in the background
SENDERS: Final = 4  # entries of one tier on their way at once
BLOCK_SECONDS: Final = 60.0  # how long "block" waits for room
SCAN_SECONDS: Final = 30.0  # between two looks for the jobs of processes that died
EXIT_SECONDS: Final = 5.0
CANCEL_SECONDS: Final = 2.0
# Words that may be other ones after a while; any other means that the tier will never take it.
_PASSING: Final = frozenset(("unavailable", "busy", "io-error", "no-space", "read-only"))

Write = Callable[..., Awaitable[str | None]]


class WriteBehind:
    """The queue before one tier. Usable from any loop and thread.

    Args:
        tier: Where the entries go.
        policy: Its bounds.
        write: ``write(tier, image, source=, kind=)``: ``None`` or the word for why not.
        is_dead: Whether an entry has been invalidated, or its life is over.
        spool: Where jobs outlive the process; ``None`` where nothing can.
        most_bytes: Beside the policy's bound, what the spool may hold.

    Attributes:
        tier: As given.
        spool: As given.
        counters: See ``Backlog``.
    """

    def __init__(
        self,
        tier: CacheBackend,
        policy: Policy,
        write: Write,
        is_dead: Callable[[_core.Entry], bool],
        spool: Spool | None,
        most_bytes: float = float("inf"),
    ) -> None:
        self.tier = tier
        self._policy = policy
        self._write = write
        self._is_dead = is_dead
        self.spool = spool
        most_bytes = min(policy.behind_mb * 1_000_000, most_bytes)
        self._jobs = Backlog(policy.behind_items, most_bytes, self._forget_later)
        self.counters = self._jobs.counters
        self.after_fork()
        renew_after_fork(self)
        _queues.add(self)

    def after_fork(self) -> None:
        """The parent's loop and senders are not here."""
        self._lock = threading.Lock()  # of the two below
        self._senders: dict[asyncio.Task[None], None] = {}
        self._starting = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scanned = float("-inf")
        self._scan_planned = False

    def routed(self, stored_bytes: int) -> str | None:
        """See ``Policy.routed``."""
        return self._policy.routed(stored_bytes)

    # --- putting ----------------------------------------------------------------------------------

    async def put(
        self, image: _core.Image, *, source: int = 0, kind: int = 0, token: int | None = None
    ) -> str | None:
        """Take an entry for sending: ``"later"``; or what became of it at once: ``None`` (the tier
        has it) or the word for why not.

        Args:
            image: The entry.
            source: See ``CacheBackend.write``.
            kind: See there.
            token: Of the generation of the same value that the spool's store has; ``None`` if it
                has none.
        """
        size = len(image)
        if not self._jobs.reserve(size):
            word = await self._when_full(image, size, source, kind)
            if word != LATER:
                return word
        job: Job | None = None
        try:
            job = await self._make_job(image, source, kind, token)
            if job is None:
                self.counters["sync"] += 1
                return await self._send_now(image, source, kind)
        finally:
            if job is None:
                self._jobs.release(size)
        self._jobs.release(size, job)
        self.counters["queued"] += 1
        self._wake()
        return LATER

    async def _make_job(
        self, image: _core.Image, source: int, kind: int, token: int | None
    ) -> Job | None:
        """``None``: it must outlive the process, and the disk has not taken it; or there is no
        room for a copy.
        """
        try:
            if self.spool is None:  # a copy: the image may refer to arrays of the caller
                entry = _core.Entry.from_bytes(await _bridge.to_bytes(image), image.key)
                return Job(image.key, len(image), source, kind, entry=entry)
            if token is None:
                return None
            spooled = await self.spool.keep(image.key, token, source, kind)
        except (_core.DamagedError, OSError, RuntimeError, MemoryError):
            return None  # no descriptor, no thread, a disk that is gone: the put sends it itself
        if isinstance(spooled, str):
            return None
        return Job(image.key, spooled.size, source, kind, spooled=spooled)

    async def _when_full(self, image: _core.Image, size: int, source: int, kind: int) -> str | None:
        policy = self._policy.behind_when_full
        if policy == "block" and size <= self._jobs.most_bytes:
            self.counters["blocked"] += 1
            taken = False

            def has_room() -> bool:
                nonlocal taken
                taken = self._jobs.reserve(size)
                return taken or self._jobs.closed

            await self._jobs.until(has_room, BLOCK_SECONDS)
            if taken:
                return LATER
        if policy != "sync":
            self.counters["dropped"] += 1
            return "queue-full"
        self.counters["sync"] += 1
        return await self._send_now(image, source, kind)

    async def _send_now(self, image: _core.Image, source: int, kind: int) -> str | None:
        await self._withdraw(lambda key: key == image.key)
        return await self._write(self.tier, image, source=source, kind=kind)

    def _forget_later(self, name: str) -> None:
        self._in_background(self._forget_files, name)

    def _forget_files(self, name: str) -> None:
        async def forget() -> None:
            if self.spool is not None:
                with contextlib.suppress(Exception):
                    await self.spool.remove(name)

        self._keep_task(asyncio.get_running_loop().create_task(forget(), name="cogcache-forget"))

    # --- reading ----------------------------------------------------------------------------------

    def pending(self, key: bytes) -> _core.Entry | None:
        """The entry of a key that waits: who put it finds it, and nothing older."""
        job = self._jobs.job_of(key)
        if job is None or job.spooled is None or self.spool is None:
            return None if job is None else job.entry
        try:
            return self.spool.entry(job.spooled.name, key)
        except (_core.DamagedError, _core.ForeignError, _core.UnsupportedError, OSError):
            return None  # it has just been sent

    # --- sending ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Send what processes that died have left, from now on; costs one look at a directory."""
        if self.spool is not None:
            self._in_background(self._scan_soon)

    def _in_background(self, call: Callable[..., object], *args: Any) -> bool:
        """Whether ``call`` will be made: there may be no thread or descriptor for its loop."""
        try:
            self._loop = call_in_background(call, *args)
        except (OSError, RuntimeError) as error:
            logger.warning("%s: nothing is sent for now: %s", self.tier.name, error)
            return False
        return True

    def _wake(self) -> None:
        if not self._jobs.waiting:
            return
        with self._lock:
            if len(self._senders) + self._starting >= SENDERS:
                return
            self._starting += 1
        if not self._in_background(self._start_sender):
            with self._lock:
                self._starting -= 1  # the next put tries again

    def _start_sender(self) -> None:
        with self._lock:
            self._starting -= 1
            if len(self._senders) >= SENDERS:
                return
            task = asyncio.get_running_loop().create_task(self._send_all(), name="cogcache-send")
            self._senders[task] = None
        task.add_done_callback(self._sender_ended)
        self._plan_scan()

    def _keep_task(self, task: asyncio.Task[None]) -> None:
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    def _sender_ended(self, task: asyncio.Task[None]) -> None:
        with self._lock:
            self._senders.pop(task, None)
        due = self._jobs.next_try()  # after that: whoever added a job saw this sender until then
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s: a sender failed", self.tier.name, exc_info=task.exception())
        if due is not None and not self._jobs.closed:
            pause = max(0.0, due - time.monotonic())
            asyncio.get_running_loop().call_later(pause, self._wake)

    async def _send_all(self) -> None:
        while (job := self._jobs.take()) is not None:
            outcome = "retried"
            try:
                outcome = await self._send(job)
            except Exception as error:
                self.tier.note_fault("write", error)
            finally:
                self._jobs.ended(job, outcome)
            if self._jobs.waiting > 1:
                self._wake()

    async def _send(self, job: Job) -> str:
        sent_again.set(job.spooled is not None)
        if job.spooled is None or self.spool is None:
            assert job.entry is not None
            return await self._send_entry(job, job.entry, None)
        claim = self.spool.claim(job.spooled.name)
        if isinstance(claim, str):
            return claim
        try:
            try:
                entry = claim.entry()
                await _bridge.run(entry, "verify")
            except (_core.DamagedError, _core.ForeignError, _core.UnsupportedError) as error:
                logger.warning("%s: a waiting entry is damaged: %s", self.tier.name, error)
                await claim.finish()
                return "damaged"
            except FileNotFoundError:
                await claim.finish()
                return "absent"
            if await self.spool.has_newer(entry):
                # What a process that died has left, and somebody has put the key since.
                await claim.finish()
                return "replaced"
            return await self._send_entry(job, entry, claim)
        finally:
            claim.release()

    async def _send_entry(self, job: Job, entry: _core.Entry, claim: Claim | None) -> str:
        if job.withdrawn or self._is_dead(entry):
            outcome = "invalidated"
        else:
            image = entry.to_image()
            word = await self._write(self.tier, image, source=job.source, kind=job.kind)
            if word in _PASSING:
                return "retried"
            outcome = "sent" if word is None else "refused"
            if word is None and not job.withdrawn and claim is not None:
                await self._send_newer(job, entry)
            stands = claim is None or claim.stands()
            if word is None and (job.withdrawn or not stands or self._is_dead(entry)):
                # Forgotten while it was on its way: it must not come back.
                await self.tier.discard_entry(entry)
                outcome = "invalidated"
        if claim is not None:
            await claim.finish()
        return outcome

    async def _send_newer(self, job: Job, sent: _core.Entry) -> None:
        """If another process has put the key while this was on its way, what it sent may have
        arrived before: have it sent once more, by whoever comes to it first.
        """
        assert self.spool is not None
        until = time.monotonic() + BLOCK_SECONDS
        while time.monotonic() < until and not self._jobs.awaits(job.key):
            newest = await self.spool.newest(job.key)
            if newest is None or not is_newer(newest, sent):
                return
            spooled = await self.spool.again(newest, job.source, job.kind)
            if spooled != "busy":
                if not isinstance(spooled, str):
                    self._jobs.adopt([spooled])
                return
            await asyncio.sleep(BUSY_SECONDS)  # it is on its way just now, and may be overtaken

    # --- what others left -------------------------------------------------------------------------

    def _scan_soon(self) -> None:
        self._keep_task(asyncio.get_running_loop().create_task(self._scan(), name="cogcache-scan"))

    async def _scan(self) -> None:
        await self._look_for_others(0.0)
        self._wake()
        self._plan_scan()

    def _plan_scan(self) -> None:
        """Look again after a while, as long as somebody uses this queue."""
        if self._scan_planned or self._jobs.closed or self.spool is None:
            return
        self._scan_planned = True
        mine = weakref.ref(self)

        def due() -> None:
            queue = mine()
            if queue is not None and not queue._jobs.closed:
                queue._scan_planned = False
                queue._scan_soon()

        asyncio.get_running_loop().call_later(SCAN_SECONDS, due)

    async def _look_for_others(self, age: float) -> None:
        """Take up the jobs of the spool that this process does not know, unless somebody looked so
        many seconds ago.
        """
        now = time.monotonic()
        if self.spool is None or now - self._scanned < age or self._jobs.closed:
            return
        self._scanned = now
        newest: dict[bytes, Spooled] = {}
        for job in await self.spool.jobs(self._jobs.names, self._note_damaged):  # the oldest first
            older = newest.get(job.key)
            newest[job.key] = job
            if older is not None and not await self._forget_older(older):
                newest[job.key] = older
                await self._forget_older(job)
        for job in self._jobs.adopt(newest.values()):
            await self._forget_older(job)

    def _note_damaged(self, name: str) -> None:
        """The record of a waiting entry could not be read, and has been removed."""
        self.counters["damaged"] += 1
        logger.warning("%s: the record of a waiting entry is damaged: %s", self.tier.name, name)

    async def _forget_older(self, job: Spooled) -> bool:
        """A newer put of its key waits as well; whether that is true: clocks are set back, and two
        puts may be of one moment, so what the directory has of the key decides.
        """
        assert self.spool is not None
        if await self.spool.is_current(job):
            return False
        claim = self.spool.claim(job.name)
        if isinstance(claim, Claim):
            await claim.finish()
            claim.release()
        return True

    # --- waiting and ending -----------------------------------------------------------------------

    @property
    def left(self) -> int:
        """Entries that have not been sent."""
        return self._jobs.left

    async def withdraw(self, meant: Callable[[bytes], bool], *, replaced: bool = False) -> None:
        """Do not send what waits for these keys, whoever put it, and wait for what is on its way.
        ``replaced``: the directory has newer values of all of them, so that what others have put is
        not sent anyway.
        """
        if not replaced:
            await self._look_for_others(0.0)
        await self._withdraw(meant)

    async def _withdraw(self, meant: Callable[[bytes], bool]) -> None:
        dropped, on_their_way = self._jobs.withdraw(meant)
        # Also of those on their way: one that does not arrive would be taken up again later.
        for job in (*dropped, *on_their_way):
            if job.spooled is not None and self.spool is not None:
                await self.spool.remove(job.spooled.name)
        await self._jobs.until(
            lambda: not any(self._jobs.is_sending(job) for job in on_their_way), BLOCK_SECONDS
        )

    async def flush(self, seconds: float) -> int:
        """Wait until all is sent, also what others have left in the spool, at most so long; how
        many entries are left.
        """
        await self._look_for_others(0.0)
        return await self._flush(seconds)

    async def _flush(self, seconds: float) -> int:
        self._jobs.hurry()
        self._wake()
        await self._jobs.until(lambda: not self.left, seconds)
        return self.left

    async def aclose(self, seconds: float) -> None:
        """Send what waits, at most so long, and end. What is left in the spool stays for whoever
        comes; what is left in memory is lost, and said to be.
        """
        if self._jobs.closed:
            return
        try:
            await self._flush(seconds)
        finally:
            senders = self.end()
        until = time.monotonic() + CANCEL_SECONDS
        while any(not task.done() for task in senders) and time.monotonic() < until:
            if is_inline():
                time.sleep(0.01)  # noqa: ASYNC251 - inline: this thread is ours to hold up
            else:
                await asyncio.sleep(0.01)

    def end(self) -> list[asyncio.Task[None]]:
        """Send nothing more; those who send, which end soon. May be called twice."""
        if self._jobs.closed:
            return []
        lost, kept = self._jobs.close()
        with self._lock:
            senders = list(self._senders)
            loop = self._loop
        if lost:
            logger.warning("%s: %d entries were put but never sent", self.tier.name, lost)
        if kept:
            logger.info("%s: %d entries wait in the spool", self.tier.name, kept)
        for task in senders:
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
        return senders

    def end_at_exit(self, until: float) -> None:
        """``aclose`` for a process that ends without it; blocks."""
        self._jobs.hurry()
        self._wake()
        while time.monotonic() < until:
            future = self._jobs.next_change()
            if not self.left:
                return
            wait_for_futures([future], max(0.0, until - time.monotonic()))
        if self.left:
            self.end()

    def describe(self) -> dict[str, Any]:
        """For ``get_stats``."""
        return {**self._jobs.describe(), "durable": self.spool is not None}


_queues: weakref.WeakSet[WriteBehind] = weakref.WeakSet()
_tasks: set[asyncio.Task[None]] = set()


@atexit.register
def _drain_at_exit() -> None:
    until = time.monotonic() + EXIT_SECONDS
    with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C ends the wait at once
        for queue in list(_queues):
            queue.end_at_exit(until)
