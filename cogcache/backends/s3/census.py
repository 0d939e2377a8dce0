"""How much lies in a bucket: counted a page at a time, so that asking for it stays quick."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cogcache.backends.s3.listing import Listing

__all__ = ["Census", "Counted"]

BELIEVED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted.

    Attributes:
        files: Objects that are ours.
        size: Their bytes.
        complete: These are all there were; else at least so many are there.
        at: Seconds of the clock when the count got so far; ``None`` before any.
    """

    files: int = 0
    size: int = 0
    complete: bool = False
    at: float | None = None


@dataclass(slots=True)
class _Walk:
    files: int = 0
    size: int = 0
    more: dict[str, Any] = field(default_factory=dict)  # where it goes on


class Census:
    """The objects under a prefix. ``look`` makes one request of at most 1,000 objects: of a larger
    prefix, each look goes on where the last one ended.

    Args:
        listing: Of the bucket.
        prefix: What the names begin with.
        is_ours: Whether a name is one of ours.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        listing: Listing,
        prefix: str,
        is_ours: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        self._listing = listing
        self._prefix = prefix
        self._is_ours = is_ours
        self._clock = clock
        self._walk: _Walk | None = None
        self._outdated = False
        self.known = Counted()

    def changed(self) -> None:
        """This process wrote or removed something: the next look asks."""
        self._outdated = True

    def _is_believed(self) -> bool:
        known = self.known
        if not known.complete or known.at is None or self._outdated:
            return False
        return self._clock() < known.at + BELIEVED_SECONDS

    async def look(self) -> Counted:
        """What is known after one more page: the last count that came to its end, and before there
        is one, what was counted so far. A count is believed for a minute, unless this process has
        changed something.

        Raises:
            RemoteError: The store does not answer, or does not let us list; ``known`` stays.
        """
        walk = self._walk
        if walk is None:
            if self._is_believed():
                return self.known
            walk, self._outdated = _Walk(), False
        try:
            page, more = await self._listing.page(self._prefix, walk.more)
        except BaseException:
            self._outdated = True
            raise
        ours = [one for one in page if self._is_ours(one.name)]
        now = _Walk(walk.files + len(ours), walk.size + sum(one.size for one in ours), more)
        self._walk = now if more else None
        if not more or not self.known.complete:
            self.known = Counted(now.files, now.size, not more, self._clock())
        return self.known
