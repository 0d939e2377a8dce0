"""A process that puts 100 values behind to S3 and through to Redis, reads some, closes and ends.
Arguments: a directory, options of the S3 tier as JSON, the URL of Redis.
"""

import asyncio
import contextlib
import json
import sys

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    RedisCacheConfig,
    S3CacheConfig,
)


async def main() -> None:
    tiers = [
        FilesystemCacheConfig(sys.argv[1], max_size_mb=100),
        RedisCacheConfig(sys.argv[3], timeout_seconds=20),
        S3CacheConfig(**json.loads(sys.argv[2]), priority=2, write_mode="behind"),
    ]
    async with CacheManager(CacheConfig(tiers)) as manager:
        later = [(await manager.store(f"k{n}", f"value {n}" * 5000)).later for n in range(100)]
        assert await manager.get("absent") is None
        with contextlib.suppress(KeyError):
            await anext(manager.get_stream("absent"))
    print(json.dumps(later))


asyncio.run(main(), debug=True)
