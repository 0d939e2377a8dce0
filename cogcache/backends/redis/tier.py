"""The Redis tier: entries in the memory of a server, for any number of hosts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, ClassVar, Final, TypeVar

from cogcache import _bridge, _core
from cogcache.backends.base import (
    COPY_BYTES,
    META_FULL_PARAMS,
    META_SOURCE,
    META_STALE_IF_ERROR,
    META_TAGS,
    CacheBackend,
    ContainerSink,
    missing_ranges,
    write_piece,
)
from cogcache.backends.clocks import ClockDifference, clock_difference
from cogcache.backends.faults import AbsentError, MisconfiguredError, RefusedError, RemoteError
from cogcache.backends.lanes import Call, Lane
from cogcache.backends.places import Place
from cogcache.backends.policy import Policy
from cogcache.backends.receiving import Receiver
from cogcache.backends.redis.client import (
    BULK_FACTOR,
    FullError,
    ReadOnlyServerError,
    RedisClient,
    WrongKindError,
    error_of,
)
from cogcache.backends.redis.late import LateChanges
from cogcache.backends.redis.layout import (
    FIXED_BYTES,
    Manifest,
    Names,
    index_bytes,
)
from cogcache.backends.redis.reading import RemoteBytes, here
from cogcache.backends.redis.scripts import (
    BEGIN_TAGS,
    INVALIDATE,
    RAISE_ORIGIN,
    REFRESH,
    REMOVE,
)
from cogcache.backends.redis.tags import CHANGES, MOST_TAGS, Tags, fresh_origin, member
from cogcache.backends.redis.tags import PAGE as PAGE_OF_TAGS
from cogcache.backends.redis.writing import SLICES_LONGER_MS, RedisUpload, Writes
from cogcache.backends.slots import TAIL_BYTES, refreshed_tail
from cogcache.config import RedisCacheConfig
from cogcache.exceptions import IncompleteError

__all__ = ["RedisBackend"]

logger = logging.getLogger("cogcache")
T = TypeVar("T")

THREADS: Final = 4  # for readers of parts of large entries
REPLACED: Final = 20  # how often an entry may be replaced under a reader before that is a miss
PAGE: Final = 500  # names of one SCAN
SCAN_TAIL_BYTES: Final = 8 * 1024
SCAN_BATCH: Final = 100  # manifests looked at in one request
COUNTED_NAMES: Final = 20_000  # of the server; what `usage` looks at
TAGS_AT_ONCE: Final = 256  # fewer than `CHANGES`, so that an answer never ends inside one version
MEMORY_SHARE: Final = 4  # an entry may take that part of the server's maxmemory
DENIED_SECONDS: Final = 5.0  # how long a replica is not asked to write


class RedisBackend(CacheBackend):
    """Entries in a Redis (6.2 or newer) or Valkey server.

    A hit on up to 256 KiB, its tags checked against every invalidation of every host, is one round
    trip, and so is a miss. An outage costs one deadline, then microseconds a call; no fault of the
    server is an exception of ``fetch`` or ``write``. Absences are not remembered: what another host
    wrote is seen at once.

    A process holds at most 16 connections for each event loop, 4 threads, the versions of 100,000
    tags, and the values that are being read or written.

    Raises:
        ConfigError: redis-py is not installed.
    """

    CONFIG_CLASS: ClassVar[type[Any] | None] = RedisCacheConfig
    runs_inline: ClassVar[bool] = False
    is_remote: ClassVar[bool] = True
    cuts_values: ClassVar[bool] = True
    keeps_deadlines: ClassVar[bool] = True
    remembers_tags: ClassVar[bool] = True

    def __init__(self, config: RedisCacheConfig) -> None:
        super().__init__(config)
        self._client = RedisClient(config)
        self._lane = Lane("redis", THREADS, self._client.breaker)
        self._late = LateChanges(self._client)
        self._writes = Writes(self._client, self._late, config.slice_size)
        self._names = Names(config.prefix)
        self._tags = Tags()
        self._clock: Callable[[], float] = time.monotonic
        self._born_us = self.now_ms() * 1000
        self._looked = False
        self._largest: int | None = None
        self._denied_until = 0.0
        self.counters.update(healed=0)

    # --- reading ----------------------------------------------------------------------------------

    async def fetch(self, key: bytes, *, index_only: bool = False) -> _core.Entry | str:
        base = self._names.of_key(key)
        try:
            entry = await self._fetch(key, base, index_only)
        except AbsentError:
            self.note_works("read")
            return "absent"
        except _core.DamagedError as error:
            self.counters["damaged"] += 1
            logger.warning("%s: removed a damaged entry: %s: %s", self.name, base.decode(), error)
            return "damaged"
        except (_core.ForeignError, WrongKindError):
            return "absent"
        except RemoteError as error:
            self.note_fault("read", error)
            return "unavailable"
        self.note_works("read")
        return self._why_dead(entry) or entry

    async def read(self, key: bytes) -> _core.Entry | None:
        try:
            return await self._fetch(key, self._names.of_key(key), False)
        except (AbsentError, WrongKindError, _core.ForeignError):
            return None

    async def _fetch(self, key: bytes, base: bytes, index_only: bool) -> _core.Entry:
        """The entry. A write that is not whole is read once more, and then removed: exactly that
        one, so that a newer one stays.
        """
        seen: set[str] = set()
        while True:
            data = await self._manifest_and_tags(base)
            if data is None:
                raise AbsentError(base.decode())
            try:
                return await self._open(key, base, Manifest.parse_whole(data), index_only)
            except (_core.DamagedError, AbsentError):
                token = _token_of(data)
                if token in seen:
                    self.counters["healed"] += 1
                    await self._remove(base, token)
                    raise
                if len(seen) == REPLACED:
                    raise
                seen.add(token)  # another write took its place meanwhile, perhaps

    async def _open(
        self, key: bytes, base: bytes, manifest: Manifest, index_only: bool
    ) -> _core.Entry:
        remote = RemoteBytes(self._client, base, manifest)
        if manifest.slices == 0:
            entry = _core.Entry.from_bytes(await remote.load_all(), key)
        else:
            entry = remote.open(key)
        if entry.token != manifest.token:
            raise _core.DamagedError("a manifest of two writes")
        if index_only or manifest.slices == 0 or self._why_dead(entry) is not None:
            return entry
        return _core.Entry.from_bytes(await remote.load_all(), key)

    async def _manifest_and_tags(self, base: bytes) -> bytes | None:
        """The manifest of an entry, and what happened to tags up to now, in one round trip."""
        await self._pay_if_taken()
        name = Names.manifest(base)
        asked = self._tags.cursor

        async def work(client: Any) -> list[Any]:
            pipe = client.pipeline(transaction=False)
            pipe.get(name)
            self._ask_tags(pipe, asked)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return answers

        data, lowest, changes = await self._client.run(work)
        await self._take_tags(asked, lowest, changes)
        found: bytes | None = data
        return found

    async def load(self, entry: _core.Entry, **options: Any) -> Any:
        if entry.in_memory:
            return await super().load(entry, **options)
        try:
            return await self._in_lane(lambda call: entry.value(**options))
        except (_core.DamagedError, AbsentError):
            pass
        except RemoteError as error:
            self.note_fault("read", error)
            raise
        # Replaced since it was opened, or spoilt on the way: once more from the beginning.
        try:
            again = await self._fetch(entry.key, self._names.of_key(entry.key), False)
        except _core.ForeignError as error:
            raise AbsentError(str(error)) from error
        if self._why_dead(again) is not None or not _same_meaning(entry, again):
            raise AbsentError("replaced by another entry")
        return await super().load(again, **options)

    async def read_part(self, entry: _core.Entry, part: int, start: int, stop: int) -> bytes:
        if entry.in_memory:
            return await super().read_part(entry, part, start, stop)
        try:
            try:
                return await self._in_lane(lambda call: entry.read(part, start, stop))
            except _core.DamagedError:  # perhaps on the way
                return await self._in_lane(lambda call: entry.read(part, start, stop))
        except AbsentError as error:
            raise IncompleteError(
                "the entry was replaced or removed since it was opened"
            ) from error
        except RemoteError as error:
            self.note_fault("read", error)
            raise

    async def value_type(self, entry: _core.Entry) -> str:
        if entry.in_memory:
            return entry.value_type()
        return await self._in_lane(lambda call: entry.value_type())

    async def copy_to(self, entry: _core.Entry, sink: ContainerSink) -> str | None:
        if entry.in_memory:
            return await super().copy_to(entry, sink)
        try:
            for start, stop in missing_ranges(sink.written, entry.length, COPY_BYTES):

                def work(_: Call, at: int = start, size: int = stop - start) -> bytes:
                    return entry.read_container(at, size)

                data = await self._in_lane(work)
                word = await write_piece(sink, start, data)
                if word is not None:
                    return word
        except AbsentError:
            return "changed"
        except RemoteError as error:
            self.note_fault("read", error)
            return "unavailable"
        return None

    async def _in_lane(self, work: Callable[[Call], T]) -> T:
        """``work(call)`` in a thread of the tier, where entries may read from the server."""
        loop = asyncio.get_running_loop()

        def job(call: Call) -> T:
            here.loop = loop
            try:
                return work(call)
            finally:
                here.loop = None

        return await self._lane.run(job, seconds=4 * BULK_FACTOR * self._client.seconds)

    async def value_failed(self, entry: _core.Entry, error: Exception) -> str:
        if isinstance(error, _core.UnsupportedError):
            return await super().value_failed(entry, error)
        self.counters["damaged"] += 1
        self.counters["healed"] += 1
        base = self._names.of_key(entry.key)
        logger.warning("%s: removed a damaged entry: %s: %s", self.name, base.decode(), error)
        with contextlib.suppress(RemoteError):
            await self._remove(base, f"{entry.token:016x}")
        return "damaged"

    # --- tags -------------------------------------------------------------------------------------

    def _why_dead(self, entry: _core.Entry) -> str | None:
        if entry.is_expired(self.now_ms()):
            return "expired"
        pairs = entry.meta.get(META_TAGS)
        return "tag-invalidated" if pairs and self._tags.is_dead(pairs) else None

    def tag_version(self, tag: str) -> int:
        return self._tags.version(tag)

    async def invalidate_tags(self, tags: Iterable[str], above: int = 0) -> None:
        """See ``CacheBackend``. What the server does not take now holds in this process at once,
        and is sent before this process asks for anything else.

        Raises:
            OSError: The server has not taken it yet.
        """
        names = list(dict.fromkeys(tags))
        # Stamps are taken in whole milliseconds: the next one is later than any that was.
        next_us = max((self.now_ms() + 1) * 1000, above + 1)
        self._tags.owe(names, next_us)
        await self._pay()

    async def _pay_if_taken(self) -> None:
        """``_pay``, but a server that takes nothing new is read all the same."""
        try:
            await self._pay()
        except (RefusedError, MisconfiguredError) as error:
            if not _is_refusal(error):
                raise

    async def _pay(self) -> None:
        """Send the invalidations that the server has not taken."""
        base = self._tags.owed_base
        if base:
            await self._client.script(RAISE_ORIGIN, [self._names.tags], fresh_origin(), base)
            self._tags.paid_base(base)
        owed = list(self._tags.owed.items())
        for first in range(0, len(owed), TAGS_AT_ONCE):
            some = owed[first : first + TAGS_AT_ONCE]
            names = [tag for tag, _ in some]
            wanted = max(version for _, version in some)
            version = await self._client.script(
                INVALIDATE,
                [self._names.tags],
                fresh_origin(),
                wanted,
                MOST_TAGS,
                *map(member, names),
            )
            self._tags.paid(names, int(version))

    def _ask_tags(self, pipe: Any, asked: int, most: int = CHANGES) -> None:
        """The lowest member, which is the origin, and what is above the highest known version."""
        name = self._names.tags
        pipe.execute_command("ZRANGE", name, 0, 0, "WITHSCORES")
        above = (f"({asked}", "+inf", "BYSCORE", "LIMIT", 0, most, "WITHSCORES")
        pipe.execute_command("ZRANGE", name, *above)

    async def _take_tags(self, asked: int, lowest: Sequence[Any], changes: Sequence[Any]) -> None:
        """Learn from the answers to ``_ask_tags``, and ask on while there is more."""
        tags = self._tags
        most = CHANGES
        while True:
            if not lowest:
                try:
                    lowest = await self._begin_tags()
                except (RefusedError, MisconfiguredError) as error:
                    if not _is_refusal(error):
                        raise
                    self._tags.distrust(self.now_ms() * 1000)
                    return
            elif tags.origin is None and self.counters["errors"]:
                tags.floor = self.now_ms() * 1000  # what was invalidated meanwhile may be lost
            tags.note_origin(lowest, self.now_ms() * 1000)
            if not tags.note_changes(asked, bytes(lowest[0]), changes, most):
                return
            asked, most = tags.cursor, PAGE_OF_TAGS

            async def work(client: Any, asked: int = asked) -> list[Any]:
                pipe = client.pipeline(transaction=False)
                self._ask_tags(pipe, asked, PAGE_OF_TAGS)
                answers: list[Any] = await pipe.execute()
                return answers

            lowest, changes = await self._client.run(work)

    async def _begin_tags(self) -> list[Any]:
        """There are no versions: nobody has been here, or they are lost. Where nothing at all is in
        the server and this process has seen nothing fail, nothing can have been lost since it
        began.
        """
        now = max(self.now_ms() * 1000, self._tags.cursor + 1)
        first = self._tags.origin is None and not self.counters["errors"]
        began: list[Any] = await self._client.script(
            BEGIN_TAGS,
            [self._names.tags],
            fresh_origin(),
            now,
            min(now, self._born_us) if first else now,
        )
        return began

    async def _sync_tags(self) -> None:
        """Know of every invalidation up to now."""
        await self._pay_if_taken()
        asked = self._tags.cursor

        async def work(client: Any) -> list[Any]:
            pipe = client.pipeline(transaction=False)
            self._ask_tags(pipe, asked)
            answers: list[Any] = await pipe.execute()
            return answers

        lowest, changes = await self._client.run(work)
        await self._take_tags(asked, lowest, changes)

    # --- writing ----------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Look at the server's version and memory, unless that was done; the first write does it by
        itself.

        Raises:
            OSError: The server does not answer, or is too old.
        """
        if self._looked:
            return

        async def work(client: Any) -> dict[str, Any]:
            return {**await client.info("server"), **await client.info("memory")}

        try:
            about = await self._client.run(work, factor=BULK_FACTOR)
        except MisconfiguredError as error:
            if not error.denied:
                raise
            about = {}  # who may not look does without
        version = str(about.get("redis_version", ""))
        numbers = [int(n) for n in version.split(".")[:2] if n.isdigit()]
        if len(numbers) == 2 and numbers < [6, 2]:
            raise MisconfiguredError(f"the server is Redis {version}: 6.2 is the oldest that does")
        most = int(about.get("maxmemory", 0) or 0)
        self._largest = most // MEMORY_SHARE if most else None
        policy = str(about.get("maxmemory_policy", ""))
        if most and policy.startswith("allkeys"):
            logger.warning(
                "%s: the server's maxmemory-policy is %s, which may let go of the versions of "
                "tags; every tagged entry is then computed anew. Set maxmemory-policy to "
                "volatile-lru (or volatile-ttl) and give entries a life.",
                self.name,
                policy,
            )
        self._looked = True

    async def write(
        self, what: _core.Draft | _core.Image, *, source: int = 0, kind: int = 0
    ) -> str | None:
        del source, kind
        if self._clock() < self._denied_until:
            return "read-only"
        if self._client.breaker.refuses():  # before the work of composing
            return "unavailable"
        image = await _bridge.compose(what) if isinstance(what, _core.Draft) else what
        word = Policy.of(self).routed(len(image))
        if word is not None:
            return word
        container = memoryview(await _bridge.run(image, "tobytes"))
        try:
            return await self._write(image.key, container)
        except RemoteError as error:
            return self._write_failed(error)

    def _write_failed(self, error: RemoteError) -> str:
        """Count a fault; the word for it."""
        self.note_fault("write", error)
        if isinstance(error, FullError):
            return "no-space"
        if isinstance(error, ReadOnlyServerError):
            self._denied_until = self._clock() + DENIED_SECONDS
            return "read-only"
        if isinstance(error, MisconfiguredError) and error.denied:
            return "read-only"
        return "unavailable"

    async def _write(self, key: bytes, container: memoryview) -> str | None:
        entry = _core.Entry.from_reader(
            len(container), lambda offset, size: container[offset : offset + size], key
        )
        life = await self._admit(entry)
        if isinstance(life, str):
            return life
        base = self._names.of_key(key)
        if not await self._writes.put(base, container, entry, life):
            return "no-space"  # the server let go of a slice before the manifest came
        self.note_works("write")
        return None

    async def _admit(self, entry: _core.Entry) -> int | str | None:
        """How long the server is to keep an entry, or a word for why it does not take it."""
        life = self._life_of(entry)
        if life is not None and life <= 0:
            return "expired"
        await self.prepare()
        if self._largest is not None and entry.length > self._largest:
            return "too-large"
        pairs = entry.meta.get(META_TAGS)
        if pairs:
            await self._sync_tags()
            if any(captured < self._tags.floor for _, captured in pairs):
                return "tag-invalidated"
        return life

    async def receive(
        self, key: bytes, token: int, *, source: int = 0, kind: int = 0
    ) -> Receiver | str:
        """See ``RedisUpload``: in slices as they come, so that two of them are in memory."""
        del source, kind
        if self._clock() < self._denied_until:
            return "read-only"
        if self._client.breaker.refuses():
            return "unavailable"
        try:
            await self.prepare()
        except RemoteError as error:
            return self._write_failed(error)
        return RedisUpload(
            self._client,
            self._writes,
            key,
            self._names.of_key(key),
            token,
            self._largest,
            admit=self._admit,
            failed=self._write_failed,
            finished=lambda: self.note_works("write"),
        )

    def _life_of(self, entry: _core.Entry) -> int | None:
        """How long the server keeps an entry, milliseconds; ``None`` is for ever. That it has
        expired says the entry itself.
        """
        expires, stale = entry.expires_ms, entry.stale_ms
        if expires is None or stale is None:
            return None
        grace = max(stale, int(entry.meta.get(META_STALE_IF_ERROR) or 0))
        return expires + grace - self.now_ms()

    async def refresh(self, key: bytes, ttl_ms: int | None) -> bool:
        base = self._names.of_key(key)
        try:
            data = await self._manifest_and_tags(base)
            if data is None:
                return False
            manifest = Manifest.parse_whole(data)
            entry = await self._open(key, base, manifest, True)
            if self._why_dead(entry) is not None:
                return False
            now = self.now_ms()
            if ttl_ms is not None and (entry.expires_ms is None or now + ttl_ms < entry.expires_ms):
                return True  # it lives longer as it is
            old = manifest.tail[-TAIL_BYTES:]
            life = None
            if ttl_ms is not None and entry.stale_ms is not None:
                life = ttl_ms + max(entry.stale_ms, int(entry.meta.get(META_STALE_IF_ERROR) or 0))
            done = await self._client.script(
                REFRESH,
                [Names.manifest(base)],
                base,
                f"{manifest.token:016x}",
                old,
                refreshed_tail(old, manifest.token, now, ttl_ms),
                "" if life is None else life,
                "" if life is None else life + SLICES_LONGER_MS,
            )
        except (_core.DamagedError, _core.ForeignError, AbsentError, WrongKindError):
            return False
        except RemoteError as error:
            self.note_fault("write", error)
            return False
        return bool(done)

    # --- removing ---------------------------------------------------------------------------------

    async def discard(self, key: bytes) -> bool:
        return await self._remove(self._names.of_key(key), "")

    async def discard_write(self, key: bytes, token: int) -> bool:
        return await self._remove(self._names.of_key(key), f"{token:016x}")

    async def _remove(self, base: bytes, token: str) -> bool:
        """Unlink an entry and its slices; with a token only if it is of that write."""
        try:
            return bool(await self._late.change(REMOVE, base, token))
        except WrongKindError:
            return False

    async def clear(self, pattern: str | None = None) -> int:
        await self._late.settle()
        return await super().clear(pattern)

    # --- listing ----------------------------------------------------------------------------------

    async def scan(self, source: int = 0) -> AsyncIterator[_core.Entry]:
        """See ``CacheBackend``: all of them, whatever the source, since nothing but the entries
        themselves says where they are from. Pages of names, 100 entries at a time.
        """
        async for place in self.places(source):
            if place.entry is not None:
                yield place.entry

    async def places(self, source: int = 0) -> AsyncIterator[Place]:
        """See ``CacheBackend``; all of them, as ``scan`` does."""
        del source
        await self._sync_tags()
        seen: set[int] = set()  # the server may name one twice
        async for names in self._pages(self._names.manifests):
            fresh = [name for name in names if hash(name) not in seen]
            seen.update(map(hash, fresh))
            if len(seen) > 10 * COUNTED_NAMES:
                seen.clear()
            for first in range(0, len(fresh), SCAN_BATCH):
                for place in await self._look_at(fresh[first : first + SCAN_BATCH]):
                    yield place

    async def _pages(self, pattern: bytes) -> AsyncIterator[list[bytes]]:
        """Names that match, a page at a time."""
        cursor: Any = 0
        while True:

            async def work(client: Any, cursor: Any = cursor) -> Any:
                return await client.scan(cursor, match=pattern, count=PAGE)

            cursor, names = await self._client.run(work, factor=BULK_FACTOR)
            yield list(dict.fromkeys(names))
            if int(cursor) == 0:
                return

    async def _look_at(self, names: Sequence[bytes]) -> list[Place]:
        """The entries of manifests, without their values; what is none of ours is left out."""

        async def work(client: Any) -> list[Any]:
            pipe = client.pipeline(transaction=False)
            for name in names:
                pipe.getrange(name, 0, FIXED_BYTES - 1)
                pipe.getrange(name, -SCAN_TAIL_BYTES, -1)
                pipe.strlen(name)
            return _told(await pipe.execute(raise_on_error=False))

        answers = await self._client.run(work, factor=BULK_FACTOR)
        found = []
        for number, name in enumerate(names):
            start, tail, size = answers[3 * number : 3 * number + 3]
            if isinstance(start, Exception) or isinstance(tail, Exception) or not size:
                continue
            base = name.removesuffix(b":m")
            text, mark = name.decode(errors="replace"), (name, _token_of(start))
            try:
                entry = await self._peek_one(base, start, tail, size)
            except (_core.ForeignError, AbsentError):
                continue
            except _core.DamagedError as error:
                found.append(Place(text, None, mark, str(error), is_damaged=True))
                continue
            if self._names.of_key(entry.key) == base:
                found.append(Place(text, entry, mark))
        return found

    async def _peek_one(self, base: bytes, start: bytes, tail: bytes, size: int) -> _core.Entry:
        rest = max(0, size - FIXED_BYTES)
        manifest = Manifest.parse(start, tail[-rest:] if rest else b"", size)
        remote = RemoteBytes(self._client, base, manifest)
        remote = await remote.with_tail(index_bytes(manifest.tail[-48:]) + TAIL_BYTES)
        return remote.open()

    async def place_again(self, place: Place) -> Place | None:
        now = await self._look_at([place.mark[0]])
        return now[0] if now and now[0].mark == place.mark else None

    async def damage_in(
        self, entry: _core.Entry, first: int, stop: int
    ) -> list[tuple[int | None, int | None]]:
        return await self._in_lane(lambda call: entry.damage(first, stop))

    async def remove_place(self, place: Place) -> bool:
        name, token = place.mark
        return await self._remove(name.removesuffix(b":m"), token)

    async def gc(self) -> int:
        """Unlink slices without a life that no manifest names (its manifest was evicted, or removed
        by hand); how many. Those of a killed writer go by themselves after ten minutes.

        Raises:
            OSError: The server cannot be asked, or does not let us.
        """
        removed = 0
        async for names in self._pages(self._names.slices):
            owners = [(name, self._names.manifest_of_slice(name)) for name in names]
            ours = [(name, owner) for name, owner in owners if owner is not None]

            async def work(
                client: Any, ours: list[tuple[bytes, tuple[bytes, int]]] = ours
            ) -> list[Any]:
                pipe = client.pipeline(transaction=False)
                for name, (manifest, _) in ours:
                    pipe.pttl(name)
                    pipe.getrange(manifest, FIXED_BYTES - 24, FIXED_BYTES - 17)
                return _told(await pipe.execute(raise_on_error=False))

            answers = await self._client.run(work, factor=BULK_FACTOR) if ours else []
            lost = [
                name
                for number, (name, (_, token)) in enumerate(ours)
                if answers[2 * number] == -1
                and answers[2 * number + 1] != token.to_bytes(8, "little")
            ]
            if lost:
                await self._writes.unlink(lost)
            removed += len(lost)
        return removed

    # --- the tier itself --------------------------------------------------------------------------

    async def usage(self) -> dict[str, Any]:
        """What lies under the prefix, as far as 20,000 names of the server show it (``complete``
        says whether that is all), and what this process asked for.
        """
        size = files = looked = 0
        complete = True
        try:
            async for names in self._pages(self._names.manifests):
                looked += PAGE

                async def work(client: Any, names: list[bytes] = names) -> list[Any]:
                    pipe = client.pipeline(transaction=False)
                    for name in names:
                        pipe.getrange(name, 0, 7)
                        pipe.strlen(name)
                    return _told(await pipe.execute(raise_on_error=False))

                answers = await self._client.run(work, factor=BULK_FACTOR) if names else []
                for cut, length in zip(answers[::2], answers[1::2], strict=True):
                    if isinstance(cut, bytes) and isinstance(length, int) and len(cut) == 8:
                        files += 1
                        size += int.from_bytes(cut, "little") + length - FIXED_BYTES
                if looked >= COUNTED_NAMES:
                    complete = False
                    break
        except RemoteError as error:
            self.note_fault("list", error)
            complete = False
        else:
            self.note_works("list")
        breaker = self._client.breaker
        return {
            "size_bytes": size,
            "total_files": files,
            "complete": complete,
            "calls": self._client.calls,
            "breaker": breaker.state,
            "opened": breaker.opened,
            "rejected": breaker.rejected,
            "tags_lost": self._tags.losses,
            "tags_owed": len(self._tags.owed) + (self._tags.owed_base > 0),
        }

    async def clock_difference(self) -> ClockDifference:
        async def work(client: Any) -> tuple[float, float, float]:
            await client.ping()  # connecting takes time that says nothing
            asked = self.now_ms() / 1000
            seconds, micros = await client.time()
            return asked, self.now_ms() / 1000, seconds + micros / 1_000_000

        asked, answered, there = await self._client.run(work, factor=BULK_FACTOR)
        return clock_difference(asked, answered, there, there)

    def note_fault(self, what: str, error: Exception) -> None:
        if isinstance(error, AbsentError):
            return  # another host replaced or removed it: nothing is wrong with the tier
        super().note_fault(what, error)

    async def aclose(self) -> None:
        with contextlib.suppress(Exception):
            await self._client.aclose()

    def __reduce__(self) -> Any:
        """A copy in another process begins anew: only the configuration travels."""
        return type(self), (self.config,)


def _is_refusal(error: RemoteError) -> bool:
    """Whether the server works and only refuses to be changed: full, a replica, no right to."""
    return not isinstance(error, MisconfiguredError) or error.denied


def _told(answers: list[Any]) -> list[Any]:
    """Answers to questions about many keys, some of which may hold something that is not ours; any
    other refusal is a fault, not a key that is not there.
    """
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(error_of(answer), WrongKindError):
            raise answer
    return answers


def _token_of(manifest: bytes) -> str:
    """The token in a manifest, perhaps a damaged one, as the scripts write it."""
    return f"{int.from_bytes(manifest[24:32], 'little'):016x}" if len(manifest) >= 48 else ""


def _same_meaning(one: _core.Entry, other: _core.Entry) -> bool:
    """Whether what the caller compared with its key is the same in both."""
    return all(one.meta.get(n) == other.meta.get(n) for n in (META_SOURCE, META_FULL_PARAMS))
