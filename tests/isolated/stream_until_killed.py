"""Put streams until killed, again and again.

Arguments: the configuration of a manager as JSON, the bytes of a value, how often, a seed. Prints,
as JSON, the number of the last put that was acknowledged. Each round is a fork that is killed when
its source has given so many pieces, anywhere in the first two values of the round.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator

import boto3  # noqa: F401 - loaded once, for every fork
import redis.asyncio  # noqa: F401

from cogcache import CacheManager

PIECE = 250_000


def value_of(number: int, size: int) -> bytes:
    """What put ``number`` puts under ``"key"``: begins with its number."""
    return number.to_bytes(8, "big") + random.Random(number).randbytes(size - 8)


async def put_for_ever(config: str, first: int, size: int, into: int) -> None:
    manager = CacheManager(json.loads(config))
    number = first

    async def source(value: bytes) -> AsyncIterator[bytes]:
        for at in range(0, size, PIECE):
            os.write(into, b".")
            yield value[at : at + PIECE]

    while True:
        result = await manager.put_stream("key", source(value_of(number, size)))
        assert result.stored and not result.refused, result
        os.write(into, b"!")
        number += 1


def main() -> None:
    config, size, rounds, seed = sys.argv[1], *map(int, sys.argv[2:])
    dice = random.Random(seed)
    pieces = -(-size // PIECE)
    first, acknowledged = 1, 0
    for _ in range(rounds):
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(out)
            asyncio.run(put_for_ever(config, first, size, into))
        os.close(into)
        done = 0
        with os.fdopen(out, "rb", buffering=0) as told:
            for _ in range(dice.randrange(2 * pieces + 2)):
                said = told.read(1)
                assert said, "the round ended by itself"
                done += said == b"!"
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            done += told.readall().count(b"!")
        if done:
            acknowledged = first + done - 1
        first += done + 1  # one may have been stored and not acknowledged
    print(json.dumps(acknowledged))


if __name__ == "__main__":
    main()
