"""End with a write that never ends. Arguments: directory, what to do."""

import asyncio
import atexit
import os
import sys

from cogcache import _bridge, _core
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.config import FilesystemCacheConfig

tier = FilesystemCacheBackend(FilesystemCacheConfig(sys.argv[1]))


async def leave() -> None:
    """Return while a set is under way: the loop ends, the set is cancelled."""
    asyncio.ensure_future(tier.set("key", b"x" * 100_000))  # noqa: RUF006
    while not os.path.exists(os.environ["SLOW_IO_HELD"]):
        await asyncio.sleep(0.01)


async def wait() -> None:
    await tier.set("key", b"x" * 100_000)


async def forget() -> None:
    """Return while a write that nobody waits for is under way."""
    draft = tier.draft(_core.raw_key("key"), b"x" * 100_000, ttl_ms=None)
    _bridge.start(tier._store, "put", draft)


if sys.argv[2] == "wait":
    _bridge.EXIT_SECONDS = 3600.0  # only Ctrl-C can end it
    atexit.register(print, "exiting", flush=True)  # runs before the drain
    print("running", flush=True)
try:
    asyncio.run({"leave": leave, "wait": wait, "forget": forget}[sys.argv[2]](), debug=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
