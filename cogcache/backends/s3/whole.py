"""Writing an object in one request, until it is known whose is there."""

from __future__ import annotations

from cogcache.backends.faults import MisconfiguredError, NotAskedError, UnavailableError
from cogcache.backends.lanes import Call
from cogcache.backends.s3.client import S3Client
from cogcache.backends.s3.late import LateWrites
from cogcache.backends.s3.payload import Payload
from cogcache.backends.s3.probe import Abilities
from cogcache.backends.s3.upload import Writes

__all__ = ["put_whole"]


async def put_whole(
    client: S3Client,
    writes: Writes,
    late: LateWrites,
    name: str,
    body: Payload,
    token: str,
    can: Abilities,
    *,
    once: bool,
) -> bool:
    """``Writes.put`` in the lane of its size, within the deadline of its size.

    Raises:
        RemoteError: It was not written, or the store does not say.
    """
    size = len(body)
    lane = client.lane_for(size)

    def put(call: Call) -> bool:
        with late.of(name, call):
            return writes.put(call, lane, name, body, token, can, once=once)

    def whose(call: Call) -> bool | None:
        return writes.whose(call, name, token, size)

    try:
        return await lane.run(put, seconds=client.seconds_for(size))
    except (NotAskedError, MisconfiguredError):
        raise
    except UnavailableError:
        # It may have been written all the same: the answer may be all that was lost. And what may
        # only create has nothing to do where another process has created.
        ours = await client.small.run(whose, seconds=client.seconds_for(0))
        if ours or (ours is not None and once and can.create_once):
            return ours
        raise
