"""The pipeline itself: four expensive stages that know nothing of a cache.

Each is an ordinary blocking function: from inputs to a result, with a ``progress`` callback on the
way. An exception from the callback ends the stage, which is how Ctrl-C reaches a running one.

What is honest to say of the results: keyframes and embeddings are what everybody computes. The
transcript is by a small recogniser from 2015 and gets about one word in four wrong. The
descriptions are **measurements put into sentences** (light, colours, sharpness, faces, motion),
not the work of a vision model; hence the name of their model, ``measured-text``.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # before cv2 is imported: it would
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")  # write warnings over the progress

import cv2
import numpy as np
import pocketsphinx

from ingest.files import NotAVideoError
from ingest.media import RATE, Image, read_sound
from ingest.minilm import NAME as EMBEDDING_MODEL
from ingest.minilm import MiniLM

Progress = Callable[[int, int], None]  # done, of how many (0: not known)

JPEG_QUALITY = 95
SPEECH_MODEL = f"pocketsphinx-{version('pocketsphinx')}-en-us"
DESCRIPTION_MODEL = "measured-text-1"

HONEST = (
    "The transcript is by PocketSphinx, a small recogniser: about one word in four is wrong.",
    "The descriptions are measurements put into sentences, not the work of a vision model.",
)

__all__ = [
    "DESCRIPTION_MODEL",
    "EMBEDDING_MODEL",
    "HONEST",
    "SPEECH_MODEL",
    "describe",
    "embed",
    "encode",
    "extract_keyframes",
    "thumbnail",
    "transcribe",
]


# --- keyframes ------------------------------------------------------------------------------------


def extract_keyframes(
    path: Path,
    *,
    progress: Progress,
    threshold: float | None = None,
    fps: float | Fraction | None = None,
    max_frames: int = 3000,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Choose keyframes and encode them as JPEG.

    With ``threshold``, a frame is kept when the correlation of its colours with those of the frame
    before falls below it; with ``fps``, so many frames a second are kept. The first is always kept.

    Returns:
        The metadata, and the pictures by frame id (the number of the frame, as text).

    Raises:
        NotAVideoError: there is nothing to choose from.
    """
    chosen: list[dict[str, Any]] = []
    pictures: dict[str, bytes] = {}
    before: Any = None
    for number, seconds, image, total in _frames(path):
        correlation: float | None = None
        if fps is not None:
            keep = seconds >= len(chosen) / fps - 1e-6
        else:
            colours: Any = cv2.calcHist([image], [0, 1, 2], None, [8] * 3, [0, 256] * 3)
            if before is not None:
                correlation = cv2.compareHist(before, colours, cv2.HISTCMP_CORREL)
            keep = correlation is None or correlation < (0.999 if threshold is None else threshold)
            before = colours
        if keep:
            entry = {"frame_id": number, "timestamp": round(seconds, 3)}
            if correlation is not None:
                entry["correlation"] = round(correlation, 6)
            chosen.append(entry)
            pictures[str(number)] = _jpeg(image)
        progress(number + 1, total)
        if len(chosen) == max_frames:
            break
    if not chosen:
        raise NotAVideoError(f"{path}: not one picture in it could be decoded")
    return {"keyframes": chosen, "total_keyframes": len(chosen)}, pictures


def _frames(path: Path) -> Iterator[tuple[int, float, Image, int]]:
    """Number, time, picture and expected count of each frame that can be decoded."""
    capture = cv2.VideoCapture(str(path))
    try:
        total = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
        number = 0
        while True:
            there, image = capture.read()
            if not there:
                return
            yield number, number / fps, image.astype(np.uint8, copy=False), total
            number += 1
    finally:
        capture.release()


def _jpeg(image: Image) -> bytes:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError("OpenCV could not encode a frame as JPEG")
    return bytes(data)


# --- transcript -----------------------------------------------------------------------------------


def transcribe(path: Path, *, progress: Progress) -> dict[str, Any]:
    """Recognise English speech, utterance by utterance.

    A video without a sound track, or without speech, gives an empty transcript: that is a result,
    and as much worth keeping as any other.
    """
    sound = read_sound(path)
    seconds = len(sound) / RATE
    segments: list[dict[str, Any]] = []
    if len(sound):
        decoder = pocketsphinx.Decoder(samprate=RATE, loglevel="FATAL")
        segmenter = pocketsphinx.Segmenter(sample_rate=RATE, vad_mode=3, window=0.3)
        for piece in segmenter.segment(io.BytesIO(sound.tobytes())):
            progress(round(piece.start_time), round(seconds))
            decoder.start_utt()
            decoder.process_raw(piece.pcm, full_utt=True)
            decoder.end_utt()
            heard = decoder.hyp()
            if heard is not None and heard.hypstr:
                times = {"start": round(piece.start_time, 2), "end": round(piece.end_time, 2)}
                segments.append({**times, "text": heard.hypstr})
        progress(round(seconds), round(seconds))
    return {
        "language": "en",
        "duration": round(seconds, 2),
        "full_text": " ".join(segment["text"] for segment in segments),
        "segments": segments,
    }


# --- descriptions ---------------------------------------------------------------------------------

# Names for colours, as 8-bit BGR: a pixel takes the name of the nearest, in Lab.
COLOURS = {
    "black": (15, 15, 15), "dark grey": (70, 70, 70), "grey": (128, 128, 128),
    "light grey": (190, 190, 190), "white": (245, 245, 245), "red": (40, 40, 200),
    "dark red": (30, 30, 110), "orange": (40, 130, 235), "brown": (45, 75, 115),
    "skin tone": (140, 165, 215), "beige": (170, 200, 220), "yellow": (60, 215, 235),
    "olive": (40, 110, 110), "green": (60, 160, 60), "dark green": (35, 75, 40),
    "light green": (130, 220, 150), "cyan": (200, 200, 60), "blue": (190, 90, 40),
    "dark blue": (100, 45, 20), "light blue": (235, 200, 150), "purple": (140, 50, 110),
    "pink": (190, 150, 240),
}  # fmt: skip


def describe(
    keyframes: Mapping[str, Any], pictures: Mapping[str, bytes], *, progress: Progress
) -> dict[str, Any]:
    """Measure every keyframe and put the measurements into a sentence."""
    cascades = Path(str(cv2.__file__)).parent / "data"
    faces = cv2.CascadeClassifier(str(cascades / "haarcascade_frontalface_default.xml"))
    descriptions: dict[str, str] = {}
    before: Image | None = None
    listed = keyframes["keyframes"]
    for count, keyframe in enumerate(listed, start=1):
        frame_id = str(keyframe["frame_id"])
        image = cv2.imdecode(np.frombuffer(pictures[frame_id], np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise RuntimeError(f"keyframe {frame_id} is not a picture")
        small = cv2.resize(image, (80, 45), interpolation=cv2.INTER_AREA).astype(np.uint8)
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        scale = 320 / image.shape[1]
        view = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        # 12 neighbours: with OpenCV's usual 3 to 5, half of what it finds is foliage.
        found = faces.detectMultiScale(view, 1.1, 12, minSize=(32, 32))
        parts = [
            _faces(found, view.shape[1]),
            _light(float(grey.mean())),
            _sharpness(float(cv2.Laplacian(grey, cv2.CV_64F).var())),
            _colours(small),
            _change(before, small),
        ]
        descriptions[frame_id] = " ".join(part for part in parts if part)
        before = small
        progress(count, len(listed))
    return {"descriptions": descriptions, "total_descriptions": len(descriptions)}


def _faces(found: Any, width: int) -> str:
    if len(found) == 0:
        return ""
    x, _, size, _ = max(found, key=lambda box: int(box[2]))
    middle = (x + size / 2) / width
    where = "on the left" if middle < 0.4 else "on the right" if middle > 0.6 else "in the centre"
    share = round(100 * size / width)
    if len(found) == 1:
        return f"A person's face {where}, {share}% of the picture's width."
    return f"{len(found)} people's faces, the largest {where}, {share}% of the picture's width."


def _light(mean: float) -> str:
    steps = ((50, "A very dark"), (90, "A dark"), (140, "An evenly lit"), (190, "A bright"))
    word = next((name for bound, name in steps if mean < bound), "A very bright")
    return f"{word} picture (brightness {mean / 2.55:.0f}%)."


def _sharpness(variance: float) -> str:
    steps = ((40, "blurred"), (150, "soft"), (600, "sharp"))
    word = next((name for bound, name in steps if variance < bound), "full of fine detail")
    return f"It is {word} (sharpness {variance:.0f})."


def _colours(small: Image) -> str:
    names = list(COLOURS)
    palette = cv2.cvtColor(np.array([list(COLOURS.values())], np.uint8), cv2.COLOR_BGR2LAB)[0]
    pixels = cv2.cvtColor(small, cv2.COLOR_BGR2LAB).reshape(-1, 1, 3).astype(np.int32)
    nearest = ((pixels - palette.astype(np.int32)) ** 2).sum(axis=2).argmin(axis=1)
    shares = np.bincount(nearest, minlength=len(names)) / len(nearest)
    largest = [i for i in np.argsort(-shares, kind="stable")[:4] if shares[i] >= 0.05]
    return "Colours: " + ", ".join(f"{names[i]} {shares[i] * 100:.0f}%" for i in largest) + "."


def _change(before: Image | None, small: Image) -> str:
    if before is None:
        return "First keyframe."
    share = float((cv2.absdiff(before, small).max(axis=2) > 25).mean())
    word = "Almost nothing" if share < 0.03 else "A little" if share < 0.2 else "Much"
    if share > 0.75:
        return f"A new scene ({share * 100:.0f}% of the picture changed)."
    return f"{word} moved since the keyframe before ({share * 100:.0f}% of the picture changed)."


# --- embeddings -----------------------------------------------------------------------------------


def embed(
    descriptions: Mapping[str, Any], transcript: Mapping[str, Any], *, progress: Progress
) -> dict[str, Any]:
    """Turn every description and every spoken segment into a vector, for search.

    Returns:
        ``frames`` and ``segments``: what each row stands for; ``vectors``: float32, one row each.
    """
    frames = list(descriptions["descriptions"])
    texts = [*descriptions["descriptions"].values()]
    texts += [segment["text"] for segment in transcript["segments"]]
    vectors = MiniLM().encode(texts, progress)
    return {"frames": frames, "segments": len(transcript["segments"]), "vectors": vectors}


# --- for search and report ------------------------------------------------------------------------


def encode(texts: list[str]) -> Any:
    """Vectors of questions, to be compared with those of ``embed`` by inner product."""
    return MiniLM().encode(texts)


def thumbnail(jpeg: bytes) -> bytes:
    """Make a picture small enough for a page with many."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None or image.shape[1] <= 480:
        return jpeg
    height = max(1, round(image.shape[0] * 480 / image.shape[1]))
    small = cv2.resize(image, (480, height), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return bytes(data)
