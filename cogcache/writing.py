"""Puts: which tier gets a value, when, and whether that was enough."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from cogcache import _bridge, _core
from cogcache._types import StoreResult
from cogcache.backends.base import CacheBackend, DraftKind
from cogcache.backends.destination import destination_of
from cogcache.backends.faults import NotAskedError
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.backends.policy import ROUTED
from cogcache.behind import LATER, WriteBehind
from cogcache.keys import Key
from cogcache.spool import Spool
from cogcache.tiering import Tiers, together

__all__ = ["Drafts", "Writing"]

What: TypeAlias = _core.Draft | _core.Image
# One draft of a value for all tiers that would make the same one.
Drafts: TypeAlias = dict[DraftKind, What]

# Of a filesystem tier's limit, the spool takes at most this part: nothing evicts what waits, so in
# a long outage it would push out everything else.
SPOOL_SHARE: Final = 4
_GIVEN: Final = (None, LATER)


class Writing:
    """Puts of one manager into its tiers.

    Args:
        tiers: Of the manager.
    """

    def __init__(self, tiers: Tiers) -> None:
        self._tiers = tiers
        self._first = tiers.backends[0]
        self._changes = tiers.promotions.changes
        self._copies = tiers.promotions.background
        policies = [tiers.guard(tier).policy for tier in tiers.backends]
        self._composes = len(policies) > 1 or not all(one.is_plain for one in policies)
        self._is_bare = not self._composes and tiers.guard(self._first).breaker is None
        tiers.promotions.use(self.write_one)
        self._local = next(
            (tier for tier in tiers.backends if isinstance(tier, FilesystemCacheBackend)), None
        )
        for tier in tiers.backends:
            if self._local is not None and isinstance(self._local.store, _core.Store):
                tier.keep_records(self._local.store)
            if tiers.guard(tier).policy.write_mode == "behind":
                tiers.queues[id(tier)] = self._queue_of(tier)
        for queue in tiers.queues.values():
            queue.begin()  # other threads write from now on

    def _queue_of(self, tier: CacheBackend) -> WriteBehind:
        policy = self._tiers.guard(tier).policy
        spool, most = None, float("inf")
        if self._local is not None and self._local is not tier and policy.behind_durable:
            store = self._local.store
            if isinstance(store, _core.Store):  # else its directory is not there
                spool = Spool(store, destination_of(tier))
            limit = self._local.config.limit_bytes
            most = most if limit is None else limit / SPOOL_SHARE
        return WriteBehind(tier, policy, self.write_one, self._tiers.is_dead, spool, most)

    async def drafts(
        self, encoded: bytes, value: Any, ttl_ms: int | None, meta: Mapping[int | str, Any]
    ) -> Drafts:
        """A value as the tiers take it, one draft for all that would make the same one: finished
        where there are several or sizes matter.
        """
        what: Drafts = {}
        for tier in self._tiers.backends:
            kind = tier.draft_kind
            if kind not in what:
                draft = tier.draft(encoded, value, ttl_ms=ttl_ms, meta=meta)
                what[kind] = await _bridge.compose(draft) if self._composes else draft
        return what

    async def put(
        self,
        encoded: bytes,
        value: Any,
        ttl_ms: int | None,
        meta: Mapping[int | str, Any],
        *,
        source: int = 0,
        kind: int = 0,
    ) -> StoreResult:
        """``write`` a value; into a single tier without deadline in as few steps as that takes."""
        if not self._is_bare:
            what = await self.drafts(encoded, value, ttl_ms, meta)
            return await self.write(what, source=source, kind=kind)
        tier = self._first
        draft = tier.draft(encoded, value, ttl_ms=ttl_ms, meta=meta)
        keys = (encoded,)
        self._changes.begin(keys)
        try:
            if self._copies.tasks or self._tiers.storing.tasks:
                await self._call_off_copies(keys.__contains__)
            try:
                word = await tier.write(draft, source=source, kind=kind)
            except Exception as error:
                word = self._word_of(tier, error)
        finally:
            self._changes.end(keys)
        self._note(tier, word)
        return self.judge([word], draft.stored_bytes)

    async def write_one(
        self, tier: CacheBackend, what: What, *, source: int = 0, kind: int = 0
    ) -> str | None:
        """Put one entry into one tier now, if it is for it; ``None`` or the word for why not."""
        guard = self._tiers.guard(tier)
        word = guard.policy.routed(_size(what)) if self._composes else None
        if word is not None:
            if word != "off":
                await self.drop_older(tier, what.key)
            return word
        try:
            word = await guard.call(lambda: tier.write(what, source=source, kind=kind))
        except Exception as error:
            word = self._word_of(tier, error)
        self._note(tier, word)
        return word

    def _word_of(self, tier: CacheBackend, error: Exception) -> str:
        """The word for writing that raised."""
        if isinstance(error, NotAskedError):
            return "unavailable"
        self._tiers.failed(tier, "write", error)
        return "io-error"

    @staticmethod
    def _note(tier: CacheBackend, word: str | None) -> None:
        """Count one put of a tier."""
        if word is None:
            tier.note_works("write")
            tier.counters["sets"] += 1
        else:
            tier.counters["refused"] += 1

    async def write(self, what: Drafts, *, source: int = 0, kind: int = 0) -> StoreResult:
        """Put a value into every tier that it is for, and say what became of it."""
        keys = (_key(what),)
        self._changes.begin(keys)
        try:
            await self._call_off_copies(keys.__contains__)
            return await self._write(what, source, kind)
        finally:
            self._changes.end(keys)

    async def _write(self, what: Drafts, source: int, kind: int) -> StoreResult:
        tiers, queues = self._tiers.backends, self._tiers.queues
        words = await together(
            [
                self.write_one(tier, what[tier.draft_kind], source=source, kind=kind)
                for tier in tiers
                if id(tier) not in queues
            ]
        )
        if queues:
            words = await self._write_behind(what, words, source, kind)
        return self.judge(words, max(_size(one) for one in what.values()))

    async def _write_behind(
        self, what: Drafts, written: Sequence[str | None], source: int, kind: int
    ) -> list[str | None]:
        """The words of all tiers, given those of the tiers that were written to."""
        answers = iter(written)
        words: list[str | None] = []
        for tier in self._tiers.backends:
            words.append("" if id(tier) in self._tiers.queues else next(answers))
        token = None
        if self._local is not None and words[self._tiers.backends.index(self._local)] is None:
            token = _finished(what[self._local.draft_kind]).token
        for number, tier in enumerate(self._tiers.backends):
            queue = self._tiers.queues.get(id(tier))
            if queue is None:
                continue
            image = _finished(what[tier.draft_kind])
            word = queue.routed(len(image))
            if word is None:
                word = await queue.put(image, source=source, kind=kind, token=token)
            else:
                await queue.withdraw(image.key.__eq__, replaced=token is not None)
                await self.drop_older(tier, image.key)
            words[number] = word
        return words

    async def write_batch(self, whats: Sequence[Drafts]) -> list[StoreResult]:
        """``write`` of each, with one call for each tier."""
        keys = {_key(what) for what in whats}
        self._changes.begin(keys)
        try:
            return await self._write_batch(whats, keys)
        finally:
            self._changes.end(keys)

    async def _write_batch(self, whats: Sequence[Drafts], keys: set[bytes]) -> list[StoreResult]:
        await self._call_off_copies(keys.__contains__)
        answers = await together(
            [
                self._write_many(tier, [what[tier.draft_kind] for what in whats])
                for tier in self._tiers.backends
                if id(tier) not in self._tiers.queues
            ]
        )
        results: list[StoreResult] = []
        for number, what in enumerate(whats):
            words = [answer[number] for answer in answers]
            if self._tiers.queues:
                words = await self._write_behind(what, words, 0, 0)
            results.append(self.judge(words, max(_size(one) for one in what.values())))
        return results

    async def _write_many(self, tier: CacheBackend, whats: list[What]) -> list[str | None]:
        guard = self._tiers.guard(tier)
        if not guard.policy.is_plain:
            return [await self.write_one(tier, what) for what in whats]
        words: list[str | None]
        try:
            words = await guard.call(lambda: tier.write_many(whats), times=len(whats))
        except Exception as error:
            words = [self._word_of(tier, error)] * len(whats)
        if all(word is None for word in words):
            tier.note_works("write")
        for word in words:
            tier.counters["sets" if word is None else "refused"] += 1
        return words

    def judge(self, words: Sequence[str | None], size: int) -> StoreResult:
        """What became of an entry of so many bytes, given the word of each tier."""
        tiers = self._tiers.backends
        if len(words) == 1 and words[0] is None:
            return StoreResult(True, "stored", (tiers[0].name,), size)
        named = list(zip(tiers, words, strict=True))
        kept = tuple(tier.name for tier, word in named if word is None)
        later = tuple(tier.name for tier, word in named if word == LATER)
        refused = [(tier, word) for tier, word in named if word not in _GIVEN]
        for tier, word in refused:
            if word not in ROUTED and self._tiers.guard(tier).policy.required:
                return StoreResult(False, word or "", kept, size, later)
        if kept or later:
            return StoreResult(True, "stored", kept, size, later)
        words_of_faults = [word for _, word in refused if word not in ROUTED]
        return StoreResult(False, (words_of_faults or [word for _, word in refused])[0] or "")

    @contextlib.asynccontextmanager
    async def forgetting(
        self, meant: Callable[[bytes], bool], keys: Iterable[bytes] | None = None
    ) -> AsyncIterator[None]:
        """Meanwhile entries are forgotten, whose keys are ``meant``, and which those are, if that
        is known: nothing under way in the background brings them back.
        """
        with self._changes.of_many() if keys is None else self._changes.of(keys):
            await self.withdraw(meant)
            yield

    async def withdraw(self, meant: Callable[[bytes], bool]) -> None:
        """Call off what is under way in the background for keys that are ``meant``, which are about
        to be forgotten: it must not bring them back.
        """
        await self._call_off_copies(meant)
        for queue in self._tiers.queues.values():
            await queue.withdraw(meant)

    async def _call_off_copies(self, meant: Callable[[bytes], bool]) -> None:
        """An older value on its way must not end up above this one."""
        if self._copies.tasks:
            await self._copies.withdraw(meant)
        if self._tiers.storing.tasks:
            await self._tiers.storing.withdraw(meant)

    async def flush(self, seconds: float) -> int:
        """Wait until what waits has been sent, at most so long; how many entries are left."""
        until = time.monotonic() + seconds
        queues = self._tiers.queues.values()
        left = len(await self._tiers.storing.wait(seconds))
        return left + sum(
            [await queue.flush(max(0.0, until - time.monotonic())) for queue in queues]
        )

    def describe(self, tier: CacheBackend) -> dict[str, Any]:
        """The health of a tier, for ``get_stats``."""
        described = self._tiers.guard(tier).describe(tier, time.time())
        queue = self._tiers.queues.get(id(tier))
        return described if queue is None else {**described, "queue": queue.describe()}

    async def drop_older(self, tier: CacheBackend, key: bytes) -> None:
        """A value that is not for a tier any more must not leave an older one of its key there.

        Equal keys of artifacts mean equivalent values, so that only keys of the caller's own are
        looked after where it costs a request.
        """
        if tier.is_remote and Key.from_encoded(key).artifact != "":
            return
        try:
            await self._tiers.guard(tier).call(lambda: tier.discard(key))
        except NotAskedError:
            pass
        except Exception as error:
            self._tiers.failed(tier, "delete", error)


def _key(what: Drafts) -> bytes:
    return next(iter(what.values())).key


def _finished(what: What) -> _core.Image:
    assert isinstance(what, _core.Image)  # there are several tiers, or one that is written later
    return what


def _size(what: What) -> int:
    return len(what) if isinstance(what, _core.Image) else what.stored_bytes
