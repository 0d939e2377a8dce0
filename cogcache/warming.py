"""Bringing what only slower tiers have into the local one before it is needed:
``CacheManager.warm``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cogcache import _bridge, _core
from cogcache._inline import is_inline
from cogcache.backends.base import CacheBackend
from cogcache.faces import Face, Shown, Table, seconds_text, size_text
from cogcache.origins import source_of
from cogcache.promotion import copy_pieces
from cogcache.selection import Plan, SelectedEntry
from cogcache.tiering import Tiers, better_reason, together

if TYPE_CHECKING:
    from cogcache.writing import Writing

__all__ = ["WarmProgress", "WarmReport", "cold_of", "newest_that_fit", "warm_tiers"]

AT_ONCE: Final = 8  # entries on their way: each waits for a server
IN_MEMORY: Final = 4 << 20  # as stored; what is larger comes piece by piece
ROOM_SHARE: Final = 0.9  # of what the tier can hold: the rest is for what programs put meanwhile
_BLOCK: Final = 4096
_TRIES: Final = 2  # of an entry that is replaced while it is copied
_NOTHING_WRONG: Final = ("present", "absent", "expired", "tag-invalidated", "changed")


@dataclass(frozen=True, slots=True)
class WarmProgress:
    """How far ``CacheManager.warm`` is.

    Attributes:
        entries: Those that were looked at.
        stored_bytes: What was brought so far, as stored.
        count: Entries of the plan.
        planned_bytes: What they take as stored, about.
    """

    entries: int
    stored_bytes: int
    count: int
    planned_bytes: int


@dataclass(frozen=True, slots=True)
class WarmReport(Shown):
    """What became of a plan that was to be brought near.

    Attributes:
        tier: Name of the tier that has it now; ``""`` where nothing was to be brought.
        entries: How many were brought.
        stored_bytes: What those take as stored.
        skipped: How many were left out though nothing is wrong, by reason: ``"present"`` (it has
            come meanwhile), ``"absent"``, ``"expired"``, ``"tag-invalidated"``, ``"changed"``
            (somebody put or deleted it meanwhile).
        refused: How many could not be brought, by reason: ``"damaged"``, ``"unavailable"``, or a
            word of the tier such as ``"no-space"`` or ``"too-large"``.
        seconds: How long it took.
    """

    tier: str
    entries: int
    stored_bytes: int
    skipped: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing was refused."""
        return not self.refused

    def face(self) -> Face:
        """What was brought, and what was not, by reason."""
        entries = "1 entry" if self.entries == 1 else f"{self.entries:,} entries"
        where = f" into {self.tier}" if self.tier else ""
        rows = [("skipped", *one) for one in self.skipped.items()]
        rows += [("refused", *one) for one in self.refused.items()]
        table = Table("", ("", "reason", "entries>"), tuple((a, b, f"{n:,}") for a, b, n in rows))
        return Face(
            title=f"{entries}, {size_text(self.stored_bytes)}, brought{where}",
            is_bad=not self.ok,
            facts=(("took", seconds_text(self.seconds)),),
            tables=(table,) if rows else (),
        )


async def cold_of(tiers: Tiers, plan: Plan, max_bytes: int | None) -> Plan:
    """Of a plan what only slower tiers have, as far as there is room; see ``newest_that_fit``."""
    target, below = _target_of(tiers)
    slower = {tier.name for tier in below}
    cold = plan.only(lambda one: target.name not in one.tiers and slower & set(one.tiers))
    return newest_that_fit(cold, max_bytes, await _room_of(target))


def newest_that_fit(plan: Plan, max_bytes: int | None, room: int | None = None) -> Plan:
    """The newest entries of a plan.

    Args:
        plan: Entries.
        max_bytes: Stored bytes of all that are taken; ``None`` is no bound.
        room: The same, as a file system counts them.
    """
    taken: set[bytes] = set()
    stored = blocks = 0
    for one in _newest_first(plan):
        size = _copy_bytes(one)
        on_disk = -(-size // _BLOCK) * _BLOCK
        if (max_bytes is None or stored + size <= max_bytes) and (
            room is None or blocks + on_disk <= room
        ):
            taken.add(one.key.encoded)
            stored += size
            blocks += on_disk
    return plan.only(lambda one: one.key.encoded in taken)


async def warm_tiers(
    tiers: Tiers,
    writing: Writing,
    plan: Plan,
    progress: Callable[[WarmProgress], object] | None,
) -> WarmReport:
    """See ``CacheManager.warm``."""
    began = time.monotonic()
    if not plan.count:
        return WarmReport("", 0, 0)
    warming = _Warming(tiers, writing, plan, progress)
    await together([warming.work() for _ in range(min(AT_ONCE, plan.count))])
    return warming.report(time.monotonic() - began)


class _Warming:
    """The copies of one call, several at a time, the newest entries first."""

    def __init__(
        self,
        tiers: Tiers,
        writing: Writing,
        plan: Plan,
        progress: Callable[[WarmProgress], object] | None,
    ) -> None:
        self._tiers = tiers
        self._writing = writing
        self._target, self._below = _target_of(tiers)
        store = getattr(self._target, "store", None)
        self._store = store if isinstance(store, _core.Store) else None
        self._left: Iterator[SelectedEntry] = iter(_newest_first(plan))
        self._count, self._planned = plan.count, sum(map(_copy_bytes, plan.entries))
        self._progress = progress
        self._looked_at = self._entries = self._bytes = 0
        self._words: dict[str, int] = {}

    async def work(self) -> None:
        """Bring entries until there are none left."""
        try:
            # Asked anew each time: when one of them fails, the others end too.
            while (one := next(self._left, None)) is not None:
                size, word = await self._called_off_if_changed(one)
                self._looked_at += 1
                if word is None:
                    self._entries += 1
                    self._bytes += size
                else:
                    self._words[word] = self._words.get(word, 0) + 1
                if self._progress is not None:
                    self._progress(
                        WarmProgress(self._looked_at, self._bytes, self._count, self._planned)
                    )
        finally:
            self._left = iter(())

    def report(self, seconds: float) -> WarmReport:
        """What became of all of them."""
        words = sorted(self._words.items())
        return WarmReport(
            self._target.name,
            self._entries,
            self._bytes,
            {word: count for word, count in words if word in _NOTHING_WRONG},
            {word: count for word, count in words if word not in _NOTHING_WRONG},
            seconds,
        )

    async def _called_off_if_changed(self, one: SelectedEntry) -> tuple[int, str | None]:
        """``_bring``, as a task that a put or a delete of the key here calls off."""
        if is_inline():
            return await self._bring(one)
        task = asyncio.create_task(self._bring(one), name="cogcache-warm")
        self._tiers.promotions.background.add(task, one.key.encoded)
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        return (0, "changed") if task.cancelled() else task.result()

    async def _bring(self, one: SelectedEntry) -> tuple[int, str | None]:
        """Stored bytes, and ``None`` or the word for why it was not brought."""
        key, in_pieces = one.key.encoded, self._store is not None and _copy_bytes(one) > IN_MEMORY
        since = self._tiers.promotions.changes.number
        if not isinstance(await self._tiers.fetch(self._target, key, index_only=True), str):
            return 0, "present"
        word = "absent"
        for tier in self._below:
            for _ in range(_TRIES):
                entry = await self._tiers.fetch(tier, key, parts=in_pieces)
                if isinstance(entry, str):
                    word = better_reason(word, entry)
                    break
                copied = await self._copy(entry, tier, since)
                if copied is None:
                    return entry.length, None
                word = better_reason(word, copied)
                if copied != "changed":
                    break
        return 0, word

    async def _copy(self, entry: _core.Entry, below: CacheBackend, since: int) -> str | None:
        """Put an entry into the local tier, with its life, version and tags, verified."""
        unchanged = self._tiers.promotions.changes.unchanged
        if entry.in_memory:
            try:
                await _bridge.run(entry, "verify")
            except _core.DamagedError as error:
                return await self._tiers.value_failed(below, entry, error)
            if not unchanged(entry.key, since):
                return "changed"
            ref = source_of(entry)
            where = 0 if ref is None else ref.uri_hash
            return await self._writing.write_one(self._target, entry.to_image(), source=where)
        routed = self._tiers.guard(self._target).policy.routed(entry.length)
        if routed is not None or self._store is None:
            return routed or "too-large"
        if not unchanged(entry.key, since):
            return "changed"
        try:
            word = await copy_pieces(entry, below, self._store)
        except _core.DamagedError as error:
            word = await self._tiers.value_failed(below, entry, error)
        except OSError as error:
            self._tiers.failed(below, "read", error)
            word = "unavailable"
        self._target.counters["sets" if word is None else "refused"] += 1
        return word


def _target_of(tiers: Tiers) -> tuple[CacheBackend, list[CacheBackend]]:
    """The local tier that holds most, which is the last one, and the slower ones behind it.

    Raises:
        ValueError: There is no local tier.
    """
    for at in range(len(tiers.backends) - 1, -1, -1):
        if not tiers.backends[at].is_remote:
            return tiers.backends[at], tiers.backends[at + 1 :]
    names = ", ".join(tier.name for tier in tiers.backends)
    raise ValueError(f"no tier of this cache is local ({names}): there is nothing to bring it into")


async def _room_of(target: CacheBackend) -> int | None:
    """Bytes that can be brought into a tier without pushing out what was brought before."""
    try:
        usage = await target.usage()
    except Exception as error:
        target.note_fault("usage", error)
        return None
    limit = usage.get("limit_bytes")
    if not limit:
        return None
    kept = usage.get("fixed_bytes", 0) + usage.get("pinned_bytes", 0)
    return int(max(0, limit - kept) * ROOM_SHARE)


def _newest_first(plan: Plan) -> list[SelectedEntry]:
    return sorted(plan.entries, key=lambda one: (-one.created_at, str(one.key)))


def _copy_bytes(one: SelectedEntry) -> int:
    """What one copy of an entry takes, about: each tier may have compressed it in its own way."""
    return one.stored_bytes // len(one.tiers)
