"""What stands in for a directory that is not there, and that this user cannot make.

``read_only="auto"`` in a container whose volume is mounted later, or for a user who has no cache
yet: every read is a miss, every write is refused with its reason, until the directory can be used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from cogcache import _core
from cogcache.exceptions import ClosedError

LOOK_AGAIN_SECONDS: Final = 5.0


class MissingStore:
    """The operations of ``_core.Store`` where nothing is.

    Args:
        root: What the root would be, ``<base_path>/v1``.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.closed = False
        self._look_at = time.monotonic() + LOOK_AGAIN_SECONDS
        self._clock_offset_ms = 0

    def is_due(self) -> bool:
        """Whether it is time to look for the directory again."""
        return time.monotonic() >= self._look_at

    def put_off(self) -> None:
        """Look again in a while, not now."""
        self._look_at = time.monotonic() + LOOK_AGAIN_SECONDS

    def _check(self) -> None:
        if self.closed:
            raise ClosedError("the cache is closed")

    def get_value(self, key: bytes, miss: Any, slow: Any, /) -> Any:
        self._check()
        return slow if self.is_due() else miss

    def get_values(
        self, keys: Sequence[bytes], miss: Any, slow: Any, start: int = 0, /
    ) -> list[Any]:
        return [self.get_value(key, miss, slow) for key in keys[start:]]

    def get_frame(self, key: bytes, token: int, name: str, slow: Any, /) -> Any:
        self._check()
        return slow

    def fetch_now(self, key: bytes, flags: int = 0, /) -> str:
        self._check()
        return "absent"

    def fetch_many(self, keys: Sequence[bytes], /, flags: int = 0) -> list[str]:
        self._check()
        return ["absent"] * len(keys)

    def fetch_digests(self, digests: Sequence[bytes], /, flags: int = 0) -> list[str]:
        self._check()
        return ["absent"] * len(digests)

    def put(self, what: _core.Draft | _core.Image, /, *, source: int = 0, kind: int = 0) -> str:
        self._check()
        return "read-only"

    def put_many(self, whats: Sequence[_core.Draft | _core.Image], /) -> list[str]:
        return [self.put(what) for what in whats]

    def incoming(
        self, key: bytes, /, *, length: int | None = None, source: int = 0, kind: int = 0
    ) -> str:
        self._check()
        return "read-only"

    def spool_link(self, entry: _core.Entry, label: str, /) -> str:
        self._check()
        return "read-only"

    def spool_write(self, digest: bytes, label: str, data: bytes, /) -> str:
        self._check()
        return "read-only"

    def spool_remove(self, name: str, /) -> bool:
        self._check()
        return False

    def delete(self, key: bytes, /) -> bool:
        self._check()
        return False

    def delete_entries(self, entries: Sequence[_core.Entry], /) -> int:
        self._check()
        return 0

    def refresh(self, key: bytes, ttl_ms: int | None, /) -> bool:
        self._check()
        return False

    def invalidate_tags(self, tags: Sequence[str], /, above: int = 0) -> None:
        self._check()

    def tag_version(self, tag: str, /) -> int:
        self._check()
        return 0

    def list_shard(self, shard: int, /, source: int = 0) -> list[_core.Listed]:
        self._check()
        return []

    def names(self, shard: int, enough: int, /, source: int = 0) -> tuple[int, bytes]:
        self._check()
        return 256, b""

    def sift(self, names: bytes, most: int, /) -> tuple[int, int, int, list[bytes]]:
        self._check()
        return len(names) // 16, 0, 0, []

    def remove_damaged(self, digest: bytes, /) -> bool:
        self._check()
        return False

    def sweep(self, force: bool = False) -> int:
        self._check()
        return 0

    def stats(self) -> dict[str, Any]:
        self._check()
        states = {"table_less": False, "read_only": True, "hard_limit": False, "mapped": False}
        return dict.fromkeys(_COUNTERS, 0) | states

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._clock_offset_ms

    def set_clock_offset(self, offset_ms: int, /) -> None:
        self._clock_offset_ms = offset_ms

    @property
    def submit(self) -> Callable[..., None]:
        return self._answer

    def _answer(self, channel: Any, future: Any, operation: str, *args: Any, **named: Any) -> None:
        """Nothing here can block, so the answer is there at once."""
        answer = getattr(self, operation)(*args, **named)
        if future is not None:
            future.set_result(answer)

    def close(self) -> None:
        self.closed = True

    def wait(self, seconds: float, /) -> bool:
        return True


_COUNTERS: Final = (
    *("value_hits", "value_misses", "value_slow", "hits", "inline_hits", "would_block"),
    *("puts", "put_bytes", "read_bytes", "deletes", "touches", "refreshes"),
    *("refused_full", "refused_too_large", "refused_busy", "refused_read_only", "io_errors"),
    *("evicted_policy", "evicted_expired", "quarantined", "rebuilds", "reopens", "swept"),
    *(
        "reaped",
        "used_bytes",
        "fixed_bytes",
        "held_bytes",
        "limit_bytes",
        "entries",
        "quarantine_files",
    ),
    *("free_bytes", "missed_absent", "missed_expired", "missed_tag_invalidated"),
    *("missed_damaged", "missed_foreign", "missed_unavailable"),
)
