"""Listing, deleting by the thousand, and housekeeping in a bucket: page by page, touching only what
is under our own names.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from cogcache.backends.faults import AbsentError, RefusedError
from cogcache.backends.lanes import Call
from cogcache.backends.s3.client import S3Client
from cogcache.backends.s3.errors import NotSupportedError

__all__ = ["Listed", "Listing", "ensure_lifecycle", "in_parallel", "lifecycle_rules"]

T = TypeVar("T")
R = TypeVar("R")

PAGE: Final = 1000
WINDOW: Final = 8  # objects looked at together; the number of the small lane's threads


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing."""

    name: str
    size: int
    age_seconds: float  # since it was written, by the clock of this machine


class Listing:
    """Requests about many objects of one bucket."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._wants_md5 = False

    async def pages(self, prefix: str) -> AsyncIterator[list[Listed]]:
        """The objects whose names begin so, up to 1,000 at a time."""
        more: dict[str, Any] = {}
        while True:
            found, more = await self.page(prefix, more)
            if found:
                yield found
            if not more:
                return

    async def page(self, prefix: str, more: dict[str, Any]) -> tuple[list[Listed], dict[str, Any]]:
        """Up to 1,000 of them, and what gives the next ones instead of ``more``; empty at the
        beginning and at the end.
        """
        answer = await self._ask("list_objects_v2", Prefix=prefix, MaxKeys=PAGE, **more)
        now = datetime.datetime.now(datetime.UTC)
        found = [
            Listed(one["Key"], int(one["Size"]), (now - one["LastModified"]).total_seconds())
            for one in answer.get("Contents") or ()
        ]
        token = answer.get("NextContinuationToken")
        if not answer.get("IsTruncated") or not token:
            return found, {}
        return found, {"ContinuationToken": token}

    async def delete(self, names: list[str]) -> int:
        """Delete objects by name; how many the store says are gone.

        Raises:
            RemoteError: The store refuses; some may be gone.
        """
        gone = 0
        for start in range(0, len(names), PAGE):
            gone += await self._delete_batch(names[start : start + PAGE])
        return gone

    async def _delete_batch(self, names: list[str]) -> int:
        objects = {"Objects": [{"Key": name} for name in names], "Quiet": True}
        try:
            if self._wants_md5:
                answer = await self._ask_with_md5(objects)
            else:
                answer = await self._ask("delete_objects", Delete=objects)
        except RefusedError:
            if self._wants_md5:
                raise
            self._wants_md5 = True  # stores of the time before other checksums
            return await self._delete_batch(names)
        except NotSupportedError:
            return sum([await self.delete_one(name) for name in names])
        # Of thousand some may fail where the store is busy: each is asked for once more, and says
        # why if it fails again.
        failed = [str(one["Key"]) for one in answer.get("Errors") or () if one.get("Key")]
        return len(names) - len(failed) + sum([await self.delete_one(name) for name in failed])

    async def delete_one(self, name: str, **condition: Any) -> bool:
        """Delete one object; whether it (or nothing) is gone."""
        try:
            await self._ask("delete_object", Key=name, **condition)
        except AbsentError:
            return False
        return True

    async def old_uploads(self, prefix: str, older_than_seconds: float) -> int:
        """Give up multipart uploads under a prefix that began long ago; how many."""
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(
            seconds=older_than_seconds
        )
        given_up = 0
        more: dict[str, Any] = {}
        while True:
            answer = await self._ask("list_multipart_uploads", Prefix=prefix, **more)
            for one in answer.get("Uploads") or ():
                if one["Key"].startswith(prefix) and one["Initiated"] < before:
                    try:
                        await self._ask(
                            "abort_multipart_upload", Key=one["Key"], UploadId=one["UploadId"]
                        )
                    except AbsentError:
                        continue
                    given_up += 1
            if not answer.get("IsTruncated") or not answer.get("NextKeyMarker"):
                return given_up
            more = {
                "KeyMarker": answer["NextKeyMarker"],
                "UploadIdMarker": answer.get("NextUploadIdMarker", ""),
            }

    async def _ask(self, operation: str, **params: Any) -> dict[str, Any]:
        client = self._client

        def work(call: Call) -> dict[str, Any]:
            return client.send(call, client.small, operation, **params)

        return await client.small.run(work, seconds=2 * client.seconds_for(0))

    async def _ask_with_md5(self, objects: dict[str, Any]) -> dict[str, Any]:
        client = self._client

        def work(call: Call) -> dict[str, Any]:
            with client.header("DeleteObjects", "Content-MD5", _md5_of_body):
                return client.send(call, client.small, "delete_objects", Delete=objects)

        return await client.small.run(work, seconds=2 * client.seconds_for(0))


def _md5_of_body(request: dict[str, Any]) -> str:
    body = request["body"]
    data = body if isinstance(body, bytes) else str(body).encode()
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


async def in_parallel(
    items: AsyncIterator[list[T]], work: Callable[[T], Awaitable[R]]
) -> AsyncIterator[tuple[T, R]]:
    """``work`` of every item of every page, eight at a time, in their order. Leaving early cancels
    what is under way.
    """
    flying: list[tuple[T, asyncio.Task[R]]] = []
    try:
        async for page in items:
            for item in page:
                if len(flying) >= WINDOW:
                    first, task = flying[0]
                    result = await task
                    flying.pop(0)
                    yield first, result
                flying.append((item, asyncio.ensure_future(work(item))))
        while flying:
            first, task = flying[0]
            result = await task
            flying.pop(0)
            yield first, result
    finally:
        for _, task in flying:
            task.cancel()
        await asyncio.gather(*(task for _, task in flying), return_exceptions=True)


def lifecycle_rules(
    existing: list[dict[str, Any]], prefix: str, days: int
) -> list[dict[str, Any]] | None:
    """The rules of a bucket with ours for a prefix; ``None`` if it is there as it should be.
    Everybody else's stay as they are.
    """
    ours = {
        "ID": f"cogcache {prefix}"[:255],
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "Expiration": {"Days": days},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    others = [rule for rule in existing if rule.get("ID") != ours["ID"]]
    mine = [rule for rule in existing if rule.get("ID") == ours["ID"]]
    if len(mine) == 1 and all(mine[0].get(name) == value for name, value in ours.items()):
        return None
    return [*others, ours]


def ensure_lifecycle(client: S3Client, call: Call, prefix: str, days: int) -> None:
    """Have the store delete objects under a prefix so many days after they were written, and parts
    of abandoned uploads after one. Blocks.

    Raises:
        RemoteError: The store has no lifecycle rules, or does not let us change them.
    """
    existing: list[dict[str, Any]] = []
    try:
        answer = client.send(call, client.small, "get_bucket_lifecycle_configuration")
        existing += answer.get("Rules") or ()
    except AbsentError:
        pass
    rules = lifecycle_rules(existing, prefix, days)
    if rules is not None:
        client.send(
            call,
            client.small,
            "put_bucket_lifecycle_configuration",
            LifecycleConfiguration={"Rules": rules},
        )
