"""A pod with a disk of its own and a bucket for all: what one pod computed the next one finds.

python pod.py DIRECTORY s3://BUCKET/PREFIX?endpoint_url=... VIDEO
"""

import asyncio
import sys

from cogcache import PipelineArtifactCache


async def main(directory: str, bucket: str, video_path: str) -> None:
    # Downloads of one video differ in path and time: only its bytes make it the same.
    async with PipelineArtifactCache.open(directory, bucket, identity="content") as cache:
        video = await cache.video(video_path)
        transcript = await video.get_or_compute_transcript(lambda: transcribe(video_path))
        print(transcript["full_text"])
        left = await cache.cache.flush(30)  # what is still on its way to the bucket
        print("waiting to be sent:", left)


def transcribe(path: str) -> dict[str, object]:
    print("computed", path, flush=True)
    return {"full_text": "what was said", "segments": []}


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
