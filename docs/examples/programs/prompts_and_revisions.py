"""Prompts, weights and parameters of your own are part of what a result was made from."""

import asyncio
import sys

from cogcache import PipelineArtifactCache, file_digest


async def main(directory: str, video_path: str, weights: str) -> None:
    async with PipelineArtifactCache.open(directory) as cache:
        video = await cache.video(video_path)
        for prompt in ("Describe the picture.", "Name what is in the picture."):
            texts = await video.get_or_compute_descriptions(
                lambda prompt=prompt: {"0": f"the answer to: {prompt}"},
                model_name="vlm-7b",
                revision=file_digest(weights),  # other weights, other results
                prompt=prompt,
                params={"temperature": 0.2, "adapter": "sports"},
            )
            print(texts["0"])
        try:
            await video.lookup("descriptions", model_name="vlm-7b", promt="Describe the picture.")
        except TypeError as error:  # a wrong name is never a silent miss
            print(error)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
