"""Writing entries into Redis: slices first, with a short life, and the manifest that names them
last. Whole containers, and those that are still being made.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from cogcache import _core
from cogcache.backends.faults import RemoteError
from cogcache.backends.redis.client import BULK_FACTOR, RedisClient, forget_outcome
from cogcache.backends.redis.late import LateChanges
from cogcache.backends.redis.layout import HEAD_BYTES, Manifest, Names, cut_of
from cogcache.backends.redis.reading import BATCH_BYTES, RemoteBytes
from cogcache.backends.redis.scripts import COMMIT

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["SLICES_LONGER_MS", "STAGED_MS", "RedisUpload", "Writes"]

STAGED_MS: Final = 600_000  # how long slices live that no manifest names yet
SLICES_LONGER_MS: Final = 60_000  # than their manifest, which goes first
_NAMES: Final = 1000  # of one request
# What the end of a container may take at most: metadata of 1 MiB, a document, and an index with 12
# bytes for each chunk, of which the smallest have 4 KiB.
_END_BYTES: Final = 2 << 20
_CHUNKS_SHARE: Final = 256


class Writes:
    """Writing to one server.

    Args:
        client: Of the tier.
        late: Of the tier.
        slice_size: Of all slices but the last of an entry.
    """

    def __init__(self, client: RedisClient, late: LateChanges, slice_size: int) -> None:
        self._client = client
        self._late = late
        self.slice_size = slice_size

    async def stage(self, names: Sequence[bytes], slices: Sequence[Buffer]) -> None:
        """Put slices, in requests of up to 1 MiB or one slice. They have a short life until the
        manifest names them, so that a killed writer leaves nothing.
        """
        at = 0
        while at < len(names):
            batch: list[tuple[bytes, Buffer]] = []
            size = 0
            while at < len(names):
                count = len(memoryview(slices[at]))
                if batch and size + count > BATCH_BYTES:
                    break
                batch.append((names[at], slices[at]))
                size += count
                at += 1

            async def work(client: Any, batch: list[tuple[bytes, Buffer]] = batch) -> None:
                pipe = client.pipeline(transaction=False)
                for name, data in batch:
                    pipe.set(name, data, px=STAGED_MS)
                await pipe.execute()

            await _to_its_end(self._client.run(work, factor=BULK_FACTOR))

    async def commit(self, base: bytes, manifest: Manifest, life: int | None) -> bool:
        """Make an entry visible whose slices are there; ``False`` if one of them is gone. Where
        this raises, the server may have done it all the same, or do it yet, so that the slices have
        to stay (and go by themselves if it has not).

        Args:
            base: What the names of the entry begin with.
            manifest: Of the entry.
            life: Milliseconds; ``None`` is for ever.
        """
        kept = await self._late.change(
            COMMIT,
            base,
            manifest.pack(),
            "" if life is None else life,
            "" if life is None else life + SLICES_LONGER_MS,
        )
        return bool(kept)

    async def renew(self, names: Sequence[bytes]) -> None:
        """Begin the life of staged slices anew."""

        def ask(pipe: Any, some: Sequence[bytes]) -> None:
            for name in some:
                pipe.pexpire(name, STAGED_MS)

        await self._each(names, ask)

    async def unlink(self, names: Sequence[bytes]) -> None:
        """Let go of slices."""
        await self._each(names, lambda pipe, some: pipe.unlink(*some))

    async def _each(
        self, names: Sequence[bytes], ask: Callable[[Any, Sequence[bytes]], object]
    ) -> None:
        for first in range(0, len(names), _NAMES):
            some = names[first : first + _NAMES]

            async def work(client: Any, some: Sequence[bytes] = some) -> None:
                pipe = client.pipeline(transaction=False)
                ask(pipe, some)
                await pipe.execute()

            await self._client.run(work)

    async def put(
        self, base: bytes, container: memoryview, entry: _core.Entry, life: int | None
    ) -> bool:
        """Write a container that is all here. Returns as ``commit``."""
        cut = cut_of(len(container), container[-48:], entry)
        manifest = Manifest.of(container, cut, self.slice_size)
        names = slice_names(base, manifest.token, 0, manifest.slices)
        starts = range(HEAD_BYTES, cut, self.slice_size)
        slices = [container[at : min(at + self.slice_size, cut)] for at in starts]
        try:
            await self.stage(names, slices)
        except BaseException:
            # Nobody sees them, and they would go by themselves in a while.
            with contextlib.suppress(RemoteError):
                await self.unlink(names)
            raise
        return await self.commit(base, manifest, life)


async def _to_its_end(request: Coroutine[Any, Any, None]) -> None:
    """Wait for a request, which has a deadline of its own, even where the caller is cancelled: what
    the server was sent it still does, perhaps after the ``UNLINK`` that follows on another
    connection, and then the slices stay.
    """
    task = asyncio.ensure_future(request)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(forget_outcome)
        await asyncio.wait({task})
        raise


def slice_names(base: bytes, token: int, first: int, stop: int) -> list[bytes]:
    """The names of some slices of a write."""
    prefix = Names.slice_prefix(base, token)
    return [prefix + b"%d" % number for number in range(first, stop)]


class RedisUpload:
    """An entry on its way into Redis while it is being made: full slices go as they come, and
    ``feed`` waits for them. Held are two slices (at least 3 MiB and 0.4 % of the entry): what may
    turn out to belong into the manifest is kept back. Nothing is visible before ``finish``.

    Methods never raise for a fault of the server: they answer ``None`` or one word, and after a
    word the upload is over, and its slices are gone (or go by themselves within ten minutes, which
    is also how long the source may pause).

    Args:
        client: Of the tier.
        writes: Of the tier.
        key: Canonical encoding.
        base: What the names of the entry begin with.
        token: Of its container.
        largest: Bytes that it may have.
        admit: ``admit(entry)``: how long it lives, in milliseconds, or a word for why not.
        failed: Counts a fault; the word for it.
        finished: Called when it is visible.
    """

    def __init__(
        self,
        client: RedisClient,
        writes: Writes,
        key: bytes,
        base: bytes,
        token: int,
        largest: int | None,
        *,
        admit: Callable[[_core.Entry], Awaitable[int | str | None]],
        failed: Callable[[RemoteError], str],
        finished: Callable[[], None],
    ) -> None:
        self._client = client
        self._writes = writes
        self._key = key
        self._base = base
        self._token = token
        self._largest = largest
        self._admit = admit
        self._failed = failed
        self._finished = finished
        self._clock: Callable[[], float] = time.monotonic
        self._renewed = self._clock()
        self._head = b""
        self._buffer = bytearray()  # behind the head and the slices that were sent
        self._size = 0
        self._sent = 0  # slices
        self._over = False

    async def feed(self, data: Any, /) -> str | None:
        """Take the next bytes of the container."""
        view = memoryview(data).cast("B")
        if self._largest is not None and self._size + len(view) > self._largest:
            await self.abort()
            return "too-large"
        return await self._guarded(self._feed, view)

    async def finish(self) -> str | None:
        """Make the entry visible."""
        return await self._guarded(self._finish)

    async def abort(self) -> None:
        """Give it up; may be called at any time, and does nothing after the end."""
        if not self._over:
            self._over = True
            self._buffer = bytearray()
            with contextlib.suppress(RemoteError):
                await self._writes.unlink(self._names())

    async def _guarded(self, step: Callable[..., Awaitable[str | None]], *args: Any) -> str | None:
        if self._over:
            return "aborted"
        try:
            word = await step(*args)
        except RemoteError as error:
            await self.abort()
            return self._failed(error)
        except BaseException:
            await self.abort()
            raise
        if word is not None:
            await self.abort()
        return word

    async def _feed(self, view: memoryview) -> None:
        at = 0
        if len(self._head) < HEAD_BYTES:
            at = HEAD_BYTES - len(self._head)
            self._head += bytes(view[:at])
        self._size += min(at, len(view))
        size = self._writes.slice_size
        while at < len(view):
            keep = max(size, _END_BYTES + self._size // _CHUNKS_SHARE)
            batch = max(size, BATCH_BYTES // size * size)
            take = min(keep + batch - len(self._buffer), len(view) - at)
            self._buffer += view[at : at + take]
            self._size += take
            at += take
            if len(self._buffer) >= keep + batch:
                await self._send(batch // size)

    async def _send(self, count: int, stop: int | None = None) -> None:
        """Send the first slices of the buffer; the last of them ends at ``stop``."""
        size = self._writes.slice_size
        end = count * size if stop is None else stop
        with memoryview(self._buffer) as view:
            slices = [bytes(view[at : min(at + size, end)]) for at in range(0, end, size)]
        names = slice_names(self._base, self._token, self._sent, self._sent + count)
        if self._clock() - self._renewed > STAGED_MS / 3000:
            await self._writes.renew(self._names())
            self._renewed = self._clock()
        self._sent += count  # even if that fails: they may be there
        await self._writes.stage(names, slices)
        del self._buffer[:end]

    def _names(self) -> list[bytes]:
        return slice_names(self._base, self._token, 0, self._sent)

    async def _finish(self) -> str | None:
        start = HEAD_BYTES + self._sent * self._writes.slice_size
        here = Manifest(start, self._writes.slice_size, self._head, self._size, bytes(self._buffer))
        entry = RemoteBytes(self._client, self._base, here).open(self._key)
        life = await self._admit(entry)
        if isinstance(life, str):
            return life
        cut = cut_of(self._size, here.tail[-48:], entry)
        tail = here.tail[cut - start :]
        manifest = Manifest(cut, here.slice_size, self._head, self._size, tail)
        if manifest.slices > self._sent:
            await self._send(manifest.slices - self._sent, cut - start)
        self._over = True  # whatever comes of it: see commit()
        self._buffer = bytearray()
        if not await self._writes.commit(self._base, manifest, life):
            return "no-space"  # the server let go of a slice before the manifest came
        self._finished()
        return None
