"""Write values that say which they are, until killed. Argument: directory."""

import asyncio
import itertools
import sys

from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.config import FilesystemCacheConfig


async def main() -> None:
    tier = FilesystemCacheBackend(FilesystemCacheConfig(sys.argv[1], max_size_mb=60))
    for number in itertools.count():
        await asyncio.gather(
            *(
                tier.set(f"key {which}", [which, number, bytes([which]) * (which * 40_000)])
                for which in range(8)
            )
        )
        print(number, flush=True)


asyncio.run(main())
