"""Work for a while in every way, and count what is left over. Argument: directory."""

import asyncio
import gc
import os
import resource
import sys

from cogcache import _bridge, _core
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.config import FilesystemCacheConfig

KEY = _core.raw_key("large")


async def work(tier: FilesystemCacheBackend, rounds: int) -> None:
    large = os.urandom(600_000)
    for number in range(rounds):
        assert await tier.set("large", large)
        assert await tier.set("small", {"number": number, "text": ["t"] * 100})
        assert await tier.get("large") == large
        assert (await tier.get("small"))["number"] == number
        tier.get_inline(_core.raw_key("small"), None, None)
        tier.get_many_inline([_core.raw_key("small"), KEY] * 3, None, None)
        entry = await tier.fetch(KEY)
        assert not isinstance(entry, str)
        assert await tier.read_part(entry, 0, 10, 20) == large[10:20]
        await _bridge.run(entry, "verify")
        cancelled = [asyncio.ensure_future(tier.get("large")) for _ in range(4)]
        await asyncio.sleep(0)
        for one in cancelled:
            one.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        await tier.invalidate_tags([f"tag {number % 5}"])
        assert len(await tier.list_keys()) == 2
        await tier.get_stats()
        assert await tier.delete("small")


def measure() -> tuple[int, int, int]:
    _core.drain_pool(60)
    gc.collect()
    blocks = sys.getallocatedblocks()
    return (
        blocks,
        len(os.listdir("/proc/self/fd")),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )


def main() -> None:
    tier = FilesystemCacheBackend(FilesystemCacheConfig(sys.argv[1], cleanup_on_startup=False))
    asyncio.run(work(tier, 30))
    before = measure()
    for _ in range(4):
        asyncio.run(work(tier, 30))
    after = measure()
    print(*(now - then for then, now in zip(before, after, strict=True)))


main()
