"""Values on their way in: one pass over a source feeds every tier, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cogcache import _bridge, _core
from cogcache._inline import is_inline
from cogcache._types import StoreResult
from cogcache.backends.base import META_CONTENT_DIGEST, CacheBackend
from cogcache.backends.faults import NotAskedError
from cogcache.backends.policy import ROUTED, Policy
from cogcache.backends.receiving import Receiver, Unfinished, seal
from cogcache.exceptions import IncompleteError
from cogcache.tiering import Tiers, together
from cogcache.writing import Writing

__all__ = ["Branch", "Inflow", "StreamResult"]

# How long a tier may refuse to take the next megabytes; tiers have shorter deadlines of their own.
STALLED_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class StreamResult(StoreResult):
    """What became of a stream that was to be stored; ``StoreResult`` and what is known of the
    bytes.

    Attributes:
        size: Bytes of the value, as many as were read.
        digest: XXH3-128 of them, 16 bytes; empty if it was not stored.
        chunk_size: Into which it was cut.
        chunks: How many of these there are.
        refused: Tiers that do not have it, and their words for why not.
    """

    size: int = 0
    digest: bytes = b""
    chunk_size: int = 0
    chunks: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.stored


@dataclass(slots=True)
class Branch:
    """One tier that takes the stream, until it has a word for why not."""

    tier: CacheBackend
    policy: Policy
    writer: _core.EntryWriter = field(init=False)
    unfinished: Unfinished | None = None
    receiver: Receiver | None = None
    word: str | None = None

    @property
    def refused(self) -> bool:
        """Whether it failed, rather than being none of this tier's business."""
        return self.word is not None and self.word not in ROUTED


_leaving: set[asyncio.Task[None]] = set()  # a loop alone does not keep them


class _RefusedError(Exception):
    """A tier without which nothing counts does not take it."""


class Inflow:
    """One stream on its way into the tiers, those with ``write_mode="behind"`` too: what is gone by
    then could not be sent later.

    Read once, compressed once for all tiers that make the same of it; while one piece is written,
    the next is read and compressed. Held at a time: a few MiB, and what each tier's ``receive``
    says. The slowest tier sets the pace, within its deadline; one that fails is left behind.

    A tier may have something left of a put of this key that broke off: then the container gets the
    token of that one, if nobody has seen it, so that what is there need not be sent again.

    Args:
        tiers: All tiers of the manager.
        key: Canonical encoding.
        ttl_ms: Life; ``None`` never ends.
        meta: Metadata fields by number.
        source: See ``CacheBackend.write``.
        kind: See there.
        options: For ``_core.EntryWriter``: ``length``, ``chunk_size``, ``max_chunks``.
        writing: Of the manager.
        note: Called with each chunk, its first byte and the one behind its last, when the tiers
            were fed with all of it.

    Attributes:
        key: As above.
    """

    def __init__(
        self,
        tiers: Tiers,
        key: bytes,
        *,
        ttl_ms: int | None,
        meta: Mapping[int | str, Any],
        source: int = 0,
        kind: int = 0,
        options: Mapping[str, Any],
        writing: Writing,
        note: Callable[[int, int], None] | None = None,
    ) -> None:
        self._tiers = tiers
        self._writing = writing
        self.key = key
        self._ttl_ms = ttl_ms
        self._given_meta = meta
        self._options = options
        self._meta: dict[int, Mapping[int | str, Any]] = {}  # of each writer
        self._where = {"source": source, "kind": kind}
        self._length: int | None = options.get("length")
        self._most_chunks: int | None = options.get("max_chunks")
        self._size = 0
        self._note = note
        self._noted = 0
        self._sending: asyncio.Task[None] | None = None
        self._writers: dict[tuple[bool, bool], _core.EntryWriter] = {}
        self._branches: list[Branch] = []
        for tier in tiers.backends:
            policy = tiers.guard(tier).policy
            if policy.write_mode != "off":
                self._branches.append(Branch(tier, policy))

    async def run(self, pieces: AsyncGenerator[memoryview, None]) -> StreamResult:
        """Store what ``pieces`` gives.

        Raises:
            IncompleteError: Fewer bytes came than were announced.
            ValueError: More came, or more than ``max_chunks`` hold; or options that cannot be.
            Exception: Whatever the source raises. Nothing is left in any tier then.
        """
        try:
            async with contextlib.aclosing(pieces):
                await together([self._look_for_unfinished(one) for one in self._branches])
                self._make_writers()
                await together([self._begin(branch) for branch in self._branches])
                self._check_required()
                if self._live():
                    async for piece in pieces:
                        self._size += len(piece)
                        await self._feed(piece)
                        if not self._live():
                            break
                        self._note_chunks()
            return await self._end()
        except _RefusedError:
            await self._abort("another-failed")
            return self._result()
        except BaseException:
            await self._abort("aborted")
            raise
        finally:
            for branch in self._branches:
                if branch.unfinished is not None:
                    branch.unfinished.release()

    # --- steps ------------------------------------------------------------------------------------

    async def _look_for_unfinished(self, branch: Branch) -> None:
        try:
            branch.unfinished = await branch.tier.unfinished(self.key)
        except Exception as error:
            self._tiers.failed(branch.tier, "write", error)

    def _make_writers(self) -> None:
        for branch in self._branches:
            tier = branch.tier
            writer = self._writers.get(tier.writer_kind)
            if writer is None:
                meta = tier.entry_meta(self._given_meta)
                writer = tier.writer(
                    self.key,
                    ttl_ms=self._ttl_ms,
                    meta=meta,
                    token=self._token_for(tier.writer_kind),
                    **self._options,
                )
                self._writers[tier.writer_kind] = writer
                self._meta[id(writer)] = meta
            branch.writer = writer

    def _token_for(self, kind: tuple[bool, bool]) -> int:
        """Of the put that broke off in a tier of a kind; 0 makes a new one."""
        for branch in self._branches:
            left = branch.unfinished
            if left is not None and left.token is not None and branch.tier.writer_kind == kind:
                return left.token
        return 0

    async def _begin(self, branch: Branch) -> None:
        token = branch.writer.token
        where: dict[str, Any] = dict(self._where)
        if branch.unfinished is not None:
            where["unfinished"] = branch.unfinished
        try:
            begun = await self._tiers.guard(branch.tier).call(
                lambda: branch.tier.receive(self.key, token, **where)
            )
        except NotAskedError:
            branch.word = "unavailable"
        except Exception as error:
            self._failed(branch, error)
        else:
            if isinstance(begun, str):
                branch.word = begun
            else:
                branch.receiver = begun

    def _note_chunks(self, *, ended: bool = False) -> None:
        if self._note is not None:
            chunk = next(iter(self._writers.values())).chunk_size
            while self._noted + (1 if ended else chunk) <= self._size:
                start, self._noted = self._noted, min(self._noted + chunk, self._size)
                self._note(start, self._noted)

    def _check_size(self) -> None:
        if self._length is not None:
            if self._size > self._length:
                raise ValueError(
                    f"source gave more than the {self._length} bytes that length announced"
                )
        elif self._most_chunks is not None:
            chunk = next(iter(self._writers.values())).chunk_size
            if self._size > chunk * self._most_chunks:
                raise ValueError(
                    f"source gave more than max_chunks ({self._most_chunks}) of {chunk} bytes; "
                    "announce its length, or raise max_chunks or chunk_size of chunking"
                )

    async def _feed(self, piece: memoryview) -> None:
        self._check_size()
        for branch in self._live():
            most = branch.policy.max_value_size
            if most is not None and branch.writer.length > most:
                await self._drop(branch, "too-large-for-tier")
        made: dict[int, bytes] = {}
        for writer in self._wanted():
            made[id(writer)] = await _bridge.run(writer, "feed", piece)
        await self._send(made)

    def _wanted(self) -> list[_core.EntryWriter]:
        """Writers whose containers somebody still takes."""
        live = {id(branch.writer) for branch in self._live()}
        return [writer for writer in self._writers.values() if id(writer) in live]

    async def _send(self, made: Mapping[int, bytes]) -> None:
        """Hand the pieces of containers to the tiers, when they have taken those before."""
        await self._sent()
        if not any(made.values()):
            return
        takers = [branch for branch in self._live() if made[id(branch.writer)]]

        async def deliver() -> None:
            await together([self._feed_to(b, made[id(b.writer)]) for b in takers])

        if is_inline():
            await deliver()
            self._check_required()
        else:
            self._sending = asyncio.create_task(deliver(), name="cogcache-stream")

    async def _sent(self) -> None:
        if self._sending is not None:
            sending, self._sending = self._sending, None
            try:
                await sending
            except BaseException:
                self._sending = sending  # for _abort, if it is this task that is cancelled
                raise
        self._check_required()

    async def _end(self) -> StreamResult:
        if self._length is not None and self._live() and self._size < self._length:
            raise IncompleteError(
                f"source ended after {self._size} of the {self._length} bytes that length announced"
            )
        made = {}
        for writer in self._wanted():
            meta = {**self._meta[id(writer)], META_CONTENT_DIGEST: writer.digest}
            made[id(writer)] = await _bridge.run(writer, "finish", meta)
        for branch in self._live():
            word = branch.policy.routed(branch.writer.length)
            if word is not None:
                await self._drop(branch, word)
        await self._send(made)
        await self._sent()
        if self._live():
            self._note_chunks(ended=True)
        async with self._publishing():
            # An older value of this key that is still on its way must not arrive after this one.
            await self._writing.withdraw(self.key.__eq__)
            await together([self._step(branch, seal) for branch in self._live()])
            for required in (True, False):
                now = [branch for branch in self._live() if branch.policy.required is required]
                await together([self._step(one, lambda receiver: receiver.finish()) for one in now])
                self._check_required()
            await self._forget_older()
        return self._result()

    def _publishing(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Around the moment in which tiers come to show the entry."""
        return contextlib.nullcontext()

    async def _feed_to(self, branch: Branch, data: bytes) -> None:
        await self._step(branch, lambda receiver: receiver.feed(data))

    async def _step(
        self, branch: Branch, step: Callable[[Receiver], Awaitable[str | None]]
    ) -> None:
        assert branch.receiver is not None
        try:
            if is_inline():
                word = await step(branch.receiver)
            else:
                async with asyncio.timeout(STALLED_SECONDS):
                    word = await step(branch.receiver)
        except Exception as error:
            self._failed(branch, error)
            await self._give_up(branch)
        else:
            branch.word = word

    async def _forget_older(self) -> None:
        """A tier that did not take it must not go on answering with what it had before."""
        if self._live():
            for branch in self._branches:
                if branch.word is not None:
                    await self._writing.drop_older(branch.tier, self.key)

    # --- failing ----------------------------------------------------------------------------------

    def _live(self) -> list[Branch]:
        return [branch for branch in self._branches if branch.word is None]

    def _check_required(self) -> None:
        if any(branch.policy.required and branch.refused for branch in self._branches):
            raise _RefusedError

    def _failed(self, branch: Branch, error: Exception) -> None:
        branch.word = "unavailable" if isinstance(error, TimeoutError) else "io-error"
        self._tiers.failed(branch.tier, "write", error)

    async def _drop(self, branch: Branch, word: str) -> None:
        await self._sent()
        if branch.word is None:
            branch.word = word
            await self._give_up(branch)

    async def _give_up(self, branch: Branch) -> None:
        try:
            if branch.receiver is not None:
                await branch.receiver.abort()
        except Exception as error:
            self._tiers.failed(branch.tier, "write", error)

    async def _abort(self, word: str) -> None:
        """Give it up everywhere. Who cancels once more meanwhile waits no longer, and it goes on
        without the caller.
        """
        if is_inline():
            await self._leave_nothing(word)
            return
        leaving = asyncio.create_task(self._leave_nothing(word), name="cogcache-stream-abort")
        _leaving.add(leaving)
        leaving.add_done_callback(_leaving.discard)
        await asyncio.shield(leaving)

    async def _leave_nothing(self, word: str) -> None:
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        for branch in self._live():
            branch.word = word
            await self._give_up(branch)

    def _result(self) -> StreamResult:
        kept = [branch for branch in self._branches if branch.word is None]
        refused = {b.tier.name: b.word for b in self._branches if b.word is not None}
        for branch in self._branches:
            branch.tier.counters["sets" if branch.word is None else "refused"] += 1
        if not kept:
            words = [b.word for b in self._branches if b.refused and b.word != "another-failed"]
            reason = next(iter(words or refused.values()), None) or "off"
            return StreamResult(False, reason, size=self._size, refused=refused)
        writer = kept[0].writer
        return StreamResult(
            True,
            tiers=tuple(branch.tier.name for branch in kept),
            stored_bytes=max(branch.writer.length for branch in kept),
            size=self._size,
            digest=writer.digest,
            chunk_size=writer.chunk_size,
            chunks=-(-self._size // writer.chunk_size),
            refused=refused,
        )
