"""Lives that begin anew: the object is copied onto itself, in the store, with the new life in its
metadata. Its bytes stay as they are.

A copy costs as much as a put, so one is made only when less than half of the life that is asked for
is left, and at most ten a second on the average.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal

from cogcache import _core
from cogcache._fork import renew_after_fork
from cogcache.backends.faults import RefusedError
from cogcache.backends.lanes import Call
from cogcache.backends.s3.client import S3Client
from cogcache.backends.s3.download import FRESH, TOKEN, Tail, token_of
from cogcache.backends.s3.errors import ChangedError, NotSupportedError
from cogcache.backends.s3.probe import copies_of
from cogcache.backends.slots import TAIL_BYTES, current_slot, refreshed_tail, slot_as_text

__all__ = ["Copies", "Refreshes", "is_due"]

Copies = Literal["guarded", "plain", "none"]

COPIES_A_SECOND: Final = 10.0
COPIES_AT_ONCE: Final = 100.0
COPY_LIMIT: Final = 5 << 30  # bytes of an object; S3's own


def is_due(entry: _core.Entry, now_ms: int, ttl_ms: int | None) -> bool:
    """Whether less than half of the life that is asked for is left of an entry's."""
    if entry.expires_ms is None:
        return False
    return ttl_ms is None or 2 * (entry.expires_ms - now_ms) < ttl_ms


class Refreshes:
    """Copies of objects of one bucket onto themselves. All methods block and run in a lane's
    thread.

    Attributes:
        sent: Objects that were copied.
        deferred: How often none was, because too many had been.
    """

    def __init__(
        self, client: S3Client, probes: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._probes = probes
        self._clock = clock
        self._copies: Copies | None = None
        self._left = COPIES_AT_ONCE
        self._left_at = clock()
        self.sent = 0
        self.deferred = 0
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Another thread of the parent may have been inside."""
        self._lock = threading.Lock()

    def renew(
        self, call: Call, name: str, tail: Tail, now_ms: int, ttl_ms: int | None, *, replaced: bool
    ) -> bool:
        """Begin the life of the object with this tail now; whether that was done.

        Args:
            call: Of this thread.
            name: Of the object.
            tail: At least the last 112 bytes of it.
            now_ms: When its life begins.
            ttl_ms: And how long it is.
            replaced: Another host may replace it by something else than an equivalent. Then it is
                only copied where the store sees to it that no newer object is lost.

        Raises:
            RemoteError: The store does not answer, or does not let us.
        """
        if self._copies is None:
            self._copies = copies_of(self._client, call, self._probes)
        if tail.size > COPY_LIMIT or self._copies == "none":
            return False
        if (replaced and self._copies != "guarded") or not self._may_copy():
            return False
        token = token_of(tail)
        slot = current_slot(refreshed_tail(tail.data[-TAIL_BYTES:], token, now_ms, ttl_ms), token)
        if slot is None:
            return False
        guard: dict[str, Any] = {"CopySourceIfMatch": tail.etag} if tail.etag else {}
        if self._copies == "guarded":
            guard["IfMatch"] = tail.etag
        call.extend(self._client.seconds_for(tail.size))
        try:
            self._client.send(
                call,
                self._client.lane_for(tail.size),
                "copy_object",
                Key=name,
                CopySource={"Bucket": self._client.bucket, "Key": name},
                MetadataDirective="REPLACE",
                Metadata={TOKEN: tail.token or f"{token:016x}", FRESH: slot_as_text(slot)},
                **guard,
            )
        except (ChangedError, NotSupportedError, RefusedError):
            return False
        self.sent += 1
        return True

    def _may_copy(self) -> bool:
        with self._lock:
            now = self._clock()
            gained = (now - self._left_at) * COPIES_A_SECOND
            self._left = min(COPIES_AT_ONCE, self._left + gained)
            self._left_at = now
            if self._left < 1:
                self.deferred += 1
                return False
            self._left -= 1
            return True
