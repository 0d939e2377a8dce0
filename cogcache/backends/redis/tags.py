"""What a process knows of invalidated tags, kept current by every answer of the server.

All versions lie in one sorted set without a life: a tag's member has as its score the version
(microseconds) that entries with this tag must have been captured at or after. A tag that is not in
it was never invalidated since the *origin*, the member with the lowest score and a random name:
entries captured before the origin's version are invalid. Because it is one key, versions cannot be
lost one by one; when all of them are lost (memory, a restart without persistence), the new set has
another origin, whose version is later than everything that was lost.

Versions rise with every invalidation, so a reader who asks for those above the highest one that it
knows misses none. That question travels with every read: a hit is checked against all invalidations
of all hosts up to this very answer, in the same round trip.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from cogcache._fork import renew_after_fork

__all__ = ["CHANGES", "Tags", "fresh_origin", "member"]

CHANGES: Final = 512  # that one answer brings along
MOST_KNOWN: Final = 65_536
MOST_TAGS: Final = 100_000  # in the server
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
        self._known: OrderedDict[bytes, int] = OrderedDict()
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
            self.base = max(self.base, base)
            self._cursor = max(self._cursor, base)

    def note_changes(self, asked: int, origin: bytes | None, answer: Sequence[Any]) -> bool:
        """Take members above the version ``asked`` with their scores, rising; whether there may be
        more.
        """
        with self._lock:
            if origin != self.origin or asked > self._cursor:
                return True  # the set was lost meanwhile: ask again
            for name, score in zip(answer[::2], answer[1::2], strict=True):
                self._learn(bytes(name), int(float(score)))
            if answer:
                last = int(float(answer[-1]))
                # Members of one invalidation share a version: a full answer may end among them.
                if len(answer) >= 2 * CHANGES:
                    self._cursor = max(self._cursor, last - 1)
                    return True
                self._cursor = max(self._cursor, last)
            return False

    def note_versions(self, names: Sequence[bytes], scores: Sequence[Any], seen: int) -> None:
        """Take the versions of some tags as they were when ``seen`` was the highest known one."""
        with self._lock:
            if seen > self._cursor:
                return
            for name, score in zip(names, scores, strict=True):
                self._learn(name, 0 if score is None else int(float(score)))

    def _learn(self, name: bytes, version: int) -> None:
        self._known[name] = max(version, self._known.get(name, 0))
        self._known.move_to_end(name)
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    def version(self, tag: str) -> int:
        """The version of a tag as far as it is known."""
        return max(self.base, self._known.get(member(tag), 0), self.owed.get(tag, 0))

    def unknown(self, pairs: Sequence[tuple[str, int]]) -> list[bytes]:
        """The tags of an entry about which the server must be asked: captured before the last
        invalidation of anything, and not known. None if the entry is known to be invalid.
        """
        with self._lock:
            if any(captured < self.version(tag) for tag, captured in pairs):
                return []
            names = [member(tag) for tag, captured in pairs if captured < self._cursor]
            return [name for name in names if name not in self._known]

    def is_dead(self, pairs: Iterable[tuple[str, int]]) -> bool:
        """Whether an entry with these tags is invalid, or not known to be valid."""
        with self._lock:
            for tag, captured in pairs:
                if captured < self.version(tag):
                    return True
                if captured < self._cursor and member(tag) not in self._known:
                    return True
        return False

    def owe(self, tags: Iterable[str], version: int) -> None:
        """Remember invalidations that the server has not taken. When they are too many, all of them
        become one: whatever was captured before is invalid.
        """
        with self._lock:
            for tag in tags:
                self.owed[tag] = max(version, self.owed.get(tag, 0))
            if len(self.owed) > MOST_OWED:
                self.owed_base = max(self.owed_base, *self.owed.values())
                self.base = max(self.base, self.owed_base)
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
