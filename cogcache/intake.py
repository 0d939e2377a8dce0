"""Streams that come in: from what a caller gives to what takes it into every tier."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, TypeVar

from cogcache._types import Duration, duration_seconds
from cogcache.calls import Calls
from cogcache.chunksizes import ChunkSizes
from cogcache.feeding import StreamSource, known_length, pieces_of
from cogcache.puts import Context
from cogcache.reader import Reading
from cogcache.streams import Inflow, StreamResult
from cogcache.tee import TeeInflow, TeeStream
from cogcache.tiering import Tiers
from cogcache.writing import Writing

__all__ = ["Intake"]

_Inflow = TypeVar("_Inflow", bound=Inflow)


class Intake:
    """Streams that one manager takes in.

    Args:
        tiers: Of the manager.
        writing: Of the manager.
        reading: Of the manager: what is counted and logged of streams.
        calls: Of the manager; sets are counted here.
        chunk_sizes: How values are cut.
        max_chunks: Of a value at most; ``None`` leaves it at what a container holds.
    """

    def __init__(
        self,
        tiers: Tiers,
        writing: Writing,
        reading: Reading,
        calls: Calls,
        chunk_sizes: ChunkSizes,
        max_chunks: int | None,
    ) -> None:
        self._tiers = tiers
        self._writing = writing
        self._reading = reading
        self._calls = calls
        self._chunk_sizes = chunk_sizes
        self._max_chunks = max_chunks

    async def put(
        self,
        encoded: bytes | None,
        source: StreamSource,
        *,
        length: int | None,
        ttl_ms: int | None,
        meta: Mapping[int | str, Any],
        context: Context,
    ) -> StreamResult:
        """Keep what ``source`` gives; see ``CacheManager.put_stream``."""
        inflow = self._inflow(Inflow, encoded, source, length, ttl_ms, meta, context)
        if inflow is None:
            return StreamResult(False, "bad-key")
        with self._tiers.promotions.changes.of([inflow.key]):
            return await self._take_in(inflow, pieces_of(source))

    def tee(
        self,
        encoded: bytes | None,
        source: StreamSource,
        *,
        length: int | None,
        ttl_ms: int | None,
        meta: Mapping[int | str, Any],
        context: Context,
        finish: bool,
        wait_seconds: Duration,
        buffer_mb: float,
    ) -> TeeStream:
        """Keep what ``source`` gives, and hand it on; see ``CacheManager.tee_stream``."""
        wait = duration_seconds(wait_seconds, "wait_seconds")
        if isinstance(buffer_mb, bool) or not isinstance(buffer_mb, int | float):
            raise TypeError(f"buffer_mb must be a number, not {type(buffer_mb).__name__}")
        if not 4 <= buffer_mb <= 1_000_000:
            raise ValueError(f"buffer_mb must be a number from 4 to 1000000, got {buffer_mb}")
        kind = functools.partial(TeeInflow, most=int(buffer_mb * 1_000_000))
        inflow = self._inflow(kind, encoded, source, length, ttl_ms, meta, context)
        return TeeStream(
            source, inflow, self._take_in, self._tiers.storing, wait_seconds=wait, finish=finish
        )

    def _inflow(
        self,
        kind: Callable[..., _Inflow],
        encoded: bytes | None,
        source: StreamSource,
        length: int | None,
        ttl_ms: int | None,
        meta: Mapping[int | str, Any],
        context: Context,
    ) -> _Inflow | None:
        """What takes a stream in; ``None`` for a key that is never there."""
        if length is not None and (isinstance(length, bool) or not isinstance(length, int)):
            raise TypeError(f"length must be a number of bytes, not {type(length).__name__}")
        if length is not None and length < 0:
            raise ValueError(f"length must not be negative, got {length}")
        if encoded is None:
            return None
        options: dict[str, Any] = {"chunk_size": self._chunk_sizes.of(encoded)}
        if self._max_chunks is not None:
            options["max_chunks"] = self._max_chunks
        known = known_length(source) if length is None else length
        if known is not None:
            options["length"] = known
        return kind(
            self._tiers,
            encoded,
            ttl_ms=ttl_ms,
            meta=meta,
            source=context.source,
            kind=context.kind,
            options=options,
            writing=self._writing,
            note=self._reading.logs_stored(encoded),
        )

    async def _take_in(
        self, inflow: Inflow, pieces: AsyncGenerator[memoryview, None]
    ) -> StreamResult:
        """Store a stream, and count what became of it."""
        began = time.monotonic()
        try:
            result = await inflow.run(pieces)
        except BaseException:
            self._reading.count("streams_aborted")
            raise
        if result.stored:
            await self._writing.withdraw(inflow.key.__eq__)  # what waits is an older value
        self._calls.count("sets", result.stored)
        self._reading.count("streams_stored", result.stored)
        self._reading.count("bytes_stored", result.size)
        self._reading.count("chunks_stored", result.chunks)
        self._reading.count("store_ms", round((time.monotonic() - began) * 1000))
        return result
