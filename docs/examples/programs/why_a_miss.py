"""In a notebook one has a path, and asks: why is this not there, and what is?"""

import asyncio
import sys

from cogcache import PipelineArtifactCache


async def main(directory: str, video_path: str) -> None:
    async with PipelineArtifactCache.open(directory) as cache:
        video = await cache.video(video_path)
        await video.set_descriptions({"0": "a dog"}, model_name="vlm-7b", prompt="Describe.")

        # One word of the prompt is another: a miss, and the explanation names the difference.
        print(await video.explain("descriptions", model_name="vlm-7b", prompt="Describe it."))

        # All that one model said, whatever the video and the prompt; nothing happens before delete.
        plan = await cache.cache.select(artifact="descriptions", params={"model_name": "vlm-7b"})
        print(plan)
        print("deleted:", await plan.delete())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
