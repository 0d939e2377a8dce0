"""What tests of the command line share: a project, and the program called in this process."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cogcache import PipelineArtifactCache
from cogcache.cli import run

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a video and a cache that its settings name."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("COGCACHE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "cogcache.toml").write_text('tiers = ["cache"]\nprofile = "team"\n')
    (tmp_path / "lecture.mp4").write_bytes(b"video" * 100)
    (tmp_path / "gone.mp4").write_bytes(b"gone" * 100)
    (tmp_path / "talk.flac").write_bytes(b"fLaC" + bytes(5000))
    cache = PipelineArtifactCache.open()
    frames = {number: np.full((8, 8, 3), number, "u1") for number in range(3)}
    metadata = [{"frame_id": number} for number in range(3)]
    assert cache.sync.set_keyframes("lecture.mp4", metadata, frames)
    assert cache.sync.set_transcript("lecture.mp4", {"text": "words"}, tags=["draft"])
    assert cache.sync.set_transcript("gone.mp4", {"text": "lost"}, cost_seconds=90)
    manager = cache.cache.sync
    assert manager.put_stream("audio:talk", (tmp_path / "talk.flac").read_bytes())
    assert manager.set("note:text", "plain words")
    assert manager.set("note:array", np.arange(5000))
    cache.sync.aclose()
    (tmp_path / "gone.mp4").unlink()
    return tmp_path


@pytest.fixture
def cli(
    place: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run a verb in that project."""
    return caller(capfdbinary, monkeypatch)


def caller(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    """What runs a verb in this directory: its exit code, and what it said."""

    def call(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = run(arguments)
        sys.stdout.flush()
        said = capfdbinary.readouterr()
        return code, said.out.decode(), said.err.decode()

    return call


def keys_of(answer: tuple[int, str, str]) -> list[str]:
    assert answer[0] == 0, answer
    return answer[1].splitlines()
