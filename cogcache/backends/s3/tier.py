"""The S3 tier: entries as objects of a bucket, for any number of hosts."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from random import SystemRandom
from typing import Any, ClassVar, Final, TypeVar

from cogcache import _bridge, _core
from cogcache._fork import renew_after_fork
from cogcache.backends.base import (
    META_FULL_PARAMS,
    META_SOURCE,
    CacheBackend,
    ContainerSink,
    KeyPattern,
    describe_entry,
)
from cogcache.backends.clocks import ClockDifference
from cogcache.backends.destination import destination_of
from cogcache.backends.faults import (
    AbsentError,
    BusyError,
    MisconfiguredError,
    RefusedError,
    RemoteError,
)
from cogcache.backends.lanes import Call, Lane
from cogcache.backends.places import Place
from cogcache.backends.receiving import Receiver
from cogcache.backends.s3.census import Census
from cogcache.backends.s3.client import S3Client
from cogcache.backends.s3.clock import store_clock
from cogcache.backends.s3.download import (
    RANGE_BYTES,
    Reads,
    RemoteBytes,
    token_of,
)
from cogcache.backends.s3.errors import ChangedError, NotSupportedError
from cogcache.backends.s3.hedges import Hedges
from cogcache.backends.s3.interrupted import Interrupted
from cogcache.backends.s3.late import LateWrites
from cogcache.backends.s3.listing import Listed, Listing, ensure_lifecycle, in_parallel
from cogcache.backends.s3.memory import Remembered
from cogcache.backends.s3.names import Names
from cogcache.backends.s3.objects import Objects
from cogcache.backends.s3.opening import SCAN_TAIL_BYTES, Opener
from cogcache.backends.s3.payload import Payload
from cogcache.backends.s3.probe import Abilities, probe
from cogcache.backends.s3.refresh import Refreshes, is_due
from cogcache.backends.s3.resume import RECORDS, Records, Unfinished
from cogcache.backends.s3.streams import S3Upload, copy_parallel
from cogcache.backends.s3.upload import PART_BYTES, Upload, Writes
from cogcache.backends.s3.whole import put_whole
from cogcache.config import S3CacheConfig
from cogcache.exceptions import IncompleteError
from cogcache.keys import Key

__all__ = ["S3Backend"]

logger = logging.getLogger("cogcache")
T = TypeVar("T")

ABSENT_SECONDS: Final = 10.0  # how long an absence is believed, give or take a fifth
DAMAGED_SECONDS: Final = 60.0  # how long a damaged object is left alone
MISSED_SECONDS: Final = 3600.0  # how long after a miss a write is taken for the filling of it
DENIED_SECONDS: Final = 300.0  # how long a refusal to let us write is believed
REMEMBERED: Final = 4096  # names, of each kind
UPLOAD_AGE_SECONDS: Final = 86_400.0


class S3Backend(CacheBackend):
    """Entries as objects of an S3 bucket.

    A hit on up to 64 KiB is one request, one frame of a bundle one or two; nothing is listed or
    asked for twice on the way of a read. Every wait has a deadline, an outage costs microseconds a
    call, and no fault of the store is an exception of ``fetch`` or ``write``. Usable from several
    event loops, safe across ``fork``, and pickled by its configuration.

    At any time a process holds at most 20 threads (24 with ``hedge_reads``) and 32 MiB of indexes
    for a tier, 64 MiB for each of up to four large uploads, and the values that are being read.

    Raises:
        ConfigError: boto3 is not installed.
    """

    CONFIG_CLASS: ClassVar[type[Any] | None] = S3CacheConfig
    runs_inline: ClassVar[bool] = False
    is_remote: ClassVar[bool] = True
    keeps_deadlines: ClassVar[bool] = True

    def __init__(self, config: S3CacheConfig) -> None:
        super().__init__(config)
        self._client = S3Client(config)
        self._reads = Reads(self._client)
        self._writes = Writes(self._client, self._reads)
        self._late = LateWrites()
        self._hedges = Hedges(self._client.small) if config.hedge_reads else None
        self._listing = Listing(self._client)
        self._names = Names(config.clean_prefix)
        self._census = Census(self._listing, self._names.root, self._is_entry, self._now)
        self._refreshes = Refreshes(self._client, self._names.probes)
        self._random = SystemRandom()
        self._clock: Callable[[], float] = time.monotonic
        self._abilities: Abilities | None = None
        self._denied_until = 0.0
        clock = self._now
        self._gone: Remembered[str] = Remembered(REMEMBERED, clock)
        self._missed: Remembered[bool] = Remembered(REMEMBERED, clock)
        self._written: Remembered[bool] = Remembered(REMEMBERED, clock)
        self._marked: Remembered[bool] = Remembered(REMEMBERED, clock)
        self._opener = Opener(self._client, self._reads, self._hedges, clock)
        self._objects = Objects(self._client, self._listing, self._names, self._reads, self._opener)
        self._interrupted = Interrupted(self._client, self._writes, self._names)
        self.counters["created_by_others"] = 0
        self.counters["busy"] = 0  # calls that no thread was free for
        self._probing = threading.Lock()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Another thread of the parent may have been inside."""
        self._probing = threading.Lock()

    def _now(self) -> float:
        return self._clock()

    # --- reading ----------------------------------------------------------------------------------

    async def fetch(self, key: bytes, *, index_only: bool = False) -> _core.Entry | str:
        name = self._names.of_key(key)
        word = self._gone.get(name)
        if word is not None:
            return word
        since = self._gone.moment, self._missed.moment
        try:
            entry = await self._opener.fetch(key, name, index_only)
            if self._opener.indexes.get(name) is not None and self._why_dead(entry) is not None:
                self._opener.indexes.forget(name)  # another host may have refreshed it since
                entry = await self._opener.fetch(key, name, index_only)
        except AbsentError:
            self.note_works("read")
            self._note_absent(name, since)
            return "absent"
        except _core.DamagedError as error:
            return self._set_aside(name, error, since[0])
        except _core.ForeignError:
            self._missed.forget(name)
            return "absent"
        except RemoteError as error:
            self.note_fault("read", error)
            return "unavailable"
        self.note_works("read")
        self._missed.forget(name)
        return self._why_dead(entry) or entry

    async def read(self, key: bytes) -> _core.Entry | None:
        try:
            return await self._opener.fetch(key, self._names.of_key(key), False)
        except (AbsentError, _core.ForeignError):
            return None

    async def load(self, entry: _core.Entry, **options: Any) -> Any:
        if entry.in_memory:
            return await super().load(entry, **options)
        lane = self._client.small if entry.length <= RANGE_BYTES else self._client.work
        name = self._names.of_key(entry.key)
        try:
            return await self._opener.run(lane, _value, entry, options)
        except (_core.DamagedError, ChangedError, AbsentError):
            self._opener.indexes.forget(name)
        except RemoteError as error:
            self.note_fault("read", error)
            raise
        # Replaced since it was opened, or spoilt on the way: once more from the beginning, and if
        # it is replaced meanwhile again, all of it before any of it is used.
        try:
            return await self._load_again(entry, name, True, options)
        except ChangedError:
            return await self._load_again(entry, name, False, options)

    async def _load_again(
        self, entry: _core.Entry, name: str, index_only: bool, options: dict[str, Any]
    ) -> Any:
        try:
            again = await self._opener.fetch(entry.key, name, index_only)
        except _core.ForeignError as error:
            raise AbsentError(f"{name}: {error}") from error
        if self._why_dead(again) is not None or not _same_meaning(entry, again):
            raise AbsentError(f"{name}: replaced by another entry")
        if again.in_memory:
            return await super().load(again, **options)
        lane = self._client.small if again.length <= RANGE_BYTES else self._client.work
        try:
            return await self._client.run(lane, _value, again, options)
        except ChangedError:
            self._opener.indexes.forget(name)
            raise

    async def read_part(self, entry: _core.Entry, part: int, start: int, stop: int) -> bytes:
        if entry.in_memory:
            return await super().read_part(entry, part, start, stop)
        lane = self._client.lane_for(stop - start)
        if lane is not self._client.small:
            lane = self._client.work
        try:
            return await self._opener.run(lane, lambda call: entry.read(part, start, stop))
        except _core.DamagedError:  # perhaps on the way
            return await self._client.run(lane, lambda call: entry.read(part, start, stop))
        except (ChangedError, AbsentError) as error:
            return await self._read_part_again(entry, part, start, stop, lane, error)
        except RemoteError as error:
            self.note_fault("read", error)
            raise

    async def _read_part_again(
        self,
        entry: _core.Entry,
        part: int,
        start: int,
        stop: int,
        lane: Lane,
        error: Exception,
    ) -> bytes:
        """Of an object that changed since it was opened: it may have been refreshed, which gives it
        another ETag in some stores and leaves the entry as it is.
        """
        name = self._names.of_key(entry.key)
        self._opener.indexes.forget(name)
        try:
            again = await self._opener.fetch(entry.key, name, True)
            if again.token == entry.token:
                return await self._client.run(lane, lambda call: again.read(part, start, stop))
        except (ChangedError, AbsentError, _core.ForeignError):
            pass
        self._opener.indexes.forget(name)
        raise IncompleteError("the entry was replaced or removed since it was opened") from error

    async def value_type(self, entry: _core.Entry) -> str:
        if entry.in_memory:
            return entry.value_type()
        return await self._client.run(self._client.small, lambda call: entry.value_type())

    async def copy_to(self, entry: _core.Entry, sink: ContainerSink) -> str | None:
        """See ``CacheBackend.copy_to``: ranges of 8 MiB, four at a time, 2 MiB in memory. A
        generation that is no longer there is ``"changed"``.
        """
        if entry.in_memory:
            return await super().copy_to(entry, sink)
        name = self._names.of_key(entry.key)

        def copy(call: Call) -> str | None:
            tail = self._opener.indexes.get(name) or self._reads.tail(call, name)
            if token_of(tail) != entry.token or tail.size != entry.length:
                raise ChangedError("another generation is there by now")
            return copy_parallel(self._reads, self._client, call, name, tail, sink)

        try:
            return await self._client.run(self._client.work, copy)
        except (AbsentError, ChangedError):
            self._opener.indexes.forget(name)
            return "changed"
        except RemoteError as error:
            self.note_fault("read", error)
            return "unavailable"

    async def value_failed(self, entry: _core.Entry, error: Exception) -> str:
        if isinstance(error, _core.UnsupportedError):
            return await super().value_failed(entry, error)
        return self._set_aside(self._names.of_key(entry.key), error)

    # --- writing ----------------------------------------------------------------------------------

    async def prepare(self) -> Abilities:
        """Find out what the store can do, unless that is known; the first write does it by itself.

        Raises:
            OSError: The store does not answer, or does not let us write.
        """
        if self._abilities is None:
            seconds = 4 * self._client.seconds_for(0)
            self._abilities = await self._client.small.run(self._probe, seconds=seconds)
        return self._abilities

    async def write(
        self, what: _core.Draft | _core.Image, *, source: int = 0, kind: int = 0
    ) -> str | None:
        if self._now() < self._denied_until:
            return "read-only"
        image = await _bridge.compose(what) if isinstance(what, _core.Draft) else what
        name = self._names.of_key(image.key)
        try:
            await self.prepare()
            await self._mark(image.key, source)
            ours = await self._write(name, image)
        except RemoteError as error:
            return self._write_failed(error)
        self._wrote(name, ours)
        return None

    async def open_upload(
        self,
        key: bytes,
        token: int,
        *,
        source: int = 0,
        kind: int = 0,
        unfinished: Unfinished | None = None,
    ) -> S3Upload | str:
        """Begin to write an entry whose container is still being made (by ``_core.EntryWriter``,
        which has the ``token``), or one word for why not.
        """
        name = self._names.of_key(key)
        try:
            if self._now() < self._denied_until:
                return "read-only"
            can = await self.prepare()
            await self._mark(key, source)
            await self._late.settled(name, self._client.seconds_for(PART_BYTES))
        except RemoteError as error:
            return self._write_failed(error)
        return S3Upload(
            self._client,
            self._writes,
            self._late,
            name,
            token,
            can,
            once=self._missed.get(name) is not None,
            begin=lambda call: self._interrupted.begin(call, key, token, unfinished, spent=False),
            failed=self._write_failed,
            finished=lambda ours: self._wrote(name, ours),
        )

    async def receive(
        self,
        key: bytes,
        token: int,
        *,
        source: int = 0,
        kind: int = 0,
        unfinished: Unfinished | None = None,
    ) -> Receiver | str:
        """See ``open_upload``: in parts, so that at most 64 MiB are in memory."""
        return await self.open_upload(key, token, source=source, kind=kind, unfinished=unfinished)

    # --- going on with what broke off -------------------------------------------------------------

    def keep_records(self, store: _core.Store) -> None:
        self._interrupted.records = Records(store, destination_of(self))

    async def unfinished(self, key: bytes) -> Unfinished | None:
        return await self._interrupted.unfinished(key)

    def _write_failed(self, error: Exception) -> str:
        """Count a fault; the word for it."""
        self.note_fault("write", error)
        if isinstance(error, MisconfiguredError) and error.denied:
            self._denied_until = self._now() + DENIED_SECONDS
            return "read-only"
        # Refused for good: this object, and not because of the store's state.
        return "refused" if isinstance(error, RefusedError | NotSupportedError) else "unavailable"

    def _wrote(self, name: str, ours: bool) -> None:
        self.note_works("write")
        self.counters["created_by_others"] += not ours
        self._note_written(name)

    async def _write(self, name: str, image: _core.Image) -> bool:
        """Write an object; whether it is ours. A write that fills a miss of this process creates
        and never replaces: equal keys of artifacts mean equivalent ones, so whoever was first has
        done the work. Every other write replaces.
        """
        once = self._missed.get(name) is not None
        can = await self.prepare()
        size = len(image)
        await self._late.settled(name, self._client.seconds_for(size))
        if size > PART_BYTES:
            unfinished = await self.unfinished(image.key)
            try:
                return await self._put_in_parts(image, unfinished, once and can.create_once)
            except AbsentError:
                if unfinished is None:
                    raise
                return await self._put_in_parts(image, None, once and can.create_once)
        return await put_whole(
            self._client,
            self._writes,
            self._late,
            name,
            Payload(image.pieces()),
            f"{image.token:016x}",
            can,
            once=once,
        )

    async def _put_in_parts(
        self, image: _core.Image, unfinished: Unfinished | None, once: bool
    ) -> bool:
        pieces = image.pieces()
        token = image.token

        def begin(call: Call) -> Upload:
            # The token is that of the entry which other tiers have.
            return self._interrupted.begin(call, image.key, token, unfinished, spent=True)

        def put(call: Call) -> bool:
            with self._late.of(self._names.of_key(image.key), call):
                return self._writes.put_in_parts(call, begin, pieces, f"{token:016x}", once=once)

        try:
            return await self._client.work.run(put, seconds=self._client.seconds_for(len(image)))
        finally:
            if unfinished is not None:
                unfinished.release()

    async def _mark(self, key: bytes, source: int) -> None:
        """Leave a trace from a URI to the objects of its videos, once for each a process."""
        marker = self._names.of_marker(source, key)
        if marker is None or self._marked.get(marker) is not None:
            return
        await self._client.run(self._client.small, self._writes.leave, marker)
        self._marked.keep(marker, True, MISSED_SECONDS)

    def _probe(self, call: Call) -> Abilities:
        with self._probing:
            if self._abilities is None:
                self._abilities = probe(self._client, call, self._names.probes)
                days = self.config.lifecycle_expiration_days
                if days is not None:
                    try:
                        ensure_lifecycle(self._client, call, self._names.root, days)
                    except RemoteError as error:
                        logger.warning(
                            "%s: the bucket took no lifecycle rule, so nothing will expire by "
                            "itself: %s",
                            self.name,
                            error,
                        )
            return self._abilities

    async def refresh(self, key: bytes, ttl_ms: int | None) -> bool:
        """See ``CacheBackend.refresh``. The store copies the object onto itself, with the new life
        beside it, if less than half of the life that is asked for is left; else nothing is done.

        False also where the store cannot copy, or (of a key that is just a text, which another host
        may replace) cannot do it without losing what another one writes meanwhile; beyond 5 GiB;
        and when too many were copied just now: 100 at once, ten a second on the average.
        """
        if self._now() < self._denied_until:
            return False
        name = self._names.of_key(key)
        self._gone.forget(name)
        try:
            return await self._client.run(self._client.small, self._renew, key, name, ttl_ms)
        except (AbsentError, _core.DamagedError, _core.ForeignError):
            return False
        except RemoteError as error:
            self._write_failed(error)
            return False

    def _renew(self, call: Call, key: bytes, name: str, ttl_ms: int | None) -> bool:
        tail = self._reads.tail(call, name, SCAN_TAIL_BYTES)
        remote = RemoteBytes(self._reads, self._client, name, tail)
        entry = _core.Entry.from_reader(tail.size, remote.read, key)
        now = self.now_ms()
        if self._why_dead(entry) is not None:
            return False
        if not is_due(entry, now, ttl_ms):
            return True
        done = self._refreshes.renew(call, name, tail, now, ttl_ms, replaced=self._is_raw(name))
        self._opener.indexes.forget(name)
        return done

    def _is_entry(self, name: str) -> bool:
        return self._names.parse(name) is not None

    def _is_raw(self, name: str) -> bool:
        """Whether it is the object of a key that is just a text."""
        return "/raw/" in name[len(self._names.root) :]

    # --- removing ---------------------------------------------------------------------------------

    async def discard(self, key: bytes) -> bool:
        return await self._discard(self._names.of_key(key), None)

    async def discard_write(self, key: bytes, token: int) -> bool:
        return await self._discard(self._names.of_key(key), token)

    async def _discard(self, name: str, token: int | None) -> bool:
        """Delete an object if it is there, and with ``token`` only if it is of that write."""
        await self._late.settled(name, self._client.seconds_for(0))
        self._forget(name)
        try:
            found = await self._client.run(self._client.small, self._look, name, token)
        except AbsentError:
            return False
        if found is None:
            return False
        removed = await self._delete_generation(name, found)
        self._forget(name)
        return removed

    def _look(self, call: Call, name: str, token: int | None) -> str | None:
        """The ETag of an object, or ``None`` if it is of another write. That the object itself must
        say: its metadata are of the put that began its upload.
        """
        if token is None:
            answer = self._client.send(call, self._client.small, "head_object", Key=name)
            return str(answer.get("ETag", ""))
        tail = self._reads.tail(call, name, SCAN_TAIL_BYTES)
        return tail.etag if token_of(tail) == token else None

    async def _delete_generation(self, name: str, etag: str) -> bool:
        conditional = bool(etag) and (self._abilities is None or self._abilities.match_delete)
        if conditional and self._client.knows("DeleteObject", "IfMatch"):
            try:
                return await self._listing.delete_one(name, IfMatch=etag)
            except ChangedError:
                return False
            except (NotSupportedError, RefusedError):
                pass  # a store without conditions: between the look and now lies a moment
        return await self._listing.delete_one(name)

    # --- listing ----------------------------------------------------------------------------------

    async def scan(self, source: int = 0) -> AsyncIterator[_core.Entry]:
        prefixes = await self._objects.prefixes_of(source)
        await self._settled(lambda name: name.startswith(tuple(prefixes)))
        async for _, entry in self._objects.entries(prefixes):
            if entry is not None:
                yield entry

    async def _settled(self, meant: Callable[[str], bool]) -> None:
        """Wait for the writes of these objects that were given up, before they are listed: one that
        arrives after that would be missed by whoever removes what there is.

        Raises:
            UnavailableError: One is still under way after the time of a small call.
        """
        await self._late.all_settled(meant, self._client.seconds_for(0))

    async def iter_keys(
        self, pattern: str | None = None, include_metadata: bool = False
    ) -> AsyncIterator[tuple[str, dict[str, Any] | None]]:
        matcher = KeyPattern(pattern)
        if matcher.exact is not None:
            found = await self.fetch(Key.parse(matcher.exact).encoded, index_only=True)
            if not isinstance(found, str):
                yield matcher.exact, describe_entry(found) if include_metadata else None
            return
        async for _, entry in self._objects.entries(self._names.list_prefixes(matcher), matcher):
            if entry is None or self._why_dead(entry) is not None:
                continue
            text = str(Key.from_encoded(entry.key))
            if matcher.matches(text):
                yield text, describe_entry(entry) if include_metadata else None

    async def clear(self, pattern: str | None = None) -> int:
        matcher = KeyPattern(pattern)
        if matcher.exact is not None:
            return int(await self.delete(matcher.exact))
        removed = 0
        await self._settled(lambda name: self._objects.judge(name, matcher) is not False)
        async for page in self._objects.pages(self._names.list_prefixes(matcher), matcher):
            names = [one.name for one, verdict in page if verdict]
            for one, verdict in page:
                if verdict is None and await self._objects.is_meant(one.name, matcher):
                    names.append(one.name)
            removed += await self._listing.delete(names)
            for name in names:
                self._forget(name)
        if matcher.everything:
            async for marks in self._listing.pages(self._names.sources):
                # Not those that another host may rely on to be there, see `_mark`.
                old = [one.name for one in marks if one.age_seconds > 2 * MISSED_SECONDS]
                await self._listing.delete([name for name in old if self._names.of_marked(name)])
            self._marked.clear()
        self.counters["deletes"] += removed
        return removed

    async def places(self, source: int = 0) -> AsyncIterator[Place]:
        """See ``CacheBackend``: eight objects at a time are opened."""

        async def open_one(item: tuple[Listed, bool | None]) -> Place | None:
            return await self._objects.place_at(item[0].name)

        pages = self._objects.pages(await self._objects.prefixes_of(source))
        async for _, place in in_parallel(pages, open_one):
            if place is not None:
                yield place

    async def place_again(self, place: Place) -> Place | None:
        now = await self._objects.place_at(place.name)
        is_other = now is not None and place.mark is not None and now.mark != place.mark
        return None if is_other else now

    async def damage_in(
        self, entry: _core.Entry, first: int, stop: int
    ) -> list[tuple[int | None, int | None]]:
        return await self._client.run(self._client.work, lambda call: entry.damage(first, stop))

    async def remove_place(self, place: Place) -> bool:
        """Delete the object; not another generation, where the store knows conditions."""
        await self._late.settled(place.name, self._client.seconds_for(0))
        removed = await self._delete_generation(place.name, place.mark or "")
        self._forget(place.name)
        return removed

    async def cleanup_expired(self) -> int:
        removed = 0
        async for _, entry in self._objects.entries([self._names.root]):
            if entry is not None and self._why_dead(entry) is not None:
                removed += await self.discard_entry(entry)
        return removed

    async def gc(self, older_than_seconds: float = UPLOAD_AGE_SECONDS) -> int:
        """Give up multipart uploads under the prefix that began so long ago and never ended, and
        remove what probes of killed processes left; how many in all. The parts of such uploads cost
        money and are seen nowhere else.

        Raises:
            OSError: The store cannot be asked, or does not let us.
        """
        given_up = await self._listing.old_uploads(self._names.root, older_than_seconds)
        await self._client.run(
            self._client.small, self._interrupted.clear, older_than_seconds, RECORDS
        )
        async for page in self._listing.pages(self._names.probes):
            old = [one.name for one in page if one.age_seconds > older_than_seconds]
            given_up += await self._listing.delete(old)
        return given_up

    # --- the tier itself --------------------------------------------------------------------------

    async def usage(self) -> dict[str, Any]:
        """What lies under the prefix, and what this process asked for. That is one request at most,
        for 1,000 objects: ``complete`` says whether ``size_bytes`` and ``total_files`` are all
        there was ``counted_seconds`` ago, or only what was counted so far; of a larger prefix each
        call counts on. A count is believed for a minute, unless this process wrote or removed
        something.
        """
        try:
            counted = await self._census.look()
        except RemoteError as error:
            self.note_fault("list", error)
            counted = replace(self._census.known, complete=False)
        else:
            self.note_works("list")
        hedges = self._hedges
        return {
            "hedges": {} if hedges is None else {"sent": hedges.sent, "won": hedges.won},
            "size_bytes": counted.size,
            "total_files": counted.files,
            "complete": counted.complete,
            "counted_seconds": None if counted.at is None else self._now() - counted.at,
            "requests": dict(self._client.requests),
            "direct_answers": self._client.direct_answers,
            "bytes_in": self._reads.bytes_in,
            "bytes_out": self._client.bytes_out,
            "mismatches": self._reads.mismatches,
            "resumes": self._reads.resumes,
            "refreshes": {"sent": self._refreshes.sent, "deferred": self._refreshes.deferred},
            "slow_downs": self._client.slow_downs,
            "resumed_uploads": self._writes.resumed,
            "spared_parts": self._writes.spared_parts,
            "lanes": {
                lane.name: lane.describe()
                for lane in (self._client.small, self._client.bulk, self._client.work)
            },
        }

    async def clock_difference(self) -> ClockDifference:
        name = self._names.of_key(_core.raw_key("cogcache clock"))
        client = self._client
        return await client.run(client.small, store_clock, client, name, self.now_ms)

    def note_fault(self, what: str, error: Exception) -> None:
        if isinstance(error, AbsentError | ChangedError):
            return  # another host replaced or removed it: nothing is wrong with the tier
        if isinstance(error, BusyError):
            self.counters["busy"] += 1
            return
        super().note_fault(what, error)

    async def aclose(self) -> None:
        with contextlib.suppress(Exception):
            self._client.close()

    def __reduce__(self) -> Any:
        """A copy in another process begins anew: only the configuration travels."""
        return type(self), (self.config,)

    # --- what this process remembers --------------------------------------------------------------

    def _note_absent(self, name: str, since: tuple[int, int]) -> None:
        if self._written.get(name) is None:
            share = 0.8 + 0.4 * self._random.random()
            self._gone.keep(name, "absent", ABSENT_SECONDS * share, since[0])
        if not self._is_raw(name):
            self._missed.keep(name, True, MISSED_SECONDS, since[1])

    def _note_written(self, name: str) -> None:
        self._written.keep(name, True, ABSENT_SECONDS * 2)
        self._forget(name)

    def _forget(self, name: str) -> None:
        for kept in (self._gone, self._missed, self._opener.indexes):
            kept.forget(name)
        self._census.changed()

    def _set_aside(self, name: str, error: Exception, since: int | None = None) -> str:
        """An object that was damaged twice is left alone for a while; it is not deleted, since the
        way to it may be what is damaged.
        """
        self.counters["damaged"] += 1
        logger.warning("%s: left a damaged entry alone: %s: %s", self.name, name, error)
        self._opener.indexes.forget(name)
        self._missed.forget(name)  # there is something, which the next write has to replace
        seconds = DAMAGED_SECONDS * (0.8 + 0.4 * self._random.random())
        self._gone.keep(name, "damaged", seconds, since)
        return "damaged"


def _value(call: Call, entry: _core.Entry, options: dict[str, Any]) -> Any:
    del call  # it is this thread's; the bytes of the entry find it there
    return entry.value(**options)


def _same_meaning(one: _core.Entry, other: _core.Entry) -> bool:
    """Whether what the caller compared with its key is the same in both."""
    return all(one.meta.get(n) == other.meta.get(n) for n in (META_SOURCE, META_FULL_PARAMS))
