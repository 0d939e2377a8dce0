"""The command line and names that nothing has, and identities other than those of the settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commandline import Run

from cogcache import PipelineArtifactCache


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("ls", "-a", "keyframe"), 0, "an artifact 'keyframe'; did you mean 'keyframes'?"),
        (("verify", "-a", "transcripts"), 0, "'transcripts'; did you mean 'transcript'?"),
        (("warm", "--dry-run", "-a", "embedding"), 0, "did you mean 'embeddings'?"),
        (("rm", "note:*", "a:*", "-a", "keyframe", "-y"), 3, "did you mean 'keyframes'?"),
        (
            ("ls", "-a", "transcript", "--param", "modle_size=base"),
            0,
            "transcript has no parameter 'modle_size'; did you mean 'model_size'?",
        ),
        (
            ("ls", "--param", "strateggy=uniform"),
            0,
            "nothing here has a parameter 'strateggy'; did you mean 'strategy'?",
        ),
    ],
)
def test_a_name_that_nothing_has_is_pointed_out_once(
    place: Path, cli: Run, arguments: tuple[str, ...], code: int, told: str
) -> None:
    found, _, err = cli(*arguments)
    assert (found, err.count(told)) == (code, 1), err


@pytest.mark.parametrize(
    "arguments",
    [
        ("-a", "embeddings"),
        ("-a", "transcript", "--param", "model=large"),
        ("-a", "chapters", "--param", "depth=7"),
        ("-a", "chapters", "--older-than", "30d"),
        ("--param", "depth=7"),
        ("--tag", "no-such-tag"),
        ("nothing:*",),
    ],
)
def test_a_name_that_something_has_is_no_slip(
    place: Path, cli: Run, arguments: tuple[str, ...]
) -> None:
    with PipelineArtifactCache.open().sync as cache:
        cache.register_artifact("chapters", {"depth": 2})
        assert cache.store("chapters", "lecture.mp4", {"titles": []}, depth=3).stored
    assert cli("ls", *arguments) == (0, "", "")


def test_explain_asks_by_the_identity_that_is_named(place: Path, cli: Run) -> None:
    with PipelineArtifactCache.open(identity="content").sync as cache:
        assert cache.set_transcript("lecture.mp4", {"text": "words"}, model_size="tiny")
    asked = ("explain", "transcript", "lecture.mp4", "model_size=tiny")
    assert cli(*asked)[0] == 3
    assert cli(*asked, "--identity", "content")[0] == 0
    assert cli(*asked, "--identity", "sampled")[0] == 3
    code, _, err = cli("explain", "note:text", "--identity", "content")
    assert (code, "--identity is for an artifact of a VIDEO" in err) == (2, True)
