"""Uploads that broke off: which one a put goes on with, and which ones are given up."""

from __future__ import annotations

import asyncio
from typing import Final

from cogcache.backends.faults import RemoteError, UnavailableError
from cogcache.backends.lanes import Call
from cogcache.backends.s3.client import S3Client
from cogcache.backends.s3.names import Names
from cogcache.backends.s3.resume import RECORDS, RESUME_SECONDS, Records, Unfinished
from cogcache.backends.s3.upload import Upload, Writes

__all__ = ["Interrupted"]

LEAVING_SECONDS: Final = 5.0  # how long a put waits for the one before it to let go of its upload


class Interrupted:
    """The uploads of one tier that broke off on this machine.

    Args:
        client: Requests.
        writes: Of uploads.
        names: Of objects.

    Attributes:
        records: What outlives the process; ``None`` without a filesystem tier.
    """

    def __init__(self, client: S3Client, writes: Writes, names: Names) -> None:
        self._client = client
        self._writes = writes
        self._names = names
        self.records: Records | None = None

    async def unfinished(self, key: bytes) -> Unfinished | None:
        """An upload of this key that broke off on this machine; costs no request unless there is
        one, and then that for its parts.
        """
        records = self.records
        if records is None or self._client.small.breaker.refuses():
            return None
        leaving = records.leaving.get(records.name_of(key))
        if leaving is not None:
            await asyncio.wait({asyncio.wrap_future(leaving)}, timeout=LEAVING_SECONDS)
        try:
            return await self._client.run(self._client.small, self._take_up, records, key)
        except RemoteError:
            return None

    def _take_up(self, call: Call, records: Records, key: bytes) -> Unfinished | None:
        record = records.find(key)
        if record is None or record.upload is None:
            return None
        found = None
        if record.object == self._names.of_key(key) and record.age_seconds < RESUME_SECONDS:
            try:
                found = self._writes.parts_of(call, record)
            except UnavailableError:
                record.release()
                raise
            except RemoteError:
                pass  # it cannot list parts
        if found is None:
            self._writes.give_up(call, record.object, record.upload)
            record.done()
        return found

    def begin(
        self, call: Call, key: bytes, token: int, unfinished: Unfinished | None, *, spent: bool
    ) -> Upload:
        """Go on with an upload, or begin one."""
        record = None if unfinished is None else unfinished.take()
        if unfinished is not None and record is not None:
            if unfinished.token == token and not (spent or call.abandoned):
                record.renew()
            return self._writes.go_on(record, unfinished.parts)
        if self.records is not None:
            self.clear(call, RESUME_SECONDS, RECORDS - 1)
            record = self.records.make(key)
        name = self._names.of_key(key)
        return self._writes.begin(call, name, f"{token:016x}", record, spent=spent)

    def clear(self, call: Call, older_than_seconds: float, most: int) -> int:
        """Give up what nobody went on with; how many."""
        given_up = 0
        if self.records is not None:
            for record in self.records.left_over(older_than_seconds, most):
                if record.upload is not None:
                    self._writes.give_up(call, record.object, record.upload)
                record.done()
                given_up += 1
        return given_up
