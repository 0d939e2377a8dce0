"""Eight tasks, one GPU: whoever waits for it looks into the cache again before it computes."""

import asyncio
import sys

from cogcache import PipelineArtifactCache

calls = 0


async def describe(video_path: str) -> dict[str, str]:
    """Stands for a vision model that fills the GPU."""
    global calls
    calls += 1
    await asyncio.sleep(0.01)
    return {"0": f"what is to be seen in {video_path}"}


async def main(directory: str, videos: list[str]) -> None:
    gpu = asyncio.Semaphore(1)
    async with PipelineArtifactCache.open(directory) as cache:

        async def work(path: str) -> dict[str, str]:
            # Only the task that computes enters the gate; waiting for it is no cost of the value.
            return await cache.get_or_compute_descriptions(
                path, lambda: describe(path), model_name="vlm-7b", gate=gpu
            )

        texts = await asyncio.gather(*(work(path) for path in videos for _ in range(4)))
    print(f"{len(texts)} answers, {calls} computed")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
