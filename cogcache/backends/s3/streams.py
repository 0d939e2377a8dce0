"""Containers that arrive in pieces: up into the bucket while they are being made, and down into a
local store without being held in memory.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cogcache._offload import offload
from cogcache.backends.base import ContainerSink, missing_ranges
from cogcache.backends.faults import RemoteError
from cogcache.backends.lanes import Call
from cogcache.backends.s3.client import S3Client
from cogcache.backends.s3.download import (
    PARALLEL,
    RANGE_BYTES,
    Filling,
    Reads,
    Tail,
    wait_for,
)
from cogcache.backends.s3.late import LateWrites
from cogcache.backends.s3.payload import Payload
from cogcache.backends.s3.probe import Abilities
from cogcache.backends.s3.upload import PART_BYTES, Upload, Writes
from cogcache.backends.s3.whole import put_whole

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["S3Upload", "copy_parallel"]

T = TypeVar("T")

_PIECE: Final = 512 << 10  # received at once: still in the cache when it is written


class FullSinkError(Exception):
    """What is copied into takes no more; ``word`` says why."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


def copy_parallel(
    reads: Reads, client: S3Client, call: Call, name: str, tail: Tail, sink: ContainerSink
) -> str | None:
    """Bring what ``sink`` lacks of an object: ranges of 8 MiB, four at a time, each written as it
    comes, so that at most 2 MiB are in memory. In a thread of the work lane; ``None`` or the sink's
    word for why it takes no more. Once this ends, however it does, ``sink`` is left alone.
    """
    writing = threading.Lock()
    word = sink.write_at(tail.start, tail.data)
    ranges = list(missing_ranges(sink.written, tail.size, RANGE_BYTES))
    flying: list[tuple[Call, Future[str | None]]] = []
    rooms: deque[bytearray] = deque()  # that were used: new memory costs as much as reading into it
    call.extend(client.seconds_for(sum(stop - start for start, stop in ranges)))
    try:
        while word is None and (ranges or flying):
            while ranges and len(flying) < PARALLEL:
                start, stop = ranges.pop(0)
                part = Call(client.seconds_for(PARALLEL * (stop - start)))  # they share the way

                def work(part: Call, start: int = start, stop: int = stop) -> str | None:
                    try:
                        room = rooms.pop()
                    except IndexError:
                        room = bytearray(_PIECE)

                    def take(offset: int, piece: memoryview) -> None:
                        with writing:
                            part.check()
                            word = sink.write_at(start + offset, piece)
                        if word is not None:
                            raise FullSinkError(word)

                    filling = Filling(stop - start, memoryview(room), take)
                    try:
                        reads.range_into(
                            part, client.bulk, name, start, filling, tail.size, tail.etag
                        )
                    except FullSinkError as error:
                        return error.word
                    rooms.append(room)
                    return None

                flying.append((part, client.bulk.submit(work, part)))
            wait_for(call, flying[0][1])
            word = flying.pop(0)[1].result()
    finally:
        with writing:
            for part, future in flying:
                part.abandoned = True
                future.cancel()
    return word


class S3Upload:
    """An entry on its way into the bucket while it is being made: its container is fed in pieces of
    any size, in order. One request for up to 16 MiB in all, parts of 16 MiB beyond; ``feed`` waits
    for room, so at most 64 MiB are in memory. Nothing is visible before ``finish``. What the store
    cannot be reached for is left to the next put of the key, if ``begin`` has made a record.

    Methods never raise for a fault of the store: they answer ``None`` or one word, and after a word
    the upload is over. Made by ``S3Backend.open_upload``.
    """

    def __init__(
        self,
        client: S3Client,
        writes: Writes,
        late: LateWrites,
        name: str,
        token: int,
        can: Abilities,
        *,
        once: bool,
        begin: Callable[[Call], Upload],
        failed: Callable[[Exception], str],
        finished: Callable[[bool], None],
    ) -> None:
        self._client = client
        self._writes = writes
        self._late = late
        self._name = name
        self._token = f"{token:016x}"
        self._can = can
        self._once = once
        self._begin = begin
        self._failed = failed
        self._finished = finished
        self._body = Payload()
        self._upload: Upload | None = None
        self._size = 0
        self._over = False
        # Nothing is cleared away while a thread is still at it: a store that is asked to give up an
        # upload which it is just completing may take the bytes from under the new object.
        self._turn = threading.Lock()

    async def feed(self, data: Any) -> str | None:
        """Take the next bytes of the container."""
        # Bytes stay as they are; whatever else it is may be filled anew for the next call.
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        at = 0
        while at < len(view):
            count = min(PART_BYTES - len(self._body), len(view) - at)
            self._body.take(view[at : at + count])
            at += count
            self._size += count
            if len(self._body) == PART_BYTES and (at < len(view) or self._upload is not None):
                word = await self._guarded(self._send_part)
                if word is not None:
                    return word
        return None

    async def seal(self) -> str | None:
        """See ``Receiver.seal``."""
        record = None if self._upload is None else self._upload.record
        if record is not None:  # of the disk here: threads that wait for the store have no part
            await offload(lambda beat: record.spend(), timeout_seconds=None)
        return None

    async def finish(self) -> str | None:
        """Make the entry visible."""
        return await self._guarded(self._finish)

    async def abort(self) -> None:
        """Give it up; may be called at any time, and does nothing after the end."""
        await self._end(lambda upload: upload.abort())

    async def _end(self, clear: Callable[[Upload], None]) -> None:
        """Take no more, and clear away in the background. Before this returns, and other tiers show
        the entry, its token is spent.
        """
        self._over = True
        try:
            await self.seal()
        finally:
            upload, self._upload = self._upload, None
            self._body = Payload()
            if upload is not None:

                def work(_: Call) -> None:
                    with self._turn:
                        clear(upload)

                # However long other work keeps it waiting: else the parts would stay, and whoever
                # puts the key next would wait for them in vain.
                self._client.work.submit(work, Call(math.inf))

    async def _break_off(self, error: RemoteError) -> None:
        upload = self._upload
        if upload is not None and upload.record is not None and upload.can_be_left(error):
            upload.record.leave()  # now, so that whoever tries again at once waits for it
        await self._end(lambda upload: upload.break_off(error))

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> str | None:
        if self._over:
            return "aborted"
        try:
            await step()
        except RemoteError as error:
            await self._break_off(error)
            return self._failed(error)
        except BaseException:
            await self.abort()
            raise
        return None

    async def _run(self, work: Callable[[Call], T], size: int) -> T:
        return await self._client.work.run(work, seconds=4 * self._client.seconds_for(size))

    async def _send_part(self) -> None:
        body, self._body = self._body, Payload()

        def work(call: Call) -> None:
            upload = self._upload
            if upload is None:
                upload = self._upload = self._begin(call)
            if self._over:  # given up while this thread began it
                upload.abort()
            else:
                upload.add(call, body)

        await self._run(work, PART_BYTES)

    async def _finish(self) -> None:
        if self._upload is None:
            ours = await self._put_whole()
        else:
            if len(self._body):
                await self._send_part()
            upload = self._upload

            def work(call: Call) -> bool:
                once = self._once and self._can.create_once
                with self._turn, self._late.of(self._name, call):
                    return self._writes.complete(call, upload, self._token, self._size, once=once)

            ours = await self._run(work, 4 * PART_BYTES)
        self._over = True
        self._upload = None
        self._finished(ours)

    async def _put_whole(self) -> bool:
        return await put_whole(
            self._client,
            self._writes,
            self._late,
            self._name,
            self._body,
            self._token,
            self._can,
            once=self._once,
        )
