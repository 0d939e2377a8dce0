"""What every call to one manager goes through, whatever it asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cogcache.exceptions import ClosedError, warn
from cogcache.keys import Key, key_bytes

__all__ = ["Calls"]


class Calls:
    """Whether a manager is open, which bytes a key is, and what is counted of its calls.

    Args:
        counting: Whether ``stats`` are kept.

    Attributes:
        counting: As given.
        stats: ``hits``, ``misses``, ``sets`` and ``deletes``, each call once whatever tiers it
            asked.
        counters: What becomes of computations and promotions.
        closed: Nothing is answered any more.
    """

    def __init__(self, counting: bool) -> None:
        self.counting = counting
        self.stats = {"hits": 0, "misses": 0, "sets": 0, "deletes": 0}
        self.counters: dict[str, int] = dict.fromkeys(
            ("unstorable", "promotions", "promotions_dropped", "promotions_deferred", "computed"), 0
        )
        self.closed = False
        self._bad_key_noted = False

    def check_open(self) -> None:
        """Raise ``ClosedError`` if the manager was closed."""
        if self.closed:
            raise ClosedError("this cache was closed")

    def encoded(self, key: str | Key) -> bytes | None:
        """The canonical encoding of a key; ``None`` for one with a NUL, which is never there and
        never stored.

        Raises:
            TypeError: It is neither a string nor a ``Key``.
            ValueError: An empty one, or one over 65,000 bytes.
            ClosedError: See ``check_open``.
        """
        if self.closed:
            self.check_open()
        try:
            return key_bytes(key)
        except ValueError:
            if not isinstance(key, str) or "\0" not in key:
                raise
        if not self._bad_key_noted:
            self._bad_key_noted = True
            warn("a key with a NUL character is never stored (bad-key)")
        return None

    def count(self, name: str, more: int = 1) -> None:
        """Add to one of ``stats``."""
        if self.counting:
            self.stats[name] += more

    def summary(self, tiers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """``stats``, with what the statistics of the tiers come to together."""
        asked = self.stats["hits"] + self.stats["misses"]
        tiers = list(tiers)
        return {
            **self.stats,
            "size_bytes": sum(tier.get("size_bytes", 0) for tier in tiers),
            "total_files": sum(tier.get("total_files", 0) for tier in tiers),
            "hit_rate": self.stats["hits"] / asked if asked else 0.0,
        }
