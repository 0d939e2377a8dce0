"""The example's real stages on small videos made here: OpenCV, PocketSphinx and MiniLM themselves.

They need what ``make demo`` installs. Where that is missing these tests are reported as not run;
``.ci/run`` runs them after ``make demo``.
"""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the example itself does
pytestmark = pytest.mark.timeout(600)  # models, on machines that may be busy

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "docs" / "examples"))

av = pytest.importorskip("av", reason="run `make demo` first: it installs the example's packages")
cv2 = pytest.importorskip("cv2", reason="run `make demo` first")
for needed in ("pocketsphinx", "safetensors", "tokenizers"):
    pytest.importorskip(needed, reason="run `make demo` first")

from ingest import media, stages  # noqa: E402
from ingest.files import NotAVideoError  # noqa: E402
from ingest.minilm import MiniLM  # noqa: E402

SPEECH = TOP / ".demo" / "speech"
SPOKEN = (
    "and mister john dashwood had then leisure to consider how much there might be prudently in "
    "his power to do for them he was not an ill disposed young man unless to be rather cold "
    "hearted and rather selfish is to be ill disposed he might even have been made amiable himself"
)


JPEG = bytes(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1])


def quiet(done: int, total: int) -> None:
    """Nobody looks at the progress."""


def write_video(path: Path, images: list[np.ndarray], *, fps: int = 10) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        out.mux(stream.encode(None))
    return path


def write_sound(path: Path, seconds: int) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16_000)
        stream.codec_context.layout = "mono"
        samples = np.zeros((1, 1024), np.int16)
        for number in range(seconds * 16):
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = 16_000, number * 1024, Fraction(1, 16_000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = np.zeros((120, 160, 3), np.uint8)
    image[:, :80] = (40, 40, 200)
    return write_video(tmp_path_factory.mktemp("static") / "static.mp4", [image] * 30)


def test_a_camera_that_sees_nothing_move_gives_one_keyframe(static: Path) -> None:
    metadata, pictures = stages.extract_keyframes(static, progress=quiet, threshold=0.999)
    assert [k["frame_id"] for k in metadata["keyframes"]] == [0]
    assert list(pictures) == ["0"]
    assert pictures["0"].startswith(b"\xff\xd8\xff")


def test_keyframes_by_time_are_as_many_as_the_seconds_say(static: Path) -> None:
    metadata, pictures = stages.extract_keyframes(static, progress=quiet, fps=2)
    assert [k["timestamp"] for k in metadata["keyframes"]] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert len(pictures) == 6


def test_keyframes_end_at_the_limit(static: Path) -> None:
    metadata, _ = stages.extract_keyframes(static, progress=quiet, fps=10, max_frames=4)
    assert len(metadata["keyframes"]) == 4


def test_a_video_without_sound_has_an_empty_transcript(static: Path) -> None:
    assert not media.probe(static).has_sound
    transcript = stages.transcribe(static, progress=quiet)
    assert (transcript["segments"], transcript["full_text"]) == ([], "")
    assert "error" not in transcript


def test_silence_has_an_empty_transcript(tmp_path: Path) -> None:
    silent = write_sound(tmp_path / "silence.m4a", 2)
    assert stages.transcribe(silent, progress=quiet)["segments"] == []


def test_a_description_says_what_was_measured(static: Path) -> None:
    metadata, pictures = stages.extract_keyframes(static, progress=quiet, threshold=0.999)
    told = stages.describe(metadata, pictures, progress=quiet)
    assert list(told["descriptions"]) == ["0"]
    assert "red 5" in told["descriptions"]["0"]
    assert "black 5" in told["descriptions"]["0"]
    assert "face" not in told["descriptions"]["0"]


def test_embeddings_without_any_text_are_empty() -> None:
    embedded = stages.embed({"descriptions": {}}, {"segments": []}, progress=quiet)
    assert embedded["vectors"].shape == (0, 384)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.txt", b"this is not a video, it is a text\n" * 50, "text file"),
        ("photo.jpg", JPEG, "still picture"),
        ("photo.bin", JPEG, "still picture"),
        ("cut.mp4", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "not a video"),
        ("noise.mp4", bytes(range(256)) * 64, "not a video"),
    ],
)
def test_what_is_not_a_video_is_said(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(NotAVideoError, match=says):
        media.probe(path)


def test_sound_alone_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotAVideoError, match="sound only"):
        media.probe(write_sound(tmp_path / "sound.m4a", 1))


def test_a_video_of_which_nothing_can_be_decoded_is_said(static: Path, tmp_path: Path) -> None:
    data = bytearray(static.read_bytes())
    start = data.find(b"mdat") + 4
    end = data.find(b"moov")
    assert 4 < start < end
    data[start : end - 4] = bytes(end - 4 - start)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    with pytest.raises(NotAVideoError, match="not one picture"):
        stages.extract_keyframes(broken, progress=quiet, threshold=0.999)


def test_the_demonstration_video_is_the_same_bytes_whenever_it_is_built(tmp_path: Path) -> None:
    first = media.demo_video(tmp_path / "a", SPEECH)
    again = media.demo_video(tmp_path / "b", SPEECH)
    assert first.read_bytes() == again.read_bytes()
    about = media.probe(first)
    assert (about.width, about.height, about.fps, about.has_sound) == (640, 360, 25, True)


def test_the_transcript_is_as_good_as_the_example_says(tmp_path: Path) -> None:
    video = media.demo_video(TOP / ".demo", SPEECH)
    transcript = stages.transcribe(video, progress=quiet)
    assert len(transcript["segments"]) == 4
    wrong = word_errors(SPOKEN.split(), transcript["full_text"].split())
    assert 0.15 < wrong / len(SPOKEN.split()) < 0.35  # "about one word in four"


def word_errors(spoken: list[str], heard: list[str]) -> int:
    row = list(range(len(heard) + 1))
    for number, word in enumerate(spoken, start=1):
        before, row[0] = row[0], number
        for at, other in enumerate(heard, start=1):
            before, row[at] = (
                row[at],
                min(row[at] + 1, row[at - 1] + 1, before + (word != other)),
            )
    return row[-1]


def test_vectors_are_those_of_the_reference_implementation() -> None:
    vectors = MiniLM().encode(
        [
            "That is a happy person",
            "That is a happy dog",
            "That is a very happy person",
            "Today is a sunny day",
        ]
    )
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.allclose(vectors @ vectors[0], [1, 0.69457734, 0.9429152, 0.25687617], atol=2e-6)


def test_vectors_do_not_depend_on_the_company_of_a_text() -> None:
    model = MiniLM()
    texts = [f"frame {n} " + "with a long description " * n for n in range(20)]
    together = model.encode(texts)
    for n in (0, 7, 19):
        assert np.allclose(together[n], model.encode([texts[n]])[0], atol=1e-5)
