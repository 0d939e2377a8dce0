"""Reading the files of a store by the hundred: what ``verify`` need not look at one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from cogcache import _bridge, _core
from cogcache.backends._missing import MissingStore
from cogcache.backends.places import Place, Sifted

__all__ = ["FileSieve"]

STEP_BYTES: Final = 8 << 20  # that one step reads; a longer file is left to others
BATCH_NAMES: Final = 512  # the most that one step reads, ...
FIRST_NAMES: Final = 16  # ... and what the first batches have, when no sizes are known
OPEN_AT_ONCE: Final = 64  # entries that are opened to see whether they are meant
SHARDS: Final = 256
DIGEST: Final = 16

Look = Callable[[list[bytes]], Awaitable[list[Place]]]
"""What is there under these digests, opened; nothing of what is gone or foreign."""


class FileSieve:
    """See ``places.Sieve``. Batches have about as many names as one step can read, by the sizes of
    the entries that were read so far, so that several threads share large entries as well.

    Args:
        store: What is read.
        look: Opens entries.
        source: Hash of the source that is meant; 0 for any.
        is_meant: Whether an entry is meant; ``None`` for all.
    """

    def __init__(
        self,
        store: _core.Store | MissingStore,
        look: Look,
        source: int,
        is_meant: Callable[[_core.Entry], bool] | None,
    ) -> None:
        self._store = store
        self._look = look
        self._source = source
        self._is_meant = is_meant
        self._entries = self._bytes = 0  # read so far

    async def batches(self) -> AsyncIterator[bytes]:
        shard = 0
        while shard < SHARDS:
            shard, names = await _bridge.run(
                self._store, "names", shard, BATCH_NAMES, source=self._source
            )
            at = 0
            while at < len(names):
                size = DIGEST * self._names_at_once()
                batch = names[at : at + size]
                yield batch if self._is_meant is None else await self._meant_of(batch)
                at += size

    def _names_at_once(self) -> int:
        if not self._entries:
            return FIRST_NAMES
        mean = max(1, self._bytes // self._entries)
        return max(1, min(BATCH_NAMES, STEP_BYTES // mean))

    async def sift(self, batch: bytes) -> Sifted:
        done, entries, size, left = await _bridge.run(self._store, "sift", batch, STEP_BYTES)
        places = await self._look(left) if left else []
        self._entries += entries + len(places)
        self._bytes += size + sum(one.entry.length for one in places if one.entry is not None)
        return Sifted(entries, size, places, batch[DIGEST * done :])

    async def _meant_of(self, names: bytes) -> bytes:
        """Those of these names whose entries are meant, or cannot tell whether they are."""
        assert self._is_meant is not None
        digests = [names[at : at + DIGEST] for at in range(0, len(names), DIGEST)]
        meant: list[bytes] = []
        for start in range(0, len(digests), OPEN_AT_ONCE):
            for place in await self._look(digests[start : start + OPEN_AT_ONCE]):
                if place.entry is None or self._is_meant(place.entry):
                    meant.append(place.mark)
        return b"".join(meant)
