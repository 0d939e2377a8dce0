"""Carry what one site computed to another, where the same videos lie under other paths."""

import asyncio
import sys

from cogcache import PipelineArtifactCache


async def send(directory: str, archive: str) -> None:
    async with PipelineArtifactCache.open(directory) as cache:
        plan = await cache.cache.select(artifact="transcript")
        print(await cache.cache.export_archive(archive, plan))


async def receive(directory: str, archive: str, old: str, new: str) -> None:
    async with PipelineArtifactCache.open(directory) as cache:
        # A plain tar, from anybody: each entry is verified, and no name in it is trusted.
        print(await cache.cache.import_archive(archive, rekey={old: new}))


if __name__ == "__main__":
    asyncio.run(send(*sys.argv[2:]) if sys.argv[1] == "send" else receive(*sys.argv[2:]))
