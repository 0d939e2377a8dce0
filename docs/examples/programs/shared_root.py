"""A task of a large job: one directory for the whole team, each value computed by one of them."""

import asyncio
import sys
import time
from functools import partial

from cogcache import FilesystemCacheConfig, PipelineArtifactCache


def transcribe(video_path: str) -> dict[str, object]:
    print("computed", video_path, flush=True)
    time.sleep(0.05)
    return {"full_text": f"heard in {video_path}", "segments": []}


async def main(directory: str, videos: list[str]) -> None:
    tier = FilesystemCacheConfig(directory, shared="group", single_flight="host")
    async with PipelineArtifactCache.open(tier, identity="content") as cache:
        for path in videos:
            video = await cache.video(path)
            transcript = await video.get_or_compute_transcript(partial(transcribe, path))
            assert transcript["segments"] == []
    print("done", len(videos))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
