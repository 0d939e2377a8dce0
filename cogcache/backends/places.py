"""Where entries lie in a tier, whole or not: what ``CacheManager.verify`` looks through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cogcache import _core

__all__ = ["Place", "Sieve", "Sifted"]


@dataclass(frozen=True, slots=True)
class Place:
    """A place where there is, or should be, an entry.

    Attributes:
        name: What it is called there: a file under the root, an object, a key of the server.
        entry: What is there, opened without its value; ``None`` where it cannot be opened.
        mark: By which the tier knows this generation again; the tier's own business.
        error: Why it could not be opened, or what is wrong with it there.
        is_damaged: Whether that is the fault of its bytes; else the tier could not say.
    """

    name: str
    entry: _core.Entry | None
    mark: Any = None
    error: str = ""
    is_damaged: bool = False


@dataclass(frozen=True, slots=True)
class Sifted:
    """What one step through a batch of entries has shown.

    Attributes:
        entries: Those that are as they were written.
        bytes_read: Theirs, as stored.
        left: Those that must be looked at closer: not whole, not readable, or too long for a step.
        rest: The batch without what was looked at; empty at its end.
    """

    entries: int
    bytes_read: int
    left: Sequence[Place]
    rest: bytes


class Sieve(Protocol):
    """How a tier that can read many entries with one call finds those that need a closer look."""

    def batches(self) -> AsyncIterator[bytes]:
        """All that is meant, in batches whose form is the tier's own business."""
        ...

    async def sift(self, batch: bytes) -> Sifted:
        """Read entries of a batch, as many as one step may. Changes nothing."""
        ...
