"""What a caller of the cache is promised about values, on every tier: cold as warm, mine as
mine."""

import dataclasses
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from PIL import Image
from support_cache import a_video, filesystem_cache

from cogcache import CogcacheWarning, PipelineArtifactCache, ValueTypeError, codecs, register_type
from cogcache.manager import CacheManager
from cogcache.testing import memory_cache


@pytest.fixture(params=["memory", "filesystem"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> PipelineArtifactCache:
    return memory_cache() if request.param == "memory" else filesystem_cache(tmp_path / "cache")


@pytest.fixture
def cache(artifacts: PipelineArtifactCache) -> CacheManager:
    return artifacts.cache


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return a_video(tmp_path / "v.mp4")


@dataclasses.dataclass
class Transcript:
    text: str


async def test_the_argument_is_the_callers_again_after_set(cache: CacheManager):
    value = {"list": [1], "large": bytearray(100_000), "array": np.zeros(100_000)}
    assert await cache.set("k", value)
    value["list"].append(2)
    value["large"][:] = b"x" * 100_000
    value["large"].clear()  # not borrowed any more
    value["array"][:] = 1
    found = await cache.get("k")
    assert found["list"] == [1]
    assert found["large"] == bytearray(100_000)
    assert not found["array"].any()


async def test_a_hit_changed_by_its_owner_changes_no_other(cache: CacheManager):
    await cache.set("k", {"list": [1], "array": np.zeros(100_000), "raw": bytearray(9000)})
    first = await cache.get("k")
    first["list"].append(2)
    first["array"] += 1
    first["raw"][:] = b"x" * 9000
    for _ in range(2):
        again = await cache.get("k")
        assert again["list"] == [1]
        assert not again["array"].any()
        assert again["raw"] == bytearray(9000)


async def test_normalising_in_place_works_warm_as_cold(cache: CacheManager):
    async def embed() -> Any:
        return np.full((300, 768), 4.0, "f4")

    for _ in range(3):  # computed, then twice a hit
        embeddings = await cache.get_or_compute("e", embed)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        assert np.allclose(np.linalg.norm(embeddings, axis=1), 1)


async def test_the_first_caller_gets_the_types_that_every_later_one_gets(cache: CacheManager):
    codecs._warned.clear()

    class Words(list):  # type: ignore[type-arg]
        pass

    with pytest.warns(CogcacheWarning, match="Words is stored as list"):
        cold = await cache.get_or_compute("w", lambda: Words([1]))
    warm = await cache.get("w")
    assert cold == warm == [1]
    assert type(warm) is list


async def test_a_type_that_the_reader_lacks_is_a_miss_and_the_entry_stays(
    cache: CacheManager, monkeypatch: pytest.MonkeyPatch
):
    for table in ("_by_class", "_by_name"):
        monkeypatch.setattr(codecs, table, {})
    register_type(Transcript, name="t.Transcript", version=4)
    await cache.set("t", [Transcript("a")])
    known = dict(codecs._by_name)
    codecs._by_name.clear()
    assert await cache.get("t", "default") == "default"
    look = await cache.lookup("t")
    assert (look.hit, look.reason) == (False, "unknown-type")
    codecs._by_name.update(known)
    assert await cache.get("t") == [Transcript("a")]


WITHOUT_ML_DTYPES = """
import asyncio, sys
sys.modules["ml_dtypes"] = None  # as if it were not installed
from cogcache import PipelineArtifactCache

async def main():
    async with PipelineArtifactCache.open(sys.argv[1]) as artifacts:
        assert await artifacts.cache.get("b", "default") == "default"
        look = await artifacts.cache.lookup("b")
        assert (look.hit, look.reason) == (False, "missing-extra"), look

asyncio.run(main())
"""


async def test_bfloat16_without_its_package_is_a_miss_and_never_bare_integers(tmp_path: Path):
    array = np.arange(40_000).astype(ml_dtypes.bfloat16)
    async with PipelineArtifactCache.open(tmp_path) as artifacts:
        await artifacts.cache.set("b", {"patches": array})
        subprocess.run(
            [sys.executable, "-c", WITHOUT_ML_DTYPES, str(tmp_path)], check=True, timeout=300
        )
        found = (await artifacts.cache.get("b"))["patches"]
    assert found.dtype == ml_dtypes.bfloat16
    assert found.tobytes() == array.tobytes()


async def test_a_bad_type_never_costs_the_result(cache: CacheManager):
    result = {"model": object()}
    with pytest.raises(ValueTypeError) as caught:
        await cache.set("k", result)
    assert caught.value.path == "$.model"
    assert not await cache.exists("k")
    with pytest.warns(CogcacheWarning, match=r"\$\.model"):
        assert await cache.get_or_compute("k", lambda: result) is result
    assert cache.counters["unstorable"] == 1
    with pytest.raises(ValueTypeError):
        await cache.get_or_compute("k", lambda: result, strict=True)


async def test_a_picture_that_is_a_value_is_exact(cache: CacheManager):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), "u1")
    image = Image.fromarray(pixels)
    image.info["dpi"] = (72, 72)
    modes = ["RGB", "L", "RGBA", "P", "CMYK", "1", "YCbCr", "LA"]
    value = [image, *(image.convert(mode) for mode in modes)]
    await cache.set("i", value)
    found = await cache.get("i")
    assert found[0].info == {"dpi": (72, 72)}
    for here, there in zip(value, found, strict=True):
        assert (there.mode, there.size) == (here.mode, here.size)
        assert there.tobytes() == here.tobytes()
        assert there.getpalette() == here.getpalette()
        there.load()


async def test_frames_computed_are_the_frames_of_every_hit(
    artifacts: PipelineArtifactCache, video: Path
):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), "u1")

    async def extract() -> Any:
        return {"keyframes": [{"frame_id": 5}]}, {5: pixels}

    _, cold = await artifacts.get_or_compute("keyframes", video, extract, load_images=True)
    _, warm = await artifacts.get_keyframes(video, load_images=True)
    assert cold.encoded(5) == warm.encoded(5)
    assert cold.encoded(5)[:3] == b"\xff\xd8\xff"
    assert (cold[5] == warm[5]).all()
    assert (cold[5] != pixels).any()  # decoded from the JPEG, the first time too


async def test_another_image_codec_is_another_entry(artifacts: PipelineArtifactCache, video: Path):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), "u1")
    metadata = {"keyframes": [{"frame_id": 5}]}
    assert await artifacts.set_keyframes(video, metadata, {5: pixels}, image_codec="png")
    assert await artifacts.get_keyframes(video) is None
    _, frames = await artifacts.get_keyframes(video, load_images=True, image_codec="png")
    assert (frames[5] == pixels).all()


async def test_a_missing_frame_file_stores_nothing(
    artifacts: PipelineArtifactCache, video: Path, tmp_path: Path
):
    metadata = {"keyframes": [{"frame_id": 1}, {"frame_id": 2}]}
    (tmp_path / "1.jpg").write_bytes(b"\xff\xd8\xff")
    images = {1: tmp_path / "1.jpg", 2: tmp_path / "2.jpg"}
    with pytest.raises(FileNotFoundError, match="frame 2"):
        await artifacts.set_keyframes(video, metadata, images)
    assert await artifacts.get_keyframes(video) is None


async def test_paths_in_metadata_are_values(artifacts: PipelineArtifactCache, video: Path):
    metadata = {"keyframes": [{"frame_id": 1, "path": Path("/tmp/run/1.jpg")}], "video": video}
    assert await artifacts.set_keyframes(video, metadata)
    found = await artifacts.get_keyframes(video)
    assert found == metadata
    assert isinstance(found["keyframes"][0]["path"], Path)


async def test_opaque_bytes_of_a_picture_stay_untouched_as_a_value(cache: CacheManager):
    out = io.BytesIO()
    Image.new("RGB", (30, 30)).save(out, "JPEG")
    await cache.set("frame.jpg", out.getvalue())
    assert await cache.get("frame.jpg") == out.getvalue()
