"""What a process knows of invalidated tags, kept current by every answer of the server.

All versions lie in one sorted set without a life: a tag's member has as its score the version
(microseconds) that entries with this tag must have been captured at or after. A tag that is not in
it was never invalidated since the *origin*, the member with the lowest score and a random name:
entries captured before the origin's version are invalid. Because it is one key, versions cannot be
lost one by one; when all of them are lost (memory, a restart without persistence), the new set has
another origin, whose version is later than everything that was lost.

Versions rise with every invalidation, so a reader who asks for those above the highest one that it
knows misses none. That question travels with every read: a hit is checked against all invalidations
of all hosts up to this very answer, in the same round trip. The first answer brings everything
since the origin, in pages; from then on the answer is nearly always empty.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final

from cogcache._fork import renew_after_fork

__all__ = ["CHANGES", "MOST_TAGS", "PAGE", "Tags", "fresh_origin", "member"]

CHANGES: Final = 512  # that the answer to a read brings along
PAGE: Final = 4096  # of the changes when there are more
MOST_TAGS: Final = 50_000  # in the server; a process knows at most twice as many
MOST_OWED: Final = 16_384


def member(tag: str) -> bytes:
    """The member of a tag."""
    return b"t:" + tag.encode("utf-8", "surrogatepass")


def fresh_origin() -> bytes:
    """A name for the origin of a new set."""
    return b"o:" + secrets.token_hex(8).encode()


class Tags:
    """The versions that this process knows. Usable from any thread.

    Attributes:
        origin: The name of the origin; ``None`` before the first answer.
        base: Its version: nothing captured before it is valid.
        floor: What this process itself captured before it must not be written: invalidations may
            have been lost meanwhile.
        losses: How often the server had lost its versions.
        owed: Invalidations that the server has not taken yet, and their versions.
        owed_base: If not 0, what the server shall be told to raise the origin to.
    """

    def __init__(self) -> None:
        self.origin: bytes | None = None
        self.base = 0
        self.floor = 0
        self.losses = 0
        self.owed: dict[str, int] = {}
        self.owed_base = 0
        self._cursor = 0
        self._known: dict[bytes, int] = {}
        self._raised = 0
        self._lock = threading.Lock()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Another thread of the parent may have been inside."""
        self._lock = threading.Lock()

    @property
    def cursor(self) -> int:
        """The highest version of the server that is known."""
        return self._cursor

    def note_origin(self, answer: Sequence[Any], now_us: int) -> None:
        """Take the lowest member and its score, as the server gave them."""
        origin, base = bytes(answer[0]), int(float(answer[1]))
        with self._lock:
            if self.origin is not None and origin != self.origin:
                self.losses += 1
                self.floor = max(self.floor, now_us)
                self._cursor = 0
                # What was known stays known: it only makes more entries invalid.
            self.origin = origin
            if base > self.base:
                self.base = base
                self._known = {name: at for name, at in self._known.items() if at > base}
            self._cursor = max(self._cursor, base)

    def note_changes(
        self, asked: int, origin: bytes | None, answer: Sequence[Any], most: int = CHANGES
    ) -> bool:
        """Take up to ``most`` members above the version ``asked`` with their scores, rising;
        whether there may be more.
        """
        with self._lock:
            if origin != self.origin or asked > self._cursor:
                return True  # the set was lost meanwhile: ask again
            for name, score in zip(answer[::2], answer[1::2], strict=True):
                self._learn(bytes(name), int(float(score)))
            if answer:
                last = int(float(answer[-1]))
                # Members of one invalidation share a version: a full answer may end among them.
                if len(answer) >= 2 * most:
                    self._cursor = max(self._cursor, last - 1)
                    return True
                self._cursor = max(self._cursor, last)
            return False

    def _learn(self, name: bytes, version: int) -> None:
        if version > self.base:
            self._known[name] = max(version, self._known.get(name, 0))
        if len(self._known) > 2 * MOST_TAGS:
            by_age = sorted(self._known.items(), key=lambda pair: pair[1])
            self.base = max(self.base, by_age[MOST_TAGS][1])
            self._known = dict(by_age[MOST_TAGS + 1 :])

    def version(self, tag: str) -> int:
        """When this tag was invalidated last, as far as anybody said so; 0 if nobody did."""
        return max(self._raised, self._known.get(member(tag), 0), self.owed.get(tag, 0))

    def is_dead(self, pairs: Iterable[tuple[str, int]]) -> bool:
        """Whether an entry of this tier with these tags is invalid, or may be."""
        with self._lock:
            return any(captured < max(self.base, self.version(tag)) for tag, captured in pairs)

    def owe(self, tags: Iterable[str], version: int) -> None:
        """Remember invalidations that the server has not taken. When they are too many, all of them
        become one: whatever was captured before is invalid. A tag's version is above all that are
        known of it: a host whose clock is ahead made them, and what was captured since has those.
        """
        with self._lock:
            for tag in tags:
                self.owed[tag] = max(version, self.version(tag) + 1)
            if len(self.owed) > MOST_OWED:
                self.owed_base = self._raised = max(self._raised, *self.owed.values())
                self.owed.clear()

    def paid(self, tags: Iterable[str], version: int) -> None:
        """The server has taken these with this version."""
        with self._lock:
            for tag in tags:
                self._learn(member(tag), version)
                if self.owed.get(tag, 0) <= version:
                    self.owed.pop(tag, None)

    def paid_base(self, version: int) -> None:
        """The server knows that everything captured before is invalid."""
        with self._lock:
            if self.owed_base <= version:
                self.owed_base = 0

    def distrust(self, now_us: int) -> None:
        """The server has no versions and takes none: whatever was captured before now may be
        invalid.
        """
        with self._lock:
            self.base = max(self.base, now_us)
