"""Opening entries: which ranges of an object are read, and which indexes are remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from cogcache import _core
from cogcache.backends.faults import RefusedError
from cogcache.backends.lanes import Call, Lane
from cogcache.backends.s3.client import SMALL_BYTES, S3Client
from cogcache.backends.s3.download import (
    RANGE_BYTES,
    TAIL_BYTES,
    WHOLE_LIMIT,
    Reads,
    RemoteBytes,
    Room,
    Tail,
    fetch_parallel,
)
from cogcache.backends.s3.errors import ChangedError
from cogcache.backends.s3.hedges import Hedges
from cogcache.backends.s3.memory import Remembered
from cogcache.backends.slots import TAIL_BYTES as TAIL_END

__all__ = ["SCAN_TAIL_BYTES", "Opener"]

T = TypeVar("T")

FRESH_SECONDS: Final = 10.0  # how long an index answers without the object being asked
INDEX_SECONDS: Final = 3600.0  # how long it is kept, for reads that are pinned to its ETag
INDEX_MEMORY: Final = 32 << 20  # bytes of indexes
INDEXES: Final = 4096  # of which it is known that they are fresh
READS: Final = 4  # of an entry that is replaced again and again while it is read
SCAN_TAIL_BYTES: Final = 8 * 1024  # of each object of a listing; holds the index of all but bundles


class Opener:
    """Opens the entries of one bucket.

    Args:
        client: Requests.
        reads: Of ranges.
        hedges: Of small reads, or ``None``.
        clock: Monotonic seconds.

    Attributes:
        indexes: The ends of objects that were read, by name.
    """

    def __init__(
        self,
        client: S3Client,
        reads: Reads,
        hedges: Hedges | None,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._reads = reads
        self._hedges = hedges
        self.indexes: Remembered[Tail] = Remembered(
            INDEX_MEMORY, clock, lambda tail: len(tail.data) + 512
        )
        self._fresh: Remembered[bool] = Remembered(INDEXES, clock)

    async def fetch(self, key: bytes, name: str, index_only: bool) -> _core.Entry:
        """The entry, read once more if the first time it was damaged, and anew if it was replaced
        meanwhile: then in one answer, which is of one generation however fast writers are.
        """
        damaged = replaced = False
        for turn in range(1, READS + 1):
            try:
                if replaced:
                    return await self._fetch_at_once(key, name, index_only)
                return await self._fetch_once(key, name, index_only)
            except _core.DamagedError:
                if damaged or turn == READS:
                    raise
                damaged = True
            except ChangedError:
                if turn == READS:
                    raise
                replaced = True
            self.indexes.forget(name)
        raise AssertionError("unreachable")

    async def _fetch_at_once(self, key: bytes, name: str, index_only: bool) -> _core.Entry:
        if index_only:
            return await self._client.run(
                self._client.small, self.open_first, key, name, SMALL_BYTES
            )
        return await self._client.run(self._client.work, self._whole_at_once, key, name)

    async def _fetch_once(self, key: bytes, name: str, index_only: bool) -> _core.Entry:
        if index_only:
            known = self.indexes.get(name) if self._fresh.get(name) else None
            if known is not None:
                return self._reopen(key, name, known)
            return await self.run(self._client.small, self.open_first, key, name)
        found = await self.run(self._client.small, self._whole_if_small, key, name)
        if isinstance(found, _core.Entry):
            return found
        return await self._client.run(self._client.work, self._whole_if_large, key, name, found)

    async def run(self, lane: Lane, work: Callable[..., T], *args: Any) -> T:
        """The same for a read, which may be asked for twice."""
        if self._hedges is None:
            return await self._client.run(lane, work, *args)
        seconds = self._client.seconds_for(0)
        return await self._hedges.run(lane, lambda call: work(call, *args), seconds)

    def open_first(self, call: Call, key: bytes, name: str, want: int = TAIL_BYTES) -> _core.Entry:
        """An entry that reads what is asked of it. Its index is remembered, even where it begins
        before the tail; one that is remembered already is only asked whether it still holds.
        """
        since = self.indexes.moment
        known = self.indexes.get(name)
        tail = self._reads.tail(call, name, want, known=known)
        if tail.is_whole:
            return _core.Entry.from_bytes(tail.data, key)
        remote = RemoteBytes(self._reads, self._client, name, tail)
        entry = _core.Entry.from_reader(tail.size, remote.read, key)
        remote.opened()
        if self.indexes.keep(name, remote.tail, INDEX_SECONDS, since):
            self._fresh.keep(name, True, FRESH_SECONDS)
        return entry

    def _reopen(self, key: bytes, name: str, tail: Tail) -> _core.Entry:
        """The entry of a remembered index; asks nothing."""
        remote = RemoteBytes(self._reads, self._client, name, tail)
        entry = _core.Entry.from_reader(tail.size, remote.read, key)
        remote.opened()
        return entry

    def _whole_if_small(self, call: Call, key: bytes, name: str) -> _core.Entry | Tail:
        """All of an entry up to 8 MiB, in one request where its size is known or at most 64 KiB,
        else in two; the tail of a larger one.
        """
        tail = self.indexes.get(name)
        if tail is None or tail.size > RANGE_BYTES or not tail.etag:
            tail = self._reads.tail(call, name)
            if tail.size > RANGE_BYTES and not tail.is_whole:
                return tail
            front = self._front(call, name, tail)
            return _core.Entry.from_bytes(front + tail.data, key)
        data = self._reads.range(call, self._client.small, name, 0, tail.size, tail.size, tail.etag)
        if data[-TAIL_END:] != tail.data[-TAIL_END:]:  # its life was begun anew beside it
            data = data[:-TAIL_END] + tail.data[-TAIL_END:]
        return _core.Entry.from_bytes(data, key)

    def _front(self, call: Call, name: str, tail: Tail) -> bytes:
        if tail.is_whole:
            return b""
        return self._reads.range(
            call, self._client.small, name, 0, tail.start, tail.size, tail.etag
        )

    def _whole_if_large(self, call: Call, key: bytes, name: str, tail: Tail) -> _core.Entry:
        if tail.size > WHOLE_LIMIT:
            return self.open_first(call, key, name)
        room = Room(tail.size)
        room.view[tail.start :] = tail.data
        with room.view[: tail.start] as front:
            fetch_parallel(self._reads, self._client, call, name, 0, front, tail)
        return _core.Entry.from_bytes(room.take(), key)

    def _whole_at_once(self, call: Call, key: bytes, name: str) -> _core.Entry:
        """All of an entry up to 1 GiB in one request; the index of a larger one."""
        try:
            return _core.Entry.from_bytes(self._reads.whole(call, name).data, key)
        except RefusedError:
            return self.open_first(call, key, name, SMALL_BYTES)

    def opened(self, name: str, tail: Tail) -> _core.Entry:
        """The entry, whatever its key is, that has this end; of a thread of a lane."""
        if tail.is_whole:
            return _core.Entry.from_bytes(tail.data)
        remote = RemoteBytes(self._reads, self._client, name, tail)
        entry = _core.Entry.from_reader(tail.size, remote.read)
        remote.opened()
        return entry

    def peek(self, call: Call, name: str) -> _core.Entry:
        """The entry, whatever its key is, of an object of a listing."""
        return self.opened(name, self._reads.tail(call, name, SCAN_TAIL_BYTES))
