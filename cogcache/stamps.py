"""When values began to be computed, so that none is kept which was invalidated meanwhile."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from cogcache import _core
from cogcache._fork import renew_after_fork
from cogcache._identity import URI_TAG
from cogcache.manager import CacheManager
from cogcache.requests import Request
from cogcache.sources import SourceRef

__all__ = ["Stamps"]

STAMPS_KEPT: Final = 4096


class Stamps:
    """The last misses of one cache, by key. Safe from many threads.

    Args:
        manager: Whose tags and clocks count.
        profile: Of the cache.
    """

    def __init__(self, manager: CacheManager, profile: str | None) -> None:
        self._manager = manager
        self._profile = profile
        self._stamps: OrderedDict[bytes, int] = OrderedDict()
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Another thread of the parent may have been inside."""
        self._lock = threading.Lock()

    def uri_tag(self, source: SourceRef) -> str:
        """The tag of all that was made from a source in this profile."""
        named = _core.encode_key_value([self._profile or "", source.uri])
        return URI_TAG + _core.hash128(named).hex()

    def note_miss(self, request: Request) -> None:
        """What is computed for this key begins now."""
        stamp = self._now(request)
        with self._lock:
            self._stamps[request.key.digest] = stamp
            self._stamps.move_to_end(request.key.digest)
            if len(self._stamps) > STAMPS_KEPT:
                self._stamps.popitem(last=False)

    def take(self, request: Request) -> int:
        """When the value of this key began to be computed: at its last miss here, else now."""
        with self._lock:
            noted = self._stamps.pop(request.key.digest, None)
        return self._now(request) if noted is None else noted

    def _now(self, request: Request) -> int:
        return self._manager.capture_stamp([self.uri_tag(request.source)])
