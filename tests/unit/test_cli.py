"""The command line: what each verb prints, what it leaves alone, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.commandline import Run, keys_of

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    PipelineArtifactCache,
    __version__,
)
from cogcache.cli.output import clean, duration, size
from cogcache.cli.program import program
from cogcache.exceptions import ConfigError
from cogcache.optiontext import size_bytes


def _tree(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in sorted(directory.rglob("*"))
    }


LOOKS = (
    ("ls",),
    ("ls", "--json"),
    ("stats",),
    ("stats", "--json"),
    ("show", "audio:talk", "--chunks"),
    ("show", "audio:talk", "--json"),
    ("explain", "transcript", "lecture.mp4"),
    ("explain", "audio:talk", "--json"),
    ("get", "note:text"),
    ("config",),
    ("config", "--json"),
    ("doctor",),
    ("doctor", "--json"),
    ("rm", "*", "--dry-run"),
    ("prune", "--to", "0", "--dry-run"),
    ("prune", "--superseded", "--dry-run"),
    ("gc", "--dry-run"),
    ("verify",),
    ("verify", "--json"),
    ("pins",),
    ("pins", "--json"),
    ("invalidate", "draft", "--dry-run"),
    ("invalidate", "draft", "--dry-run", "--json"),
    ("warm", "--dry-run"),
    ("warm", "--dry-run", "--json"),
)


def test_what_only_looks_writes_nothing(place: Path, cli: Run) -> None:
    before = _tree(place)
    for arguments in LOOKS:
        code, out, err = cli(*arguments)
        assert code == 0, (arguments, out, err)
        assert not err or "--dry-run" in arguments
        if "--json" in arguments:
            assert json.loads(out)["schema"] == 1
    assert _tree(place) == before


def test_what_only_looks_makes_no_cache(place: Path, cli: Run) -> None:
    before = _tree(place)
    for arguments in (
        *LOOKS,
        ("rm", "*", "-y"),
        ("gc",),
        ("prune", "--to", "0", "-y"),
        ("pin", "a"),
        ("unpin", "a"),
        ("invalidate", "draft", "-y"),
    ):
        code, _, err = cli(*arguments, "-t", str(place / "none"))
        expected = 0 if arguments[0] in ("config", "doctor") else 3
        assert code == expected, arguments
        assert expected == 0 or f"there is no cache in {place / 'none'}" in err
    assert _tree(place) == before


def test_every_verb_has_help_and_an_example_that_works(place: Path, cli: Run) -> None:
    assert len(program.commands) >= 12
    for name, command in program.commands.items():
        code, out, _ = cli(name, "--help")
        assert code == 0 and out.startswith(f"Usage: cogcache {name} ")
        options = [one for one in command.params if one.param_type_name == "option"]
        assert all(getattr(option, "help", None) or option.name == "sort" for option in options)
        assert command.short_help
        assert command.epilog is not None
        example = command.epilog.removeprefix("Example: ")
        words = shlex.split(example.partition(" > ")[0])
        assert words[:2] == ["cogcache", name]
        code, _, err = cli(*words[1:])
        assert code == 0, (example, err)
    code, out, _ = cli("--help")
    assert code == 0 and all(f"\n  {name} " in out for name in program.commands)
    assert cli("--version") == (0, f"cogcache {__version__}\n", "")


def test_ls_lists_by_filter_and_order(place: Path, cli: Run) -> None:
    everything = keys_of(cli("ls", "-q", "--sort", "key"))
    assert len(everything) == 6 and everything == sorted(everything)
    assert keys_of(cli("ls", "-q", "audio:*")) == ["audio:talk"]
    transcripts = keys_of(cli("ls", "-q", "-a", "transcript"))
    assert len(transcripts) == 2 and all(":transcript:" in key for key in transcripts)
    assert keys_of(cli("ls", "-q", "--tag", "draft"))[0] in transcripts
    mine = keys_of(cli("ls", "-q", "--video", "lecture.mp4"))
    assert len(mine) == 2
    assert sorted(keys_of(cli("ls", "-q", "--profile", ""))) == [
        "audio:talk",
        "note:array",
        "note:text",
    ]
    assert (
        keys_of(cli("ls", "-q", "--param", "model_size=base", "--older-than", "0s")) == transcripts
    )
    assert cli("ls", "-q", "--older-than", "1h")[1] == ""
    assert keys_of(cli("ls", "-q", "--min-size", "6kB")) == ["note:array"]
    assert keys_of(cli("ls", "-q", "-n", "1")) == ["note:array"]
    code, out, _ = cli("ls", "--json", "-a", "transcript", "--tag", "draft")
    answer = json.loads(out)
    (entry,) = answer["entries"]
    assert (answer["count"], entry["artifact"], entry["profile"]) == (1, "transcript", "team")
    assert entry["tags"] == ["draft"] and entry["source_uri"].endswith("/lecture.mp4")
    assert isinstance(entry["stored_bytes"], int) and entry["expires_at"] > entry["created_at"]
    code, out, _ = cli("ls")
    assert code == 0 and out.splitlines()[0].split() == ["SIZE", "AGE", "LEFT", "KEY", "SOURCE"]
    assert len(out.splitlines()) == 7


def test_stats_count_by_tier_artifact_profile_and_tag(cli: Run) -> None:
    answer = json.loads(cli("stats", "--json")[1])
    (tier,) = answer["tiers"]
    assert (tier["state"], tier["usage"]["entries"], answer["entries"]) == ("works", 6, 6)
    assert {name: group["entries"] for name, group in answer["artifacts"].items()} == {
        "": 3,
        "keyframes": 1,
        "transcript": 2,
    }
    assert answer["profiles"]["team"]["entries"] == 3 and answer["tags"]["draft"]["entries"] == 1
    assert answer["stored_bytes"] == sum(g["stored_bytes"] for g in answer["profiles"].values())
    text = cli("stats")[1]
    assert "keyframes" in text and "ARTIFACT" in text and "TAG" in text and "AGE" in text


def test_stats_by_tag_and_age(place: Path, cli: Run) -> None:
    cache = PipelineArtifactCache.open()
    for tier in cache.cache.backends:
        tier.set_clock_offset(-9 * 86_400_000)
    assert cache.cache.sync.store("old", b"x" * 5000, ttl=0, tags=["draft", "kept"])
    cache.sync.aclose()
    by_tag = cli("stats", "--by", "tag")[1].splitlines()
    assert [line.split()[:2] for line in by_tag] == [
        ["TAG", "ENTRIES"],
        ["draft", "2"],
        ["kept", "1"],
    ]
    ages = json.loads(cli("stats", "--json")[1])["ages"]
    assert list(ages) == ["1h", "1d", "7d", "30d", "90d", "365d", "older"]
    assert {name: group["entries"] for name, group in ages.items() if group["entries"]} == {
        "1h": 6,
        "30d": 1,
    }
    assert ages["30d"]["stored_bytes"] > 0
    text = cli("stats", "--by", "age", "--by", "profile")[1]
    assert text.index("AGE") < text.index("PROFILE") and "TIER" not in text
    assert [line.split()[0] for line in text.splitlines()[1:8]] == list(ages)
    assert cli("stats", "--by", "colour")[0] == 2


def test_show_prints_the_manifest_and_the_chunks(cli: Run) -> None:
    (key,) = keys_of(cli("ls", "-q", "-a", "keyframes"))
    code, out, _ = cli("show", key, "--chunks")
    assert code == 0
    assert re.search(r"^source +file:///.*/lecture\.mp4$", out, re.MULTILINE)
    assert re.search(r"^ +1 +frame +1 .* 1 ", out, re.MULTILINE)
    assert out.count("frame") >= 3
    answer = json.loads(cli("show", "audio:talk", "--chunks", "--json")[1])
    (blob,) = [part for part in answer["parts"] if part["kind"] == "blob"]
    assert (blob["raw_size"], blob["chunks"]) == (5004, [{"start": 0, "stop": 5004}])
    assert answer["key"] == "audio:talk" and len(answer["tiers"]) == 1
    code, out, err = cli("show", "audio:none")
    assert (code, out, err) == (3, "", "cogcache: audio:none: absent\n")


def test_explain_says_why_not(cli: Run) -> None:
    code, out, _ = cli("explain", "transcript", "lecture.mp4", "model_size=large")
    assert code == 3 and "'large' here, 'base' there" in out
    answer = json.loads(cli("explain", "transcript", "lecture.mp4", "--json")[1])
    assert answer["hit"] and answer["tiers"][0]["reason"] == "hit"
    assert cli("explain", "transcript", "lecture.mp4", "--profile", "other")[0] == 3
    assert cli("explain", "audio:none")[0] == 3
    code, _, err = cli("explain", "transcripts", "lecture.mp4")
    assert code == 2 and "transcript" in err
    code, _, err = cli("explain", "transcript", "lecture.mp4", "large")
    assert code == 2 and "NAME=VALUE" in err


def test_get_gives_the_value_and_put_keeps_it(place: Path, cli: Run) -> None:
    assert cli("get", "note:text") == (0, "plain words", "")
    assert cli("get", "audio:talk", "-o", "out.flac")[0] == 0
    assert (place / "out.flac").read_bytes() == (place / "talk.flac").read_bytes()
    (key,) = keys_of(cli("ls", "-q", "-a", "keyframes"))
    assert cli("get", key, "--part", "frame/1", "-o", "1.jpg")[0] == 0
    assert (place / "1.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert cli("get", "note:array", "-o", "a.npy")[0] == 0
    assert np.load(place / "a.npy").tolist() == list(range(5000))
    before = sorted(os.listdir(place))
    code, out, err = cli("get", "note:array")
    assert (code, out) == (2, "") and "array/0" in err and "--part" in err
    code, _, err = cli("get", key, "--part", "frame/9", "-o", "9.jpg")
    assert code == 2 and "frame/9" in err
    assert cli("get", "note:none", "-o", "none")[0] == 3
    assert cli("get", "note:text", "-o", "none/here")[0] == 1
    assert sorted(os.listdir(place)) == before  # nothing half done is left

    code, out, err = cli("put", "mine:json", "--as", "json", "--tag", "t", stdin='{"a": [1, null]}')
    assert (code, out) == (0, "") and "stored in" in err
    assert json.loads(cli("get", "mine:json")[1]) == {"a": [1, None]}
    assert json.loads(cli("put", "mine:bytes", "lecture.mp4", "--json", "--ttl", "1h")[1])["stored"]
    assert cli("get", "mine:bytes")[1] == "video" * 100
    (entry,) = json.loads(cli("ls", "mine:bytes", "--json")[1])["entries"]
    assert entry["expires_at"] - entry["created_at"] == pytest.approx(3600)
    assert cli("put", "mine:new", "-t", str(place / "fresh"), stdin="x")[0] == 0
    assert (place / "fresh" / "v1").is_dir()
    for arguments, said in (
        (("put", "x", "nofile"), "nofile"),
        (("put", "x", "--as", "json"), "Expecting value"),
        (("put", "x", "--ttl", "soon"), "cannot read 'soon'"),
        (("put", "", "lecture.mp4"), "1 to 65000 UTF-8 bytes"),
        (("put", "x", "--as", "text", "--content-type", "text/plain"), "is for bytes"),
    ):
        code, _, err = cli(*arguments)
        assert (code, said in err) == (2, True), err


def test_a_value_that_is_not_stored_is_a_failure(
    place: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGCACHE_FILESYSTEM_MAX_VALUE_SIZE", "100")
    code, _, err = cli("put", "mine:large", "talk.flac")
    assert code == 1 and "not stored: too-large" in err


def test_rm_says_what_goes_and_deletes_only_that(place: Path, cli: Run) -> None:
    assert cli("rm")[0] == 2
    code, out, err = cli("rm", "-a", "transcript")
    assert code == 2 and out.count(":transcript:") == 2 and "--yes" in err
    code, out, err = cli("rm", "-a", "transcript", "--dry-run")
    assert code == 0 and "2 entries" in err and "would go" in err
    assert len(keys_of(cli("ls", "-q"))) == 6
    answer = json.loads(cli("rm", "note:*", "audio:talk", "-y", "--json")[1])
    assert (answer["count"], answer["deleted"], answer["dry_run"]) == (3, 3, False)
    assert len(keys_of(cli("ls", "-q"))) == 3
    keys = cli("ls", "-q", "-a", "transcript")[1]
    assert cli("rm", "-", "-y", stdin=keys)[0] == 0
    assert len(keys_of(cli("ls", "-q"))) == 1
    code, _, err = cli("rm", "note:none", "-y")
    assert (code, err) == (3, "cogcache: nothing to delete\n")
    for arguments, said in (
        (("rm", "a*b", "-y"), "pattern"),
        (("rm", "*", "--older-than", "x", "-y"), "cannot read 'x'"),
        (("rm", "*", "--min-size", "5 parsecs"), "cannot read the size"),
        (("rm", "*", "--param", "base"), "NAME=VALUE"),
    ):
        code, _, err = cli(*arguments)
        assert (code, said in err) == (2, True), err
    assert len(keys_of(cli("ls", "-q"))) == 1


def test_prune_takes_what_is_gone_old_or_too_much(place: Path, cli: Run) -> None:
    assert cli("prune")[0] == 2
    answer = json.loads(cli("prune", "--gone", "--json", "-y")[1])
    assert [one["source_uri"].rpartition("/")[2] for one in answer["entries"]] == ["gone.mp4"]
    assert answer["deleted"] == 1
    assert cli("prune", "--older-than", "1d", "-y") == (0, "", "cogcache: nothing to delete\n")
    sizes = {one["key"]: one for one in json.loads(cli("ls", "--json")[1])["entries"]}
    oldest = min(sizes.values(), key=lambda one: one["created_at"])
    total = sum(one["stored_bytes"] for one in sizes.values())
    answer = json.loads(cli("prune", "--to", str(total - 1), "--json", "-y")[1])
    assert [one["created_at"] for one in answer["entries"]] == [oldest["created_at"]]
    assert cli("prune", "--to", "0", "-y")[0] == 0
    assert cli("ls", "-q")[1] == ""


def test_what_a_newer_version_of_a_video_replaced_is_told_and_pruned(place: Path, cli: Run) -> None:
    """K10."""
    assert json.loads(cli("gc", "--json")[1])["superseded"] == {"entries": 0, "stored_bytes": 0}
    assert cli("prune", "--superseded", "-y") == (0, "", "cogcache: nothing to delete\n")
    (place / "lecture.mp4").write_bytes(b"another" * 100)
    cache = PipelineArtifactCache.open()
    for tier in cache.cache.backends:
        tier.set_clock_offset(60_000)  # a minute later
    assert cache.sync.get_transcript("lecture.mp4") is None
    assert cache.sync.set_transcript("lecture.mp4", {"text": "new words"})
    cache.sync.aclose()
    for arguments in (("gc", "--dry-run"), ("gc",)):
        code, out, err = cli(*arguments)
        assert (code, out) == (0, "") and "'cogcache prune --superseded'" in err
    held = json.loads(cli("gc", "--json")[1])["superseded"]
    code, out, err = cli("prune", "--superseded")
    assert code == 2 and out.count(":transcript:") == 1 and "--yes" in err
    answer = json.loads(cli("prune", "--superseded", "--json", "-y")[1])
    assert (answer["count"], answer["deleted"]) == (held["entries"], 1) == (1, 1)
    assert answer["stored_bytes"] == held["stored_bytes"] > 0
    assert answer["entries"][0]["tags"] == ["draft"]
    assert "superseded" not in cli("gc")[2]
    assert len(keys_of(cli("ls", "-q"))) == 6


def test_a_cache_of_one_directory_has_nothing_to_bring(cli: Run) -> None:
    assert cli("warm") == (0, "", "cogcache: nothing to bring\n")
    answer = json.loads(cli("warm", "--json", "--max-size", "1GB")[1])
    assert (answer["count"], answer["brought"], answer["tier"]) == (0, 0, "")
    code, _, err = cli("warm", "-t", "s3://bucket?endpoint=http://127.0.0.1:9")
    assert code == 2 and "no tier of this cache is local" in err
    assert cli("warm", "--max-size", "much")[0] == 2


def test_gc_gives_back_what_is_expired(place: Path, cli: Run) -> None:
    cache = PipelineArtifactCache.open()
    cache.cache.sync.store("old:tagged", b"x" * 5000, tags=["bad"])
    cache.cache.sync.invalidate_tags("bad")
    cache.sync.aclose()
    assert json.loads(cli("gc", "--dry-run", "--json")[1])["removed"] == 1
    assert json.loads(cli("gc", "--json")[1])["removed"] == 1
    code, _, err = cli("gc")
    assert code == 0 and "0 entries removed" in err


def test_verify_finds_damage_and_takes_it_away_when_told(place: Path, cli: Run) -> None:
    answer = json.loads(cli("verify", "--json", "audio:*")[1])
    assert (answer["ok"], answer["entries"]) == (True, 1)
    largest = max((place / "cache" / "v1" / "objects").rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    code, out, _ = cli("verify")
    assert code == 3 and out.startswith("FilesystemCacheBackend: note:array (objects/")
    assert largest.exists()
    answer = json.loads(cli("verify", "--fix", "--json")[1])
    assert [one["removed"] for one in answer["damaged"]] == [True] and not largest.exists()
    assert cli("verify")[0] == 0
    code, out, _ = cli("doctor")
    assert code == 0 and "damaged entries in quarantine: 1" in out


def test_entries_are_carried_to_another_place(place: Path, cli: Run) -> None:
    code, out, err = cli("export", "all.tar", "-a", "transcript")
    assert (code, out) == (0, "") and "2 entries" in err
    there = ("-t", str(place / "there"))
    answer = json.loads(cli("import", "all.tar", "--json", *there)[1])
    assert (answer["entries"], answer["skipped"], answer["complete"]) == (2, {}, True)
    assert keys_of(cli("ls", "-q", *there)) == keys_of(cli("ls", "-q", "-a", "transcript"))
    assert json.loads(cli("import", "all.tar", "--json", *there)[1])["skipped"] == {"present": 2}
    assert json.loads(cli("import", "all.tar", "--replace", "--json", *there)[1])["entries"] == 2
    data = bytearray((place / "all.tar").read_bytes())
    data[len(data) // 2] ^= 1
    (place / "bad.tar").write_bytes(data)
    code, _, err = cli("import", "bad.tar", "-t", str(place / "other"))
    assert code == 1 and ("refused" in err or "incomplete" in err)
    for arguments, said in (
        (("export", "-", "--json"), "name a file"),
        (("import", "lecture.mp4"), "archive"),
        (("import", "all.tar", "--rekey", "here"), "THERE=HERE"),
    ):
        code, _, err = cli(*arguments)
        assert (code, said in err) == (2, True), err
    assert cli("import", "no.tar")[0] == 2


def test_an_archive_goes_through_a_pipe(place: Path, cli: Run) -> None:
    program = [sys.executable, "-m", "cogcache"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    made = subprocess.run(
        [*program, "export", "-", "audio:*"], env=environment, capture_output=True, timeout=60
    )
    assert made.returncode == 0 and made.stderr.startswith(b"cogcache: 1 entry")
    taken = subprocess.run(
        [*program, "import", "-", "-t", "piped"],
        env=environment,
        input=made.stdout,
        capture_output=True,
        timeout=60,
    )
    assert (taken.returncode, taken.stdout) == (0, b"")
    assert cli("get", "audio:talk", "-t", "piped", "-o", "again")[0] == 0
    assert (place / "again").read_bytes() == (place / "talk.flac").read_bytes()


def test_tending_leaves_the_bounds_that_programs_have_set(place: Path, cli: Run) -> None:
    path = str(place / "bounded")
    with_bounds = CacheManager(CacheConfig([FilesystemCacheConfig(path, 100)]))
    with_bounds.sync.set("a", 1)

    def limit() -> int:
        stats = with_bounds.sync.get_stats()["backends"]["FilesystemCacheBackend"]
        return int(stats["limit_bytes"])

    for arguments in (("rm", "a", "-y"), ("gc",), ("put", "b", "talk.flac"), ("verify", "--fix")):
        assert cli(*arguments, "-t", path)[0] == 0
        assert limit() == 100_000_000
    assert cli("gc", "-t", f"file://{path}?max_size=50MB")[0] == 0
    assert limit() == 50_000_000  # said so
    with_bounds.sync.aclose()


def test_config_shows_every_value_and_its_origin(
    place: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGCACHE_TIERS", "redis://:s3cret@h/1 s3://b?region=x")
    monkeypatch.setenv("COGCACHE_S3_SECRET_KEY", "s3cret")
    monkeypatch.setenv("COGCACHE_S3_ACCESS_KEY", "s3cret")
    code, out, _ = cli("config", "--changed")
    assert code == 0 and "s3cret" not in out
    lines = {line.split()[0]: line.split(None, 2)[1:] for line in out.splitlines()}
    assert lines["profile"] == ["team", f"{place / 'cogcache.toml'}:2"]
    assert lines["tiers[1].region"] == ["x", "$COGCACHE_TIERS in the URL"]
    assert lines["tiers[0].url"] == ["redis://h/1", "$COGCACHE_TIERS"]
    rows = json.loads(cli("config", "--json")[1])
    assert rows["file"] == str(place / "cogcache.toml")
    assert {"name": "memo", "value": True, "origin": "default"} in rows["settings"]
    assert cli("config", "--config", "no.toml")[0] == 2
    monkeypatch.setenv("COGCACHE_PROFLIE", "x")
    code, _, err = cli("config")
    assert code == 2 and "did you mean 'COGCACHE_PROFILE'" in err


def test_doctor_says_what_is_wrong_and_what_to_do(
    place: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = cli(
        "doctor", "-t", "s3://b?endpoint=http://127.0.0.1:9", "-t", "redis://127.0.0.1:9"
    )
    assert code == 1 and out.count("fail  tier") == 2
    (place / "file").write_text("x")
    code, out, _ = cli("doctor", "-t", "file/below", "-t", "$NOT_THERE/x")
    assert code == 1
    assert "is no directory" in out and "there is no $NOT_THERE here" in out
    (place / "cache" / "v7").mkdir()
    findings = json.loads(cli("doctor", "--json")[1])["findings"]
    assert {one["state"] for one in findings} <= {"ok", "note", "warn"}
    assert any("v7" in one["found"] for one in findings)
    monkeypatch.setattr(
        os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 9, 0, 0, 9, 9, 9, 0, 255))
    )
    code, out, _ = cli("doctor")
    assert code == 1 and "free some space" in out and "9 inodes are free" in out
    stranger = place / "site" / "cogcache-0.2.0.dist-info"
    stranger.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(stranger.parent))
    code, out, _ = cli("doctor")
    assert code == 1 and "pip uninstall cogcache," in out


def test_a_tier_that_is_down_is_told_and_is_a_failure(place: Path, cli: Run) -> None:
    tiers = ("-t", "cache", "-t", "redis://127.0.0.1:9")
    code, out, err = cli("ls", "-q", *tiers)
    assert code == 1 and len(out.splitlines()) == 6 and "not available: RedisBackend" in err
    code, out, err = cli("stats", *tiers)
    assert code == 1 and "degraded" in out


def test_memory_is_nothing_that_another_process_could_see(cli: Run) -> None:
    code, _, err = cli("ls", "-t", "memory://")
    assert code == 3 and "memory" in err
    assert MemoryCacheConfig().backend_type == "memory"


def test_wrong_words_are_a_matter_of_usage(cli: Run) -> None:
    for arguments, said in (
        (("lss",), "lss"),
        (("ls", "--srot", "key"), "--sort"),
        (("ls", "--sort", "colour"), "colour"),
        (("ls", "-n", "0"), "0"),
        (("completion", "tcsh"), "tcsh"),
        (("ls", "-t", "gs://b"), "does not exist"),
        (("ls", "--older-than", "-5s"), "cannot read"),
    ):
        code, out, err = cli(*arguments)
        assert (code, out, said in err) == (2, "", True), err


def test_completion_scripts_are_for_our_program(cli: Run) -> None:
    for shell in ("bash", "zsh", "fish"):
        code, out, _ = cli("completion", shell)
        assert code == 0 and "_COGCACHE_COMPLETE" in out and "cogcache" in out


def test_a_terminal_obeys_nothing_that_is_stored(place: Path, cli: Run) -> None:
    assert cli("put", "bad:tag", "--tag", "\x1b[31m[red]x", stdin="x")[0] == 0
    for arguments in (("stats",), ("show", "bad:tag")):
        out = cli(*arguments)[1]
        assert "\x1b" not in out and "\\x1b[31m[red]x" in out


def test_sizes_and_times_for_people() -> None:
    assert [size(n) for n in (0, 999, 1000, 13_134, 999_600, 5e9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "13.1 kB",
        "1.0 MB",
        "5.0 GB",
    ]
    assert [duration(n) for n in (None, 0, 100, 150, 7200, 90_000, 200_000)] == [
        "never",
        "0s",
        "100s",
        "2m",
        "2h",
        "25h",
        "2d",
    ]
    assert clean("a\nb\x1b") == "a\\nb\\x1b"
    assert [size_bytes(t, "n") for t in ("5", "5k", "1.5MB", "2 GiB")] == [
        5,
        5000,
        1_500_000,
        2 << 30,
    ]
    for wrong in ("", "x", "5X", "-5", "5iB", "1e5", "5" * 100):
        with pytest.raises(ConfigError, match="n: cannot read the size"):
            size_bytes(wrong, "n")
