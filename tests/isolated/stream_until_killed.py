"""Put streams until killed, again and again.

Arguments: the configuration of a manager as JSON, the bytes of a value, how often, a seed. Prints,
as JSON, the number of the last put that was acknowledged. Each round is a fork that is killed when
its source has given so many pieces, anywhere in the first two values of the round; it runs on until
the kill comes, so nobody chooses the moment. In one more round the source stops in the middle of a
value and waits for the kill, so that some put has surely been broken off.
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


async def put_for_ever(config: str, first: int, size: int, into: int, stop: int) -> None:
    manager = CacheManager(json.loads(config))
    number = first

    async def source(value: bytes) -> AsyncIterator[bytes]:
        for at in range(0, size, PIECE):
            if at == stop:
                while any(task.get_name() == "cogcache-stream" for task in asyncio.all_tasks()):
                    await asyncio.sleep(0)  # until the tiers have what was given so far
                os.write(into, b".")
                await asyncio.Event().wait()
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
    for round_ in range(rounds + 1):
        count, stop = dice.randrange(2 * pieces + 2), size
        if round_ == rounds:
            count, stop = pieces, (pieces - 1) * PIECE
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(out)
            asyncio.run(put_for_ever(config, first, size, into, stop))
        os.close(into)
        done = 0
        with os.fdopen(out, "rb", buffering=0) as told:
            for _ in range(count):
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
