"""The objects of a tier: which of those that are listed are ours, and the entries in them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from cogcache import _core
from cogcache.backends.base import KeyPattern
from cogcache.backends.faults import AbsentError, NotAskedError, RemoteError
from cogcache.backends.lanes import Call
from cogcache.backends.places import Place
from cogcache.backends.s3.client import S3Client
from cogcache.backends.s3.download import Reads
from cogcache.backends.s3.errors import ChangedError
from cogcache.backends.s3.listing import Listed, Listing, in_parallel
from cogcache.backends.s3.names import Names, judge
from cogcache.backends.s3.opening import SCAN_TAIL_BYTES, Opener
from cogcache.keys import Key

__all__ = ["Objects"]


class Objects:
    """The objects under the prefix of a tier.

    Args:
        client: Requests.
        listing: Of the bucket.
        names: Of objects.
        reads: Of ranges.
        opener: Of entries.
    """

    def __init__(
        self, client: S3Client, listing: Listing, names: Names, reads: Reads, opener: Opener
    ) -> None:
        self._client = client
        self._listing = listing
        self._names = names
        self._reads = reads
        self._opener = opener

    async def prefixes_of(self, source: int) -> list[str]:
        """Where the objects of a URI are; of every URI that nobody named, too."""
        if source == 0:
            return [self._names.root]
        found: dict[str, None] = {}
        for number in (source, 0):
            async for page in self._listing.pages(self._names.markers(number)):
                for marker in page:
                    prefix = self._names.of_marked(marker.name)
                    if prefix is not None:
                        found[prefix] = None
        return list(found)

    async def pages(
        self, prefixes: list[str], pattern: KeyPattern | None = None
    ) -> AsyncIterator[list[tuple[Listed, bool | None]]]:
        """Pages of objects that are ours and not surely outside of a pattern, each with what its
        name says of that.
        """
        for prefix in prefixes:
            async for page in self._listing.pages(prefix):
                found: list[tuple[Listed, bool | None]] = []
                for one in page:
                    verdict = self.judge(one.name, pattern)
                    if verdict is not False:
                        found.append((one, verdict))
                yield found

    def judge(self, name: str, pattern: KeyPattern | None) -> bool | None:
        """Whether an object is ours and its key matches; ``None`` where the name does not say."""
        parsed = self._names.parse(name)
        if parsed is None:
            return False
        return True if pattern is None else judge(pattern, parsed)

    async def entries(
        self, prefixes: list[str], pattern: KeyPattern | None = None
    ) -> AsyncIterator[tuple[Listed, _core.Entry | None]]:
        """Objects with their entries, opened eight at a time; ``None`` for what is no entry of its
        name.
        """

        async def peek(item: tuple[Listed, bool | None]) -> _core.Entry | None:
            try:
                return await self._client.run(self._client.small, self._opener.peek, item[0].name)
            except (_core.DamagedError, _core.ForeignError, AbsentError, ChangedError):
                return None

        async for (one, _), entry in in_parallel(self.pages(prefixes, pattern), peek):
            if entry is not None and self._names.of_key(entry.key) != one.name:
                entry = None
            yield one, entry

    async def is_meant(self, name: str, matcher: KeyPattern) -> bool:
        """Whether the entry of an object has a key that matches, where the name does not say."""
        try:
            entry = await self._client.run(self._client.small, self._opener.peek, name)
        except (_core.DamagedError, _core.ForeignError, AbsentError, ChangedError):
            return False
        return self._names.of_key(entry.key) == name and matcher.matches(
            str(Key.from_encoded(entry.key))
        )

    async def place_at(self, name: str) -> Place | None:
        """What is in an object; ``None`` where there is none, or nothing of that name.

        Raises:
            NotAskedError: The store is not asked for now.
        """
        try:
            return await self._client.run(self._client.small, self._open_place, name)
        except (AbsentError, ChangedError, _core.ForeignError):
            return None
        except NotAskedError:
            raise
        except RemoteError as error:
            return Place(name, None, error=str(error))

    def _open_place(self, call: Call, name: str) -> Place | None:
        tail = self._reads.tail(call, name, SCAN_TAIL_BYTES)
        try:
            entry = self._opener.opened(name, tail)
        except _core.DamagedError as error:
            return Place(name, None, tail.etag, str(error), is_damaged=True)
        return Place(name, entry, tail.etag) if self._names.of_key(entry.key) == name else None
