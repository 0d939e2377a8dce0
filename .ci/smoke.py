"""Use an installed cogcache for a moment, away from its source: does what was built work?

With ``--own-libraries`` it must have loaded the libzstd that its wheel brought, and no other.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import cogcache
from cogcache import PipelineArtifactCache, _core

HEAVY = {"numpy", "boto3", "PIL", "redis", "click", "rich"}


def check_libraries() -> None:
    """Every libzstd in this process is one beside the package; told by Linux only."""
    if not sys.platform.startswith("linux"):
        return
    site = Path(cogcache.__file__).parents[1]
    lines = Path("/proc/self/maps").read_text().splitlines()
    loaded = {Path(line.split()[-1]) for line in lines if "libzstd" in line}
    assert loaded, "no libzstd is loaded"
    assert all(path.is_relative_to(site) for path in loaded), f"not of the wheel: {loaded}"


async def main() -> None:
    assert not HEAVY & set(sys.modules), HEAVY & set(sys.modules)
    computed = []

    def transcribe() -> dict[str, object]:
        computed.append("transcript")
        return {"text": "word " * 10_000, "segments": [(0.0, 1.5, "word")]}

    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder, "clip.mp4")
        video.write_bytes(bytes(range(256)) * 4096)
        for _ in range(2):
            async with PipelineArtifactCache.open(Path(folder, "cache")) as cache:
                bound = await cache.video(video)
                transcript = await bound.get_or_compute_transcript(transcribe, language="en")
                assert transcript == transcribe()
        assert computed.count("transcript") == 3, "computed once, and twice by this script"
    if "--own-libraries" in sys.argv:
        check_libraries()
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"cogcache {cogcache.__version__} works on Python {version}: {_core.__file__}")


asyncio.run(main())
