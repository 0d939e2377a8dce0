"""Stream MEGABYTES through a manager into the tiers whose configurations are given as a JSON list,
and out again; print, as JSON, by how many kilobytes the process has grown at most on the way up and
down.
"""

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from stream_in_bounded_memory import peak_kb, source

from cogcache import CacheManager


async def size_and_digest(pieces: AsyncIterator[bytes]) -> tuple[int, bytes]:
    size, digest = 0, hashlib.blake2b()
    async for piece in pieces:
        size += len(piece)
        digest.update(piece)
    return size, digest.digest()


async def main(tiers: list[dict[str, object]], size: int) -> None:
    manager = CacheManager({"backends": tiers})
    await manager.put_stream("warm", source(40 << 20, hashlib.blake2b()))
    await size_and_digest(manager.get_stream("warm"))
    grown = []
    given = hashlib.blake2b()
    for way in ("up", "down"):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = peak_kb()
        if way == "up":
            result = await manager.put_stream("key", source(size, given))
            assert len(result.tiers) == len(tiers) and result.size == size, result
        else:
            got = await size_and_digest(manager.get_stream("key"))
            assert got == (size, given.digest())
        grown.append(peak_kb() - before)
    print(json.dumps(grown))
    await manager.aclose()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), int(sys.argv[2]) << 20))
