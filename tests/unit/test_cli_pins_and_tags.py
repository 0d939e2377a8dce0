"""The command line: what is pinned, and what is invalidated by tag."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.commandline import Run, keys_of

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    Key,
    PipelineArtifactCache,
)


def test_what_is_pinned_is_listed_and_can_be_let_go(place: Path, cli: Run) -> None:
    assert cli("pins") == (0, "", "")
    code, out, err = cli("pin", "audio:talk")
    assert (code, out, err) == (0, "", "cogcache: 1 entry pinned\n")
    answer = json.loads(cli("pin", "-a", "transcript", "--json")[1])
    assert len(answer["pinned"]) == 2 and not answer["not_pinned"] and answer["problem"] is None
    pinned = keys_of(cli("pins", "-q"))
    assert pinned == sorted(["audio:talk", *answer["pinned"]])
    listed = json.loads(cli("pins", "--json")[1])
    assert (listed["schema"], listed["count"]) == (1, 3)
    assert [one["key"] for one in listed["entries"]] == pinned
    assert listed["stored_bytes"] == sum(one["stored_bytes"] for one in listed["entries"]) > 0
    code, out, _ = cli("pins")
    assert out.splitlines()[0].split() == ["SIZE", "AGE", "LEFT", "KEY"]
    assert len(out.splitlines()) == 4
    with_another = PipelineArtifactCache.open().cache  # what another program sees
    assert with_another.sync.pinned() == sorted(map(Key.parse, pinned), key=str)
    with_another.sync.aclose()

    assert json.loads(cli("unpin", "-", "--json", stdin="audio:talk\n")[1]) == {
        "schema": 1,
        "unpinned": ["audio:talk"],
    }
    assert cli("unpin", "*")[2] == "cogcache: 2 entries unpinned\n"
    assert cli("pins", "-q")[1] == ""
    assert len(keys_of(cli("ls", "-q"))) == 6  # nothing was deleted


def test_a_pin_outlives_its_value_and_goes_by_name(place: Path, cli: Run) -> None:
    assert cli("pin", "note:text")[0] == 0
    assert cli("rm", "note:text", "-y")[0] == 0
    assert cli("pins", "-q")[1] == ""
    assert cli("put", "note:text", "--as", "text", stdin="again")[0] == 0
    assert keys_of(cli("pins", "-q")) == ["note:text"]
    assert cli("rm", "note:text", "-y")[0] == 0
    assert cli("unpin", "note:text")[0] == 0
    assert cli("unpin", "note:text")[0] == 3


def test_what_cannot_be_pinned_is_said(place: Path, cli: Run) -> None:
    code, _, err = cli("pin", "audio:talk", "audio:none")
    assert code == 3 and "1 entry pinned" in err and "audio:none: no filesystem tier has it" in err
    assert cli("pin", "none:*")[0] == 3
    for arguments, said in (
        (("pin",), "name keys or filters"),
        (("unpin",), "name keys"),
        (("pin", "a*b"), "pattern"),
    ):
        code, _, err = cli(*arguments)
        assert (code, said in err) == (2, True), err


def test_pins_end_at_half_of_the_limit(place: Path, cli: Run) -> None:
    small = FilesystemCacheConfig(place / "small", 17, enable_compression=False)
    with CacheManager(CacheConfig([small])).sync as manager:
        assert all(manager.set(f"large:{number}", os.urandom(500_000)) for number in range(22))
    there = ("-t", str(place / "small"))  # the limit is that of the programs
    code, out, err = cli("pin", "large:*", "--json", *there)
    answer = json.loads(out)
    assert code == 1 and "unpin some, or raise max_size_mb" in answer["problem"]
    assert 10 < len(answer["pinned"]) < 18 and not err
    assert sorted(answer["pinned"]) == keys_of(cli("pins", "-q", *there))
    code, _, err = cli("pin", "large:*", *there)
    assert code == 1 and "unpin some, or raise max_size_mb" in err
    assert cli("unpin", "large:*", *there)[0] == 0
    assert cli("pin", answer["pinned"][0], *there)[0] == 0


@pytest.mark.parametrize("arguments", [("draft",), ("other", "draft")])
def test_a_tag_makes_its_entries_misses(place: Path, cli: Run, arguments: tuple[str, ...]) -> None:
    (key,) = keys_of(cli("ls", "-q", "--tag", "draft"))
    code, out, err = cli("invalidate", *arguments, "--dry-run")
    assert code == 0 and key in out and "1 entry" in err and "would be misses" in err
    code, out, err = cli("invalidate", *arguments)
    assert code == 2 and key in out and "--yes" in err
    assert cli("explain", key)[0] == 0
    answer = json.loads(cli("invalidate", *arguments, "--yes", "--json")[1])
    assert [one["key"] for one in answer["entries"]] == [key]
    assert (answer["dry_run"], answer["forgetful"], answer["unavailable"]) == (False, [], [])
    code, out, _ = cli("explain", key)
    assert code == 3 and "tag-invalidated" in out
    assert len(keys_of(cli("ls", "-q"))) == 5
    assert json.loads(cli("gc", "--json")[1])["removed"] == 1
    cache = PipelineArtifactCache.open()
    assert cache.sync.set_transcript("lecture.mp4", {"text": "new"}, tags=["draft"])
    cache.sync.aclose()
    assert keys_of(cli("ls", "-q", "--tag", "draft")) == [key]


def test_an_invalidation_that_nobody_would_remember_is_refused(place: Path, cli: Run) -> None:
    away = "s3://bucket?endpoint=http://127.0.0.1:9"
    code, _, err = cli("invalidate", "draft", "-y", "-t", away)
    assert code == 2 and "no tier here keeps an invalidation" in err and "rm --tag" in err
    code, _, err = cli("invalidate", "draft", "-y", "-t", "cache", "-t", away)
    assert code == 1 and "other hosts go on hitting it" in err and "not available: S3" in err
    code, _, err = cli("invalidate", "draft", "-y", "-t", "cache", "-t", "redis://127.0.0.1:9")
    assert code == 1 and "not available: Redis" in err
    assert cli("invalidate")[0] == 2 and cli("invalidate", "")[0] == 2
