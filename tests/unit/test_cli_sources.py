"""``ls`` and what entries were made from."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commandline import Run

from cogcache import PipelineArtifactCache


def _sources(cli: Run, *arguments: str) -> list[str]:
    """The last column of ``ls``."""
    code, out, err = cli("ls", "-a", "transcript", *arguments)
    assert (code, err) == (0, "")
    header, *lines = out.splitlines()
    at = header.index("SOURCE")
    return sorted(line[at:] for line in lines)


def test_ls_names_the_files_that_entries_were_made_from(cli: Run) -> None:
    assert _sources(cli) == ["gone.mp4", "lecture.mp4"]


def test_keys_of_ones_own_have_no_column_of_sources(cli: Run) -> None:
    code, out, _ = cli("ls", "note:*")
    assert (code, out.splitlines()[0].split()) == (0, ["SIZE", "AGE", "LEFT", "KEY"])
    assert sum(line.endswith("  -") for line in cli("ls")[1].splitlines()) == 3


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("https://example.org/talk.mp4", "https://example.org/talk.mp4"),
        ("https://example.org/a/long/way/talk.mp4?v=2", "https://example.org/.../talk.mp4"),
        ("s3://bucket/videos/talk.mp4", "s3://bucket/.../talk.mp4"),
        ("https://example.org", "https://example.org"),
    ],
)
def test_a_uri_is_shortened(place: Path, cli: Run, source: str, told: str) -> None:
    with PipelineArtifactCache.open().sync as cache:
        assert cache.set_transcript(source, {"text": "words"})
    assert told in _sources(cli)


def test_a_name_that_a_terminal_would_obey_is_made_harmless(place: Path, cli: Run) -> None:
    name = "a\x1b[2J %.mp4"
    (place / name).write_bytes(b"video")
    with PipelineArtifactCache.open().sync as cache:
        assert cache.set_transcript(name, {"text": "words"})
    assert r"a\x1b[2J %.mp4" in _sources(cli)
