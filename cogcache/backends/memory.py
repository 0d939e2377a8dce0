"""A tier in the memory of this process: encoded entries, least recently used ones out first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from cogcache import _bridge, _core
from cogcache._fork import renew_after_fork
from cogcache.backends.base import CacheBackend
from cogcache.backends.receiving import BufferedReceiver, Receiver
from cogcache.config import MemoryCacheConfig

ENTRY_OVERHEAD = (
    512  # bytes charged for the objects around an entry: measured at about 430 on CPython 3.11
)


class MemoryCacheBackend(CacheBackend):
    """Entries in memory, bounded in bytes. Values are decoded anew at every hit, so nobody can
    change another's.
    """

    CONFIG_CLASS: ClassVar[type[Any] | None] = MemoryCacheConfig
    runs_inline: ClassVar[bool] = True

    def __init__(self, config: MemoryCacheConfig) -> None:
        super().__init__(config)
        self._limit = int(config.max_size_mb * 1_000_000)
        self._entries: OrderedDict[bytes, _core.Entry] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()  # several event loops may share the tier
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Another thread of the parent may have been inside."""
        self._lock = threading.Lock()
        self._size = sum(entry.length + ENTRY_OVERHEAD for entry in self._entries.values())

    async def read(self, key: bytes) -> _core.Entry | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
        return entry

    async def write(
        self, what: _core.Draft | _core.Image, *, source: int = 0, kind: int = 0
    ) -> str | None:
        image = await _bridge.compose(what) if isinstance(what, _core.Draft) else what
        size = len(image) + ENTRY_OVERHEAD
        if size > self._limit:
            return "too-large"
        entry = _core.Entry.from_bytes(await _bridge.to_bytes(image), image.key)
        with self._lock:
            self._drop(image.key)
            while self._entries and self._size + size > self._limit:
                self._drop(next(iter(self._entries)))
                self.counters["evictions"] += 1
            self._entries[image.key] = entry
            self._size += size
        return None

    async def receive(
        self, key: bytes, token: int, *, source: int = 0, kind: int = 0
    ) -> Receiver | str:
        """Takes streams up to a quarter of the tier's size, which are in memory beside it until
        they are whole.
        """
        return BufferedReceiver(self.write, key, self._limit // 4)

    async def refresh(self, key: bytes, ttl_ms: int | None) -> bool:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or self._why_dead(entry) is not None:
                return False
            self._entries.move_to_end(key)
            now = self.now_ms()
            if ttl_ms is not None and (entry.expires_ms is None or now + ttl_ms < entry.expires_ms):
                return True  # it lives longer as it is
            self._entries[key] = entry.renewed(now, ttl_ms)
            return True

    async def discard(self, key: bytes) -> bool:
        with self._lock:
            return self._drop(key)

    async def discard_write(self, key: bytes, token: int) -> bool:
        with self._lock:
            kept = self._entries.get(key)
            return kept is not None and kept.token == token and self._drop(key)

    async def scan(self, source: int = 0) -> AsyncIterator[_core.Entry]:
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            yield entry

    def get_inline(self, key: bytes, miss: object, slow: object) -> Any:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.counters["misses"] += 1
                return miss
            if self._why_dead(entry) is not None:
                return slow
            self._entries.move_to_end(key)
        try:
            value = entry.value_now(slow)
        except (_core.DamagedError, _core.UnsupportedError):
            return slow
        if value is slow:
            return slow
        self.counters["hits"] += 1
        return value

    async def usage(self) -> dict[str, Any]:
        with self._lock:
            return {
                "size_bytes": self._size,
                "total_files": len(self._entries),
                "limit_bytes": self._limit,
            }

    async def aclose(self) -> None:
        with self._lock:
            self._entries.clear()
            self._size = 0

    def _drop(self, key: bytes) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._size -= entry.length + ENTRY_OVERHEAD
        return True

    def __reduce__(self) -> Any:
        """A copy in another process begins empty: only the configuration travels."""
        return type(self), (self.config,)
