"""One frame of keyframes that were looked at before, without their metadata and without a new key.

What a first ``get_frame`` has found out of a write (that it is of this source, what it took to
compute) holds for as long as the key has that write. So the next one asks the first tier for the
frame of exactly that write, and takes the long way where the key has another one by now.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from cogcache.backends.base import SLOW
from cogcache.keys import Keyframes
from cogcache.manager import CacheManager
from cogcache.sources import SourceRef

if TYPE_CHECKING:
    from cogcache._types import Lookup
    from cogcache.requests import Request

__all__ = ["WRITES_KEPT", "FrameHits"]

WRITES_KEPT: Final = 1024
_UNCHANGING: Final = frozenset((str, int, bool, float, Fraction, type(None)))


@dataclass(frozen=True, slots=True)
class _Write:
    """A write that is what was asked for.

    Attributes:
        asked: What its place in the memo is made of: kept, so that nothing else gets their ids.
        key: Its encoded key.
        token: Of the write.
        stored_bytes: Of the whole entry.
        seconds_saved: By not computing it anew.
    """

    asked: tuple[SourceRef, Keyframes | None]
    key: bytes
    token: int
    stored_bytes: int
    seconds_saved: float


class FrameHits:
    """Writes of keyframes that frames were read of, at most ``WRITES_KEPT``; then it begins anew.

    They are found by the very objects that a caller asks with: a captured source, and ``Keyframes``
    of values that cannot change.
    """

    def __init__(self, cache: CacheManager) -> None:
        self._cache = cache
        self._writes: dict[tuple[int, int, str | None], _Write] = {}

    def now(
        self,
        source: object,
        keyframes: Keyframes | None,
        profile: str | None,
        frame_id: object,
        counts: dict[str, float],
    ) -> bytes | None:
        """The stored bytes of a frame, if the first tier has them at hand, with the hit counted;
        else ``None``.
        """
        asked = (id(source), id(keyframes), profile)
        write = self._writes.get(asked)
        if write is None:
            return None
        if type(frame_id) is int:
            frame_id = str(frame_id)
        elif type(frame_id) is not str:
            return None
        data = self._cache._lookups.frame_at_hand(write.key, write.token, frame_id)
        if data is SLOW:
            return None
        if data is None:
            self._writes.pop(asked, None)
            return None
        counts["hits"] += 1
        counts["hit_bytes"] += write.stored_bytes
        counts["seconds_saved"] += write.seconds_saved
        found: bytes = data
        return found

    def learn(
        self, request: Request, keyframes: Keyframes | None, profile: str | None, found: Lookup
    ) -> None:
        """Note the write that a hit was of, where it is that of the first tier."""
        asked = (id(request.source), id(keyframes), profile)
        if asked in self._writes or not request.pinned or not _cannot_change(keyframes):
            return
        entry = self._cache._lookups.entry_at_hand(request.key, found)
        if entry is None:
            return
        if len(self._writes) >= WRITES_KEPT:
            self._writes.clear()
        self._writes[asked] = _Write(
            (request.source, keyframes),
            request.key.encoded,
            entry.token,
            entry.length,
            entry.cost_ms / 1000,
        )


def _cannot_change(keyframes: Keyframes | None) -> bool:
    return keyframes is None or all(
        type(value) in _UNCHANGING for value in keyframes.arguments().values()
    )
