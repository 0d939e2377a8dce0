"""Put one large value and go on for ever.

Arguments: the configuration of a manager as JSON, a key, the bytes of the value, its seed, and how:
``stream`` or ``store``.
"""

import asyncio
import json
import random
import sys

from cogcache import CacheManager


def value_of(size: int, seed: int) -> bytes:
    """What is put."""
    return random.Random(seed).randbytes(size)


async def main(config: str, key: str, size: str, seed: str, how: str) -> None:
    manager = CacheManager(json.loads(config))
    value = value_of(int(size), int(seed))
    if how == "stream":
        await manager.put_stream(
            key, (value[at : at + 999_999] for at in range(0, len(value), 999_999))
        )
    else:
        await manager.store(key, value)
    print("stored", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
