"""Put entries behind until killed, again and again.

Arguments: a directory, the configuration of an S3 tier as JSON, how often, a seed. Prints, as JSON,
the numbers of the puts that were acknowledged. Each round is a fork that is killed after a few
acknowledgements, at a moment that nobody chose, and often with puts and uploads under way.
"""

import asyncio
import json
import os
import random
import signal
import sys

import boto3  # noqa: F401 - loaded once, for every fork

from cogcache import CacheManager
from cogcache.backends.s3.tier import S3Backend  # noqa: F401

AT_ONCE = 4


def value_of(number: int) -> list[object]:
    """What is put under ``f"key:{number}"``."""
    return [number, random.Random(number).randbytes(200 + number * 37 % 30_000)]


async def put_for_ever(manager: CacheManager, first: int, into: int) -> None:
    async def put(start: int) -> None:
        number = start
        while True:
            stored = await manager.store(f"key:{number}", value_of(number))
            if stored.later:
                os.write(into, b"%d\n" % number)  # one write: whole or not at all
            number += AT_ONCE

    await asyncio.gather(*(put(first + start) for start in range(AT_ONCE)))


def main() -> None:
    path, tier, rounds, seed = sys.argv[1:]
    config = {
        "backends": [
            {"backend_type": "filesystem", "base_path": path, "max_size_mb": 100},
            {"backend_type": "s3", "write_mode": "behind", "priority": 1, **json.loads(tier)},
        ]
    }
    dice = random.Random(int(seed))
    acknowledged: list[int] = []
    for round_ in range(int(rounds)):
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(out)
            asyncio.run(put_for_ever(CacheManager(config), round_ * 100_000, into))
        os.close(into)
        with os.fdopen(out, "rb") as acks:
            for _ in range(dice.choice((0, 1, 1, 2, 5, 10, 20))):
                acknowledged.append(int(acks.readline()))
            for _ in range(dice.randrange(20_000)):
                pass
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            acknowledged += [int(line) for line in acks]
    print(json.dumps(acknowledged))


if __name__ == "__main__":
    main()
