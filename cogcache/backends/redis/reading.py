"""The bytes of one generation of an entry, read from Redis as they are asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from cogcache import _core
from cogcache.backends.faults import AbsentError
from cogcache.backends.lanes import current_call
from cogcache.backends.redis.client import BULK_FACTOR, RedisClient
from cogcache.backends.redis.layout import FIXED_BYTES, HEAD_BYTES, Manifest, Names, Place

__all__ = ["RemoteBytes", "here"]

BATCH_BYTES: Final = 1 << 20  # of one request, unless a single slice is larger
SMALL_READ: Final = 256 * 1024

here = threading.local()


class RemoteBytes:
    """For the reader of containers: ``read`` blocks and belongs into a thread of the tier's own,
    ``ranges`` and ``load_all`` into the loop.
    """

    def __init__(self, client: RedisClient, base: bytes, manifest: Manifest) -> None:
        self._client = client
        self._base = base
        self._is_open = False
        self.manifest = manifest

    def open(self, key: bytes | None = None) -> _core.Entry:
        """The entry, without asking the server: its index is at hand.

        Raises:
            DamagedError, ForeignError: As every reader of containers.
        """
        known = self.manifest
        entry = _core.Entry.from_reader(known.length, self.read, key, known.tail)
        self._is_open = True
        return entry

    def read(self, offset: int, size: int) -> bytes:
        """Exactly these bytes.

        Raises:
            AbsentError: This generation is no longer there.
            RemoteError: See there.
        """
        known = self.manifest
        if not self._is_open:
            # Opening looks at the index, which is at hand, and at the head.
            if offset + size > HEAD_BYTES:
                raise _core.DamagedError("the index is not in the manifest")
            return known.head[offset : offset + size]
        call, loop = current_call(), getattr(here, "loop", None)
        if call is None or loop is None:
            raise RuntimeError("the bytes of a remote entry are read in the threads of its tier")
        waiting = asyncio.run_coroutine_threadsafe(self.range(offset, offset + size), loop)
        call.extend(4 * BULK_FACTOR * self._client.seconds * (1 + size // BATCH_BYTES))
        try:
            while True:
                call.check()
                try:
                    return waiting.result(0.05)
                except TimeoutError:
                    if waiting.done():  # it may have come just now
                        return waiting.result()
        finally:
            waiting.cancel()

    async def range(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of the container."""
        known = self.manifest
        found = [known.head[start:stop]]
        low, high = max(start, HEAD_BYTES), min(stop, known.cut)
        if low < high:
            found += await self._places(known.places(low, high))
        low, high = max(start, known.cut), min(stop, known.tail_start)
        if low < high:
            found.append(await self._of_manifest(low, high))
        if stop > known.tail_start:
            found.append(known.tail[max(0, start - known.tail_start) : stop - known.tail_start])
        whole = b"".join(found)
        if len(whole) != stop - start:
            raise AbsentError("the entry was replaced since it was opened")
        return whole

    async def load_all(self) -> bytes:
        """The whole container.

        Raises:
            AbsentError: A slice is missing.
        """
        return await self.range(0, self.manifest.length)

    async def with_tail(self, size: int) -> RemoteBytes:
        """The same with at least the last ``size`` bytes at hand."""
        known = self.manifest
        want = min(size, known.length - known.cut)
        if len(known.tail) >= want:
            return self
        tail = await self._of_manifest(known.length - want, known.length)
        if len(tail) != want:
            raise AbsentError("the entry was replaced since it was opened")
        return RemoteBytes(self._client, self._base, replace(known, tail=tail))

    async def _of_manifest(self, start: int, stop: int) -> bytes:
        at = FIXED_BYTES - self.manifest.cut
        name = Names.manifest(self._base)

        async def work(client: Any) -> bytes:
            data: bytes = await client.getrange(name, start + at, stop + at - 1)
            return data

        return await self._client.run(work, factor=BULK_FACTOR)

    async def _places(self, places: Sequence[Place]) -> list[bytes]:
        """What lies there, in requests of up to 1 MiB or one slice."""
        found: list[bytes] = []
        batch: list[Place] = []
        size = 0
        for place in places:
            if batch and size + place.stop - place.start > BATCH_BYTES:
                found += await self._batch(batch, size)
                batch, size = [], 0
            batch.append(place)
            size += place.stop - place.start
        if batch:
            found += await self._batch(batch, size)
        return found

    async def _batch(self, places: list[Place], size: int) -> list[bytes]:
        known = self.manifest
        prefix = Names.slice_prefix(self._base, known.token)

        async def work(client: Any) -> list[Any]:
            pipe = client.pipeline(transaction=False)
            for place in places:
                name = prefix + b"%d" % place.number
                if place.stop - place.start == known.slice_bytes(place.number):
                    pipe.get(name)
                else:
                    pipe.getrange(name, place.start, place.stop - 1)
            answers: list[Any] = await pipe.execute()
            return answers

        factor = 1 if size <= SMALL_READ else BULK_FACTOR
        answers = await self._client.run(work, factor=factor)
        for place, data in zip(places, answers, strict=True):
            if not data:
                raise AbsentError(f"slice {place.number} is missing")
            if len(data) != place.stop - place.start:
                raise _core.DamagedError(f"slice {place.number} has another size")
        return answers
