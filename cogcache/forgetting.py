"""Forgetting entries, so that nothing which is under way brings them back."""

from __future__ import annotations

from collections.abc import Callable

from cogcache.backends.base import KeyPattern
from cogcache.calls import Calls
from cogcache.computing import Computations
from cogcache.keys import Key
from cogcache.tiering import Tiers
from cogcache.writing import Writing

__all__ = ["Forgetting"]


class Forgetting:
    """What one manager forgets, in every tier.

    Args:
        tiers: Of the manager.
        writing: Of the manager; what waits to be written is forgotten too.
        computations: Of the manager; what they bring is not kept.
        calls: Of the manager; deletes are counted here.
    """

    def __init__(
        self, tiers: Tiers, writing: Writing, computations: Computations, calls: Calls
    ) -> None:
        self._tiers = tiers
        self._writing = writing
        self._flights = computations.flights
        self._calls = calls

    async def key(self, encoded: bytes) -> bool:
        """Forget one key; whether any tier had it."""
        self._flights.forget(encoded.__eq__)
        async with self._writing.forgetting(encoded.__eq__, [encoded]):
            forgot = await self._tiers.each(
                "delete", lambda tier: tier.discard(encoded), failed=False, bounded=True
            )
        for tier, did in zip(self._tiers.backends, forgot, strict=True):
            tier.counters["deletes"] += did
        self._calls.count("deletes", any(forgot))
        return any(forgot)

    async def matching(self, pattern: str | None) -> int:
        """Forget every key that matches; the number of entries, summed over the tiers."""
        matcher = KeyPattern(pattern)
        if matcher.exact is not None and self._calls.encoded(matcher.exact) is None:
            return 0
        is_meant = _meant_by(matcher)
        self._flights.forget(is_meant)
        async with self._writing.forgetting(is_meant):
            return sum(await self._tiers.each("clear", lambda tier: tier.clear(pattern)))


def _meant_by(matcher: KeyPattern) -> Callable[[bytes], bool]:
    def is_meant(encoded: bytes) -> bool:
        try:
            return matcher.matches(str(Key.from_encoded(encoded)))
        except ValueError:  # of a bad key that is being computed
            return False

    return is_meant
