"""Reading ranges of one part of one generation of an entry, and all of it as a stream."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

from cogcache import _core
from cogcache._inline import SyncFacade, is_inline
from cogcache.config import ChunkingConfig
from cogcache.edge import Edge
from cogcache.exceptions import IncompleteError, shown
from cogcache.images import content_type_of
from cogcache.keys import Key
from cogcache.ranges import half_open
from cogcache.readahead import AHEAD_BYTES, Run, Runs
from cogcache.window import Window

if TYPE_CHECKING:
    from cogcache.backends.base import CacheBackend
    from cogcache.tiering import Tiers

logger = logging.getLogger("cogcache")

STREAM_PIECE: Final = 1 << 20  # bytes of one step of ``stream``
WINDOW_BYTES: Final = 32 << 20  # of one stream that were read and not yet asked for
_PAID_BYTES: Final = 5 << 20  # what a chunk's time is given for

Found = tuple["CacheBackend", _core.Entry]


@dataclass(frozen=True)
class Reading:
    """What readers of one manager share.

    Attributes:
        chunking: Window, deadline and logging.
        counters: Of the manager.
        again: Finds the same generation in a tier that is not in the list.
        runs: What is read ahead of ranges that are asked for by key.
        runs_inline: Whether ``sync`` may do without an event loop, whatever tier is read from in
            the end.
        edge: Chunks of remote tiers that were read in part, if they are to be kept.
    """

    chunking: ChunkingConfig = field(default_factory=ChunkingConfig)
    counters: dict[str, int] = field(default_factory=dict)
    again: Callable[[_core.Entry, list[CacheBackend]], Awaitable[Found | None]] | None = None
    runs: Runs = field(default_factory=Runs)
    runs_inline: Callable[[], bool] = bool
    edge: Edge | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.chunking.use_edge_cache:
            object.__setattr__(self, "edge", Edge(self.chunking.edge_cache_ttl, self.count))

    def close(self) -> None:
        """Let go of what is kept for later ranges."""
        self.runs.close()
        if self.edge is not None:
            self.edge.clear()

    def count(self, name: str, more: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + more

    def logs_stored(self, key: bytes) -> Callable[[int, int], None] | None:
        """What logs the chunks of a stream that comes in, if that is wanted."""
        if not self.chunking.log_chunk_operations:
            return None
        text = str(Key.from_encoded(key))
        numbers, began = itertools.count(), time.monotonic()

        def log(start: int, stop: int) -> None:
            nonlocal began
            now, last = time.monotonic(), began
            began = now
            logger.debug(
                "stored chunk %d: bytes %d to %d in %.1f ms: %s",
                next(numbers),
                start,
                stop,
                (now - last) * 1000,
                text,
            )

        return log


class Reader:
    """A pinned generation: whatever happens to the key, it reads the bytes that it was opened on.

    Attributes:
        size: Bytes of the part.
        content_type: As it was stored with, else ``"application/octet-stream"``.
        etag: Changes with every write of the key; strong, quoted, fit for HTTP.
        created: Unix seconds of the write.
        part: Name of the part that ``read`` reads.
        unreadable: Tiers that could not read a chunk.
        sync: The same methods, blocking.
    """

    def __init__(
        self,
        tier: CacheBackend,
        entry: _core.Entry,
        part: _core.PartInfo | None,
        reading: Reading,
        inline: bytes = b"",
    ) -> None:
        self._tier = tier
        self._entry = entry
        self._info = part
        self._inline = inline
        self._reading = reading
        self._run: Run | None = None
        self.unreadable: list[CacheBackend] = []
        self.sync: Any = SyncFacade(self, reading.runs_inline)
        self.part = "doc" if part is None else _part_name(part)
        self.size = len(inline) if part is None else part.raw_size
        self.etag = f'"{entry.token:016x}-{quote(self.part)}"'
        self.created = entry.created_ms / 1000
        stored = entry.meta.get(4)
        self.content_type = stored if isinstance(stored, str) else "application/octet-stream"

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Names of all parts of the entry."""
        return tuple(_part_name(part) for part in self._entry.parts())

    async def _look_at_frame(self) -> Reader:
        """The type of a picture is in its first bytes. To verify those, all of a small one is read:
        then it is kept, so that nothing is asked for twice.
        """
        if self.part.startswith("frame/"):
            some = self.size if self.size <= STREAM_PIECE else 16
            data = await self._read(0, min(self.size, some))
            self.content_type = content_type_of(data)
            if len(data) == self.size:
                self._info, self._inline = None, data
        return self

    @classmethod
    async def open(
        cls,
        tier: CacheBackend,
        entry: _core.Entry,
        part: str | None,
        reading: Reading | None = None,
    ) -> Reader:
        """Open ``part`` of an entry; ``None`` means the bytes of a value that is bytes.

        Raises:
            ValueError: There is no such part, or the value is not bytes.
        """
        reading = reading or Reading()
        named = None if part is None else _find_part(entry, part)
        if named is not None:
            return await cls(tier, entry, named, reading)._look_at_frame()
        parts = {_part_name(p): p for p in entry.parts()}
        if part is not None:
            raise ValueError(f"the entry has no part {shown(part)}; it has: {_listed(parts)}")
        value_parts = [p for p in parts.values() if p.kind != "doc"]
        if not value_parts or (len(value_parts) == 1 and value_parts[0].kind == "blob"):
            if value_parts:
                if await tier.value_type(entry) in ("bytes", "bytearray"):
                    return cls(tier, entry, value_parts[0], reading)
            else:
                value = await tier.load(entry)
                if isinstance(value, bytes | bytearray):
                    return cls(tier, entry, None, reading, bytes(value))
        raise ValueError(
            f"the value is not bytes, so a part must be named; it has: {_listed(parts)}"
        )

    def _range(self, start: Any, stop: Any) -> tuple[int, int]:
        first, last = half_open(start, stop)
        return min(first, self.size), self.size if last is None else min(last, self.size)

    async def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes ``start`` to ``stop``, half open, as a slice has them: what lies beyond ``size`` is
        not there. Every chunk is verified before any byte is given out.

        What one tier cannot read is read from another one that has the same generation. Of a remote
        tier the range after two that followed each other is read ahead, at most 8 MiB
        (``ChunkingConfig.read_ahead``).

        Raises:
            ValueError: A negative ``start``, or a ``stop`` before it.
            IncompleteError: The stored bytes are damaged or cannot be read now. (An ``OSError``.)
        """
        start, end = self._range(start, stop)
        if not self._reads_ahead():
            return await self._read(start, end)
        if self._run is None:
            self._run = Run(self._reading.count)
        return await self._read_on(self._run, start, end)

    async def read_by_key(self, start: int, stop: int | None) -> bytes:
        """``read`` for a reader that is opened for one range only: what is read ahead is kept for
        the next reader of this generation.
        """
        start, end = self._range(start, stop)
        if not self._reads_ahead():
            return await self._read(start, end)
        run = self._reading.runs.of(self._entry.token, self.part, self._reading.count)
        return await self._read_on(run, start, end)

    def close(self) -> None:
        """Let go of what was read ahead. ``async with manager.open(...)`` does it."""
        if self._run is not None:
            self._run.close()

    def _reads_ahead(self) -> bool:
        return (
            self._tier.is_remote
            and self._reading.chunking.read_ahead
            and self._info is not None
            and 0 < self._info.chunk_size <= AHEAD_BYTES
            and not self._entry.in_memory
            and not is_inline()
        )

    async def _read_on(self, run: Run, start: int, end: int) -> bytes:
        assert self._info is not None
        tier, entry, info = self._tier, self._entry, self._info
        data = await run.take(start, end)
        if start + len(data) < end:
            data += await self._read(start + len(data), end)
        else:
            self._reading.count("bytes_read", len(data))

        async def fetch(at: int, stop: int) -> bytes:
            return await self._read_from(tier, entry, info, at, stop)

        run.went_on(start, end, self.size, info.chunk_size, fetch)
        return data

    async def _read(self, start: int, end: int) -> bytes:
        if self._info is None:
            return self._inline[start:end]
        while True:
            tier, entry, info = self._tier, self._entry, self._info
            began = time.monotonic()
            try:
                data = await self._read_from(tier, entry, info, start, end)
            except OSError as error:
                self._reading.count("chunk_errors")
                if await self._go_elsewhere(tier):
                    continue
                if isinstance(error, IncompleteError) and error.position is not None:
                    raise
                raise self._incomplete(tier, start, end, error) from error
            self._reading.count("bytes_read", len(data))
            self._reading.count("chunks_read", self._chunks_in(start, end))
            if self._reading.chunking.log_chunk_operations:
                self._log(tier, start, end, time.monotonic() - began)
            return data

    async def stream(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        on_missing: Literal["raise", "zero"] = "raise",
    ) -> AsyncGenerator[bytes, None]:
        """The same range in pieces of at most 1 MiB, in order.

        Up to three chunks (``ChunkingConfig.parallel_fetches``) are read at once, the next one as
        soon as the first of them was handed out; at most 32 MiB are held, or one chunk if that is
        more. The first piece comes with the first chunk. Where none of them comes in its time, the
        way is too slow for several, and the stream goes on with one at a time. Whoever stops early
        leaves nothing running.

        Args:
            start: As for ``read``.
            stop: As for ``read``.
            on_missing: ``"zero"`` gives zeros for chunks that cannot be read, so that a player
                keeps its place; they are counted as ``chunks_zeroed``.

        Raises:
            ValueError: See ``read``; or an unknown ``on_missing``.
            IncompleteError: A chunk cannot be read; ``position`` says where.
        """
        if on_missing not in ("raise", "zero"):
            raise ValueError(f"on_missing must be 'raise' or 'zero', not {shown(on_missing)}")
        start, end = self._range(start, stop)
        window = Window(
            self._spans(start, end),
            self._read,
            self._seconds_for,
            0 if is_inline() else self._window(),
            lambda: self._reading.count("streams_narrowed"),
        )
        try:
            while (span := window.begin()) is not None:
                try:
                    data = await window.arrival()
                except OSError:
                    if on_missing != "zero":
                        raise
                    self._reading.count("chunks_zeroed")
                    data = bytes(span[1] - span[0])
                for at in range(0, len(data), STREAM_PIECE):
                    yield data[at : at + STREAM_PIECE]
                del data
        finally:
            await window.close()

    def promotion(self, tiers: Tiers, since: int) -> Callable[[], Awaitable[None]] | None:
        """What copies the whole entry into the local tiers above, if it came from a remote one and
        that is wanted; ``since`` as for ``Tiers.promote_from``.
        """
        if not self._tier.is_remote or not self._reading.chunking.use_edge_cache:
            return None
        return tiers.promote_from(self._entry, self._tier, since)

    # --- inside -----------------------------------------------------------------------------------

    def _chunks_in(self, start: int, end: int) -> int:
        chunk = self._info.chunk_size if self._info is not None else 0
        return (end - 1) // chunk - start // chunk + 1 if chunk and start < end else 0

    def _step(self) -> int:
        """Bytes that are read at once: whole chunks, at least 1 MiB of them."""
        chunk = self._info.chunk_size if self._info is not None else 0
        return chunk * -(-STREAM_PIECE // chunk) if chunk else STREAM_PIECE

    def _window(self) -> int:
        most = max(1, WINDOW_BYTES // self._step())
        return min(self._reading.chunking.parallel_fetches, most)

    def _spans(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        step = self._step()
        while start < end:
            stop = min(end, (start // step + 1) * step)
            yield start, stop
            start = stop

    async def _read_from(
        self, tier: CacheBackend, entry: _core.Entry, part: _core.PartInfo, start: int, stop: int
    ) -> bytes:
        """One try in one tier; chunks of a remote one, of which only a part is wanted, are kept."""

        async def fetch(at: int, end: int) -> bytes:
            return await self._fetch_from(tier, entry, part, at, end)

        edge = self._reading.edge
        if edge is None or not tier.is_remote or entry.in_memory:
            return await fetch(start, stop)
        name = (entry.token, _part_name(part))
        try:
            return await edge.read(name, part.raw_size, part.chunk_size, start, stop, fetch)
        except IncompleteError as error:
            if error.position is not None:
                error.position = max(error.position, start)
            raise

    async def _fetch_from(
        self, tier: CacheBackend, entry: _core.Entry, part: _core.PartInfo, start: int, stop: int
    ) -> bytes:
        """One request to one tier, within its time."""
        try:
            if is_inline():
                return await tier.read_part(entry, part.number, start, stop)
            async with asyncio.timeout(self._seconds_for(start, stop)):
                return await tier.read_part(entry, part.number, start, stop)
        except (_core.DamagedError, _core.UnsupportedError) as error:
            await tier.value_failed(entry, error)
            raise self._incomplete(tier, start, stop, error) from error
        except TimeoutError as error:
            self._reading.count("chunk_timeouts")
            raise self._incomplete(tier, start, stop, "it took too long") from error

    def _seconds_for(self, start: int, stop: int) -> float:
        """Whole chunks are read, however little of them is asked for."""
        chunk = self._info.chunk_size if self._info is not None else 0
        size = max(stop - start, min(chunk, self.size))
        return self._reading.chunking.timeout_ms / 1000 * max(1.0, size / _PAID_BYTES)

    async def _go_elsewhere(self, failed: CacheBackend) -> bool:
        """Go on in another tier that has this generation; whether there is one."""
        if self._tier is not failed:
            return True  # another chunk of this stream was here before
        self.unreadable.append(failed)
        if self._reading.again is None:
            return False
        found = await self._reading.again(self._entry, self.unreadable)
        if found is None or self._info is None:
            return False
        tier, entry = found
        info = entry.find(self._info.kind, self._info.name)
        if info is None or info.raw_size != self.size:
            return False
        self._tier, self._entry, self._info = tier, entry, info
        self._reading.count("chunk_retries")
        return True

    def _incomplete(
        self, tier: CacheBackend, start: int, stop: int, why: object
    ) -> IncompleteError:
        error = IncompleteError(f"{self.part}: bytes {start} to {stop} of {tier.name}: {why}")
        error.tier, error.part, error.position = tier.name, self.part, start
        return error

    def _log(self, tier: CacheBackend, start: int, stop: int, seconds: float) -> None:
        logger.debug(
            "%s: read %s, chunk %d: bytes %d to %d in %.1f ms: %s",
            tier.name,
            self.part,
            start // self._step(),
            start,
            stop,
            seconds * 1000,
            Key.from_encoded(self._entry.key),
        )


def _find_part(entry: _core.Entry, name: str) -> _core.PartInfo | None:
    """The part of a name, without a look at the others, of which there may be thousands."""
    kind, _, rest = name.partition("/")
    try:
        found = entry.find(kind, rest)
    except ValueError:  # no kind at all, or a text that no part has
        return None
    return found if found is not None and _part_name(found) == name else None


def _listed(names: Iterable[str]) -> str:
    """Some of the names for a message."""
    first = list(itertools.islice(names, 9))
    return ", ".join(first[:8] + (["..."] if len(first) > 8 else [])) or "none"


def _part_name(part: _core.PartInfo) -> str:
    return f"{part.kind}/{part.name}" if part.name else part.kind
