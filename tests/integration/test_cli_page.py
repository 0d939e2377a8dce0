"""The commands that docs/cli.md shows are run as they stand there, in a shell."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from cogcache import PipelineArtifactCache

ROOT = Path(__file__).parents[2]
SECONDS = 60
ABSENT = 3


def _commands() -> list[tuple[str, list[str]]]:
    """Each command of the page, with the lines that it is said to print."""
    text = (ROOT / "docs" / "cli.md").read_text()
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def _program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_the_commands_of_the_page_do_what_they_say(place: Path) -> None:
    cache = PipelineArtifactCache.open()
    (place / "trailer.mp4").write_bytes(b"trailer" * 100)
    for video in ("trailer.mp4", "lecture.mp4"):
        assert cache.sync.set_keyframes(video, [{"frame_id": 17}], {17: b"\xff\xd8\xff picture"})
    [key] = [
        one.key
        for one in cache.cache.sync.select(artifact="keyframes", source="lecture.mp4").entries
    ]
    cache.sync.aclose()
    programs = place / "programs"
    programs.mkdir()
    _program(programs / "cogcache", f'exec {sys.executable} -m cogcache "$@"')
    _program(programs / "ffmpeg", "exec cat talk.flac")
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    # What stands for something of the reader's own. Bringing entries from a real S3 is in the tests
    # of `warm`; here two directories have nothing to bring.
    ours = {
        "video:5f0c...:keyframes:...": shlex.quote(str(key)),
        "/local/cache": "near",
        "s3://bucket/cache": "cache",
    }
    commands = _commands()
    assert len(commands) == 8
    for command, said in commands:
        for theirs, mine in ours.items():
            command = command.replace(theirs, mine)
        answer = subprocess.run(
            ["sh", "-c", command],
            cwd=place,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        expected = ABSENT if "explain" in command else 0
        assert answer.returncode == expected, (command, answer.stdout, answer.stderr)
        for line in said:
            assert line in answer.stdout, (command, answer.stdout)
    assert (place / "17.jpg").read_bytes() == b"\xff\xd8\xff picture"
