"""Use a cache whose index somebody cuts short, with maps that only a handler keeps alive.

Arguments: directory; when faulthandler is enabled: "before" or "after" the cache is opened, or
"never".
"""

import asyncio
import faulthandler
import os
import sys
from contextlib import aclosing
from pathlib import Path

from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.config import FilesystemCacheConfig

ROUNDS = 3
LENGTHS = [0, 4096, 13_000]


async def main(directory: str, when: str) -> None:
    if when == "before":
        faulthandler.enable()
    tier = FilesystemCacheBackend(FilesystemCacheConfig(directory, 100, touch_seconds=0))
    async with aclosing(tier):
        if when == "after":
            faulthandler.enable()
        index = Path(tier.root, "index")
        expected: dict[str, bytes] = {}
        for number in range(ROUNDS):
            expected |= {f"{number} {i}": os.urandom(3000) for i in range(20)}
            for key, value in expected.items():
                assert await tier.set(key, value)
            os.truncate(index, LENGTHS[number % len(LENGTHS)])
            for key, value in expected.items():
                assert await tier.get(key) == value
            assert await tier.delete(f"{number} 3")
            del expected[f"{number} 3"]
        assert await tier.set("last", b"last")
        stats = await tier.get_stats()
        assert stats["total_files"] == len(expected) + 1, stats
    print("done")


asyncio.run(main(sys.argv[1], sys.argv[2]))
