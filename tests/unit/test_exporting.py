"""Single keyframes, and keyframes as files."""

from __future__ import annotations

import functools
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogcache import Keyframes, PipelineArtifactCache


@functools.cache
def jpeg(number: int) -> bytes:
    """A small picture that is another for every number."""
    file = io.BytesIO()
    Image.new("RGB", (16, 8), (number % 256, 90, 200)).save(file, "jpeg")
    return file.getvalue()


def live_metadata(folder: Path, ids: list[Any]) -> dict[str, Any]:
    """As an extractor gives it: the list twice, and the paths of its own directory."""
    frames = [
        {
            "frame_id": n,
            "timestamp": 0.5 * i,
            "filename": f"f{n}.jpg",
            "path": str(folder / f"f{n}.jpg"),
        }
        for i, n in enumerate(ids)
    ]
    return {
        "video_id": "v",
        "keyframes": frames,
        "metadata": {"keyframes": [dict(frame) for frame in frames], "total": len(ids)},
        "keyframes_dir": str(folder),
        "best": str(folder / f"f{ids[0]}.jpg"),
        "source_path": "/videos/v.mp4",
    }


async def test_the_files_are_the_stored_bytes_and_every_copy_of_a_path_leads_to_them(
    cache: PipelineArtifactCache, video: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "first-run"
    pictures = {n: jpeg(n) for n in (3, 7, 120)}
    await cache.set_keyframes(video, live_metadata(gone, [3, 7, 120]), pictures)
    place = tmp_path / "here" / "deep"

    metadata = await cache.export_keyframes(video, place)

    assert sorted(os.listdir(place)) == ["120.jpg", "3.jpg", "7.jpg"]
    for frames in (metadata["keyframes"], metadata["metadata"]["keyframes"]):
        for frame in frames:
            assert Path(frame["path"]).read_bytes() == pictures[frame["frame_id"]]
            assert frame["filename"] == f"{frame['frame_id']}.jpg"
    assert metadata["keyframes_dir"] == str(place)
    assert metadata["best"] == str(place / "3.jpg")
    assert metadata["source_path"] == "/videos/v.mp4"
    assert str(gone) not in repr(metadata)
    stored = await cache.get_keyframes(video)
    assert stored == live_metadata(gone, [3, 7, 120])  # what is kept does not change


async def test_a_list_without_ids_or_paths_gets_them(
    cache: PipelineArtifactCache, video: Path, tmp_path: Path
) -> None:
    await cache.set_keyframes(video, [{"timestamp": 0.0}, {"timestamp": 1.0}], [jpeg(0), jpeg(1)])
    metadata = await cache.export_keyframes(
        video, tmp_path / "out", pattern="f_{frame_id:04}{suffix}"
    )
    assert [frame["path"] for frame in metadata] == [
        str(tmp_path / "out" / name) for name in ("f_0000.jpg", "f_0001.jpg")
    ]


async def test_the_suffix_is_what_a_frame_is_stored_as(
    cache: PipelineArtifactCache, video: Path, tmp_path: Path
) -> None:
    alpha = Image.new("RGBA", (8, 8), (1, 2, 3, 4))
    images = {"a": jpeg(1), "b": alpha, "c": np.zeros((8, 8, 3), np.uint8)}
    await cache.set_keyframes(video, {"keyframes": [{"frame_id": n} for n in images]}, images)
    await cache.export_keyframes(video, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["a.jpg", "b.png", "c.jpg"]
    assert Image.open(tmp_path / "out" / "b.png").getpixel((0, 0)) == (1, 2, 3, 4)


async def test_other_keyframes_and_those_of_a_configuration(
    cache: PipelineArtifactCache, video: Path, tmp_path: Path
) -> None:
    await cache.set_keyframes(video, [{"frame_id": 1}], [jpeg(1)], strategy="fps", fps=2.0)
    assert await cache.export_keyframes(video, tmp_path / "none") is None
    assert not (tmp_path / "none").exists()
    found = await cache.export_keyframes(video, tmp_path / "a", keyframes=Keyframes("fps", fps=2.0))
    assert len(found) == 1
    bound = await cache.video(video, {"keyframe_strategy": "fps", "keyframe_fps": 2.0})
    assert await bound.export_keyframes(tmp_path / "b") is not None
    assert await bound.get_frame(1) == jpeg(1)
    assert await bound.get_frame(1, keyframes=Keyframes()) is None


async def test_files_of_the_same_names_are_replaced_and_others_stay(
    cache: PipelineArtifactCache, video: Path, tmp_path: Path
) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "1.jpg").write_bytes(b"old")
    (place / "other.txt").write_bytes(b"mine")
    await cache.set_keyframes(video, [{"frame_id": 1}], [jpeg(1)])
    await cache.export_keyframes(video, place)
    assert (place / "1.jpg").read_bytes() == jpeg(1)
    assert sorted(os.listdir(place)) == ["1.jpg", "other.txt"]


async def test_no_name_leads_out_of_the_directory(
    cache: PipelineArtifactCache, video: Path, tmp_path: Path
) -> None:
    for frame_id in ("../../evil", "a/b", "nul\0"):
        await cache.set_keyframes(video, [{"frame_id": frame_id}], {frame_id: jpeg(1)})
        with pytest.raises(ValueError, match="is no name of a file"):
            await cache.export_keyframes(video, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    await cache.set_keyframes(video, [{"frame_id": 1}, {"frame_id": 2}], [jpeg(1), jpeg(2)])
    for pattern, error, words in (
        ("same.jpg", ValueError, "both named"),
        ("{frame_id}/{suffix}", ValueError, "no name of a file"),
        ("{video}", ValueError, "video"),
        ("{frame_id.__class__}", ValueError, "is unknown"),
        ("{", ValueError, "pattern '{'"),
        ("{frame_id:>9999999999}", ValueError, "is no width"),
        ("{frame_id:{frame_id}}", ValueError, "is no width"),
        ("", ValueError, "no name of a file"),
        (3, TypeError, "pattern"),
    ):
        with pytest.raises(error) as raised:
            await cache.export_keyframes(video, tmp_path / "out", pattern=pattern)  # type: ignore[arg-type]
        assert words in str(raised.value)
        assert not (tmp_path / "out").exists()
    with pytest.raises(TypeError, match="keyframes must be"):
        await cache.export_keyframes(video, tmp_path / "out", keyframes="fps")  # type: ignore[arg-type]


async def test_what_is_no_picture_file_is_not_written_as_one(
    cache: PipelineArtifactCache, video: Path, tmp_path: Path
) -> None:
    await cache.set_keyframes(video, [{"frame_id": 1}], [np.zeros((4, 4), np.float32)])
    with pytest.raises(ValueError, match="no picture file"):
        await cache.export_keyframes(video, tmp_path / "out")


async def test_a_directory_that_cannot_be_is_the_callers_to_know(
    cache: PipelineArtifactCache, video: Path, tmp_path: Path
) -> None:
    await cache.set_keyframes(video, [{"frame_id": 1}], [jpeg(1)])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        await cache.export_keyframes(video, tmp_path / "file" / "out")


async def test_one_frame_comes_alone(cache: PipelineArtifactCache, video: Path) -> None:
    frames = {n: jpeg(n) for n in range(20)}
    await cache.set_keyframes(video, [{"frame_id": n} for n in frames], frames)
    assert await cache.get_frame(video, 7) == frames[7]
    assert await cache.get_frame(video, "7") == frames[7]
    assert await cache.get_frame(video, 99) is None
    assert await cache.get_frame(video.with_name("other.mp4"), 7) is None
    assert await cache.get_frame(video, 7, keyframes=Keyframes("fps")) is None
    decoded = await cache.get_frame(video, 7, decode=True)
    flipped = await cache.get_frame(video, 7, decode=True, channels="rgb")
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, flipped[..., ::-1])
    with pytest.raises(ValueError, match="channels"):
        await cache.get_frame(video, 7, channels="hsv")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await cache.get_frame(video, 7, decode="yes")  # type: ignore[arg-type]


def test_both_work_through_the_blocking_face(video: Path, tmp_path: Path) -> None:
    cache = PipelineArtifactCache.open(tmp_path / "c").sync
    cache.set_keyframes(video, [{"frame_id": 1}], [jpeg(1)])
    assert cache.get_frame(video, 1) == jpeg(1)
    assert cache.video(video).get_frame(1, decode=True).shape[-1] == 3
    assert cache.export_keyframes(video, tmp_path / "out")[0]["path"] == str(tmp_path / "out/1.jpg")
    cache.aclose()
