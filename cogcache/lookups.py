"""Look-ups: the value of a key, or of many, from the first tier that has it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from cogcache import _core
from cogcache._arguments import checked_keys
from cogcache._inline import is_inline
from cogcache._types import Lookup
from cogcache.backends.base import META_FULL_PARAMS, META_SOURCE, SLOW, CacheBackend
from cogcache.calls import Calls
from cogcache.into import LOOK_OPTIONS, checked_rows, fill_rows
from cogcache.keys import Key
from cogcache.tiering import Tiers, better_reason, together

__all__ = ["MISS", "Lookups", "is_meant"]

# After so many hits in a row that never left the running task, it lets the loop turn once: about
# 200 us of inline work.
INLINE_STREAK: Final = 48
# Of ``many`` that are under way at once: each may hold a descriptor.
AT_ONCE: Final = 64

MISS: Final[Any] = type("_Miss", (), {"__repr__": lambda self: "<miss>"})()


class Lookups:
    """Look-ups of one manager in its tiers.

    Args:
        tiers: Of the manager.
        calls: Of the manager; hits and misses are counted here.
    """

    def __init__(self, tiers: Tiers, calls: Calls) -> None:
        self._tiers = tiers
        self._calls = calls
        self._first = tiers.backends[0]
        self._alone = len(tiers.backends) == 1
        self._streak = 0

    # --- inline -----------------------------------------------------------------------------------

    def at_hand(self, key: str | Key, encoded: bytes) -> Any:
        """The value that the first tier has at hand, counted; ``MISS`` where it says that it has
        none, ``SLOW`` where it has to be asked otherwise. After a value: ``turn_is_over``.
        """
        if type(key) is not str and _needs_comparing(key):
            return SLOW
        value = self._first.get_inline(encoded, MISS, SLOW)
        if value is not SLOW and value is not MISS and self._calls.counting:
            self._calls.stats["hits"] += 1
        return value

    def frame_at_hand(self, encoded: bytes, token: int, name: str) -> Any:
        """The bytes of one frame of a write, as ``CacheBackend.frame_now`` of the first tier has
        them, counted. After bytes: ``turn_is_over``.
        """
        self._calls.check_open()
        data = self._tiers.frame_now(encoded, token, name)
        if data is not SLOW and data is not None:
            self._calls.count("hits")
        return data

    def entry_at_hand(self, key: Key, found: Lookup) -> _core.Entry | None:
        """What the first tier has at hand of a key, if a hit was just ``found`` there and it is
        meant.
        """
        if found.tier != self._first.name:
            return None
        entry = self._tiers.fetch_now(self._first, key.encoded, index_only=True)
        return entry if isinstance(entry, _core.Entry) and is_meant(key, entry) else None

    async def get(self, key: str | Key, encoded: bytes, default: Any, answer: Any) -> Any:
        """The value of a key of which ``at_hand`` gave ``answer``, no value."""
        if answer is MISS and self._alone:
            self._calls.count("misses")
            return default
        found = await self.look(key, encoded, {}, after=answer is MISS)
        return found.value if found.hit else default

    def turn_is_over(self) -> bool:
        """Count a hit that may not have waited for anything; after so many the loop has to
        turn.
        """
        self._streak += 1
        return self._streak >= INLINE_STREAK

    async def breathe(self) -> None:
        """Let the loop turn."""
        self._streak = 0
        if not is_inline():
            await asyncio.sleep(0)

    # --- one --------------------------------------------------------------------------------------

    async def look(
        self,
        key: str | Key,
        encoded: bytes,
        options: Mapping[str, Any],
        *,
        after: bool = False,
        first: _core.Entry | str | None = None,
        counted: bool = False,
    ) -> Lookup:
        """Ask the tiers in order until one gives the value.

        Args:
            key: As the caller has it.
            encoded: Its encoding.
            options: For the decoder.
            after: The first tier was asked inline, and counted the miss itself.
            first: What the first tier has answered, where it was asked already.
            counted: The call was counted already: count nothing.
        """
        # Some frames or none: what is not asked for is not read, so there is nothing to promote.
        some = options.get("frames", True) is not True
        since = self._tiers.promotions.changes.number
        reason = "absent"
        for tier in self._tiers.backends[1:] if after else self._tiers.backends:
            if first is not None and tier is self._first:
                answer: _core.Entry | str | None = first
            else:
                answer = self._tiers.fetch_now(tier, encoded, index_only=some)
            if answer is None:
                answer = await self._tiers.fetch(tier, encoded, index_only=some)
            word: str | None = None
            if isinstance(answer, str):
                word = answer
            elif isinstance(key, Key) and not is_meant(key, answer):
                word = "foreign"
            else:
                # Before the value takes the map.
                whole = tier is not self._first and not some
                promote = self._tiers.promote_from(answer, tier, since) if whole else None
                value = self._tiers.load_now(tier, answer, options)
                if value is SLOW:
                    value, word = await self._tiers.load(tier, answer, options)
                if word is None:
                    if not counted:
                        self._calls.count("hits")
                        tier.counters["hits"] += 1
                    if promote is not None:
                        await promote()
                    if self.turn_is_over():
                        await self.breathe()
                    return _found(value, answer, tier)
            if not counted and word != "unavailable":
                tier.counters["misses"] += 1
            reason = better_reason(reason, word)
        if not counted:
            self._calls.count("misses")
        return Lookup(False, reason=reason)

    # --- many -------------------------------------------------------------------------------------

    async def many(self, keys: Iterable[str | Key]) -> dict[str | Key, Any]:
        """The values of those ``keys`` that are there, in their order."""
        wanted = checked_keys(keys)
        encoded = [self._calls.encoded(key) for key in wanted]
        answers = await self._many_at_hand(wanted, encoded)
        values = dict(zip(wanted, answers, strict=True))
        later = [
            (key, one, answer is MISS)
            for key, one, answer in zip(wanted, encoded, answers, strict=True)
            if answer is SLOW or answer is MISS
        ]
        self._calls.count("hits", len(wanted) - len(later))
        if later:
            await self._look_for(later, values)
            values = {key: value for key, value in values.items() if value is not MISS}
        if values:
            await self.breathe()
        return values

    async def _look_for(
        self, wanted: Sequence[tuple[str | Key, bytes | None, bool]], values: dict[str | Key, Any]
    ) -> None:
        """Put the values of keys that the first tier has not at hand into ``values``, ``MISS`` for
        those that are not there; of each its encoding, and whether the first tier said so itself.
        """
        left = [
            (key, one, missed)
            for key, one, missed in wanted
            if one is not None and not (missed and self._alone)
        ]
        self._calls.count("misses", len(wanted) - len(left))
        for start in range(0, len(left), AT_ONCE):
            part = left[start : start + AT_ONCE]
            known = await self._first_answers([one for _, one, missed in part if not missed])
            found = await together(
                [
                    self.look(key, one, {}, after=True)
                    if missed
                    else self.look(key, one, {}, first=next(known))
                    for key, one, missed in part
                ]
            )
            for (key, _, _), look in zip(part, found, strict=True):
                values[key] = look.value if look.hit else MISS

    async def _many_at_hand(
        self, keys: Sequence[str | Key], encoded: Sequence[bytes | None]
    ) -> list[Any]:
        """What the first tier has at hand of each, as ``at_hand`` has it; not counted. ``MISS`` of
        a key without an encoding.
        """
        batch = [
            one
            for key, one in zip(keys, encoded, strict=True)
            if one is not None and (type(key) is str or not _needs_comparing(key))
        ]
        answered: list[Any] = []
        while len(answered) < len(batch):
            if answered:
                await self.breathe()
            answered += self._first.get_many_inline(batch, MISS, SLOW, len(answered))
        if len(batch) == len(keys):
            return answered
        rest = iter(answered)
        return [
            MISS if one is None else SLOW if _needs_comparing(key) else next(rest)
            for key, one in zip(keys, encoded, strict=True)
        ]

    async def _first_answers(self, encoded: Sequence[bytes]) -> Iterator[_core.Entry | str | None]:
        """What the first tier answers for each, what it has not at hand asked for many at a time;
        ``None`` where that is left to ``look``.
        """
        tier = self._first
        answers = [self._tiers.fetch_now(tier, one) for one in encoded]
        left = [at for at, answer in enumerate(answers) if answer is None]
        some = tier.fetch_at_once
        if some < 2:
            return iter(answers)
        batches = [left[start : start + some] for start in range(0, len(left), some)]
        fetched = await together(
            [self._tiers.fetch_many(tier, [encoded[at] for at in batch]) for batch in batches]
        )
        for batch, found in zip(batches, fetched, strict=True):
            if found is not None:
                for at, answer in zip(batch, found, strict=True):
                    answers[at] = answer
        return iter(answers)

    async def rows(self, keys: Iterable[str | Key], out: Any) -> list[bool]:
        """Copy the values of ``keys`` into the rows of an array of the caller's; which were
        filled.
        """
        wanted = checked_keys(keys, once=False)
        rows = checked_rows(out, len(wanted))
        encoded = [self._calls.encoded(key) for key in wanted]
        plain = [
            None if _needs_comparing(key) else one for key, one in zip(wanted, encoded, strict=True)
        ]

        async def look(number: int) -> Lookup:
            one = encoded[number]
            if one is None:
                self._calls.count("misses")
                return Lookup(False, reason="bad-key")
            return await self.look(wanted[number], one, LOOK_OPTIONS)

        async def look_for(numbers: list[int]) -> Sequence[Lookup]:
            return await together([look(number) for number in numbers])

        def hit() -> None:
            self._calls.count("hits")
            self._first.counters["hits"] += 1

        filled = await fill_rows(self._tiers, wanted, plain, rows, look_for, hit)
        await self.breathe()
        return filled


def is_meant(key: Key, entry: _core.Entry) -> bool:
    """Compare in full what the key holds only as digests: long parameters and the identity of the
    source.
    """
    identity = key.origin.identity if key.origin is not None else None
    stored = entry.meta.get(META_SOURCE)
    if identity is not None and stored is not None and list(stored) != list(identity):
        return False
    return key.matches_long_values(entry.meta.get(META_FULL_PARAMS) or {})


def _needs_comparing(key: str | Key) -> bool:
    """Whether a key holds something only as a digest, so that the entry must be looked at."""
    return isinstance(key, Key) and (key.origin is not None or bool(key.long_values))


def _found(value: Any, entry: _core.Entry, tier: CacheBackend) -> Lookup:
    return Lookup(
        hit=True,
        value=value,
        tier=tier.name,
        age_seconds=max(0.0, (tier.now_ms() - entry.refreshed_ms) / 1000),
        expires_at=None if entry.expires_ms is None else entry.expires_ms / 1000,
        stored_bytes=entry.length,
        seconds_saved=entry.cost_ms / 1000,
    )
