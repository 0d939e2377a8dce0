"""Three hours of video: a run that was killed goes on where it was, batch by batch."""

import asyncio
import os
import sys
from functools import partial

from cogcache import PipelineArtifactCache

PICTURES = [b"\xff\xd8\xff first", b"\xff\xd8\xff second"]  # of each segment, as JPEG
die_at = int(os.environ.get("DIE_AT", "0"))
described = 0


def extract(start: float) -> tuple[dict[str, list[float]], list[bytes]]:
    return {"timestamps": [start, start + 15.0]}, PICTURES


async def describe(ids: list[int]) -> dict[int, str]:
    global described
    described += len(ids)
    if described == die_at:
        os._exit(9)  # the machine was taken away
    return {one: f"frame {one}" for one in ids}


async def main(directory: str, path: str) -> None:
    async with PipelineArtifactCache.open(directory) as cache:
        video = await cache.video(path)  # one look at the file for all that follows
        for number, start in enumerate(range(0, 3 * 3600, 30)):
            where = {"segment_id": number, "start_time": start, "end_time": start + 30}
            await video.get_or_compute_segment_frames(partial(extract, start), **where)
        texts = await video.get_or_compute_batched(
            "descriptions", range(720), describe, batch_size=90, model_name="vlm-7b"
        )
        print(f"{len(texts)} described, {described} of them now")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
