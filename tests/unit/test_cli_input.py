"""The command line and what it is given: keys that look like something else, files that are not
what they should be, streams that are closed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commandline import caller

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig
from cogcache.cli.output import print_json

ROOT = Path(__file__).parents[2]
KEYS = ("*", "team:*", "safe:1", "safe:2", "x\nsafe:1", "two\u2028lines")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run a verb in a directory with a cache, which it uses."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("COGCACHE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "cogcache.toml").write_text('tiers = ["cache"]\n')
    manager = CacheManager(CacheConfig([FilesystemCacheConfig(str(tmp_path / "cache"))]))
    assert all(manager.sync.set_many(dict.fromkeys(KEYS, "value")).values())
    manager.sync.aclose()
    return caller(capfdbinary, monkeypatch)


def _keys(cli: Run) -> set[str]:
    return {one["key"] for one in json.loads(cli("ls", "--json")[1])["entries"]}


@pytest.mark.parametrize("key", ["*", "team:*", "safe:1", "two\u2028lines"])
def test_a_key_read_from_a_pipe_is_that_key_whatever_is_in_it(cli: Run, key: str) -> None:
    assert cli("rm", "-", "--yes", stdin=f"{key}\n")[0] == 0
    assert _keys(cli) == {*KEYS} - {key}


def test_keys_from_a_pipe_and_patterns_go_together(cli: Run) -> None:
    assert cli("rm", "-", "safe:*", "--yes", stdin="team:*\n")[0] == 0
    assert _keys(cli) == {*KEYS} - {"team:*", "safe:1", "safe:2"}


@pytest.mark.parametrize("stdin", ["", "\n\n", "nothing\n"])
def test_a_pipe_without_keys_deletes_nothing(cli: Run, stdin: str) -> None:
    assert cli("rm", "-", "--yes", stdin=stdin)[0] == 3
    assert _keys(cli) == {*KEYS}


def test_a_key_that_would_be_read_as_two_is_left_out_of_the_lines_and_said(cli: Run) -> None:
    code, out, err = cli("ls", "-q")
    assert code == 0
    assert sorted(out.split("\n")[:-1]) == sorted({*KEYS} - {"x\nsafe:1"})
    assert err == "cogcache: left out, for the line breaks in their keys: 1 entry; --json has all\n"


def test_an_archive_that_is_not_there_makes_no_cache(cli: Run, tmp_path: Path) -> None:
    code, _, err = cli("import", "no.tar", "-t", "new")
    assert (code, "'no.tar': No such file" in err) == (2, True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "content", "told"),
    [
        ("json", b'{"a": ', "file is no JSON: Expecting value"),
        ("json", b"\xff\xfe\x00", "file is no JSON: 'utf-8' codec can't decode"),
        ("text", b"\xff\xfe\x00", "file is no text: 'utf-8' codec can't decode"),
    ],
)
def test_a_file_that_is_not_what_was_said_is_named(
    cli: Run, tmp_path: Path, kind: str, content: bytes, told: str
) -> None:
    (tmp_path / "file").write_bytes(content)
    code, _, err = cli("put", "key", "file", "--as", kind, "-t", "new")
    assert (code, told in err) == (2, True)
    assert not (tmp_path / "new").exists()


def test_a_file_that_cannot_be_written_to_is_named(cli: Run) -> None:
    code, _, err = cli("get", "safe:1", "-o", "no/such/file")
    assert (code, "-o no/such/file: there is no directory" in err) == (1, True)


def test_an_artifact_without_a_video_is_asked_back(cli: Run) -> None:
    code, _, err = cli("explain", "transcript")
    assert (code, "of which video?" in err) == (2, True)


def test_an_option_before_the_verb_is_told_its_place(cli: Run) -> None:
    code, _, err = cli("-t", "cache", "ls")
    assert (code, "Options stand after the verb" in err) == (2, True)


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_stream_that_is_closed_costs_nothing_else(cli: Run, tmp_path: Path, closed: str) -> None:
    command = f'exec "{sys.executable}" -m cogcache ls {closed}>&-'
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"safe:1" in done.stdout) is (closed == "2")


def test_an_unbuffered_process_does_not_lose_the_rest_of_what_a_pipe_did_not_take(
    cli: Run, tmp_path: Path
) -> None:
    manager = CacheManager(CacheConfig([FilesystemCacheConfig(str(tmp_path / "cache"))]))
    assert manager.sync.set("large", "x" * 1_000_000)
    manager.sync.aclose()
    with subprocess.Popen(
        [sys.executable, "-m", "cogcache", "get", "large"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.read(10) == b"x" * 10
        program.stdout.close()  # a write that the pipe has taken a part of ends short
        assert program.wait(60) == 141


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_hold_is_an_error_with_its_place(
    cli: Run, tmp_path: Path, number: float
) -> None:
    manager = CacheManager(CacheConfig([FilesystemCacheConfig(str(tmp_path / "cache"))]))
    assert manager.sync.set("scores", {"all": [{"value": 1.5}, {"value": number}]})
    manager.sync.aclose()
    code, out, err = cli("get", "scores")
    assert (code, out) == (2, "")
    assert f"JSON has no number for {number} at $.all[1].value" in err


def test_an_object_for_programs_is_json_whatever_numbers_are_in_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_json(user={"score": math.nan, "more": [math.inf, -math.inf, 1.5]}, raw=b"\x01")
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "schema": 1,
        "user": {"score": "nan", "more": ["inf", "-inf", 1.5]},
        "raw": "01",
    }


def test_settings_are_read_from_a_regular_file(cli: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for name, kind in (("pipe.toml", "a pipe"), ("folder.toml", "a directory")):
        code, out, err = cli("ls", "--config", name)
        assert (code, out) == (2, "")
        assert err == (
            f"cogcache: {tmp_path / name}: is {kind}; settings are read from a regular file\n"
        )
    assert "/dev/zero: is a device" in cli("ls", "--config", "/dev/zero")[2]
    assert cli("ls", "--config", os.devnull, "-t", "cache", "-q")[0] == 0


@pytest.mark.parametrize(
    "arguments", [("prune", "--to", "-1"), ("ls", "--min-size", "-1"), ("warm", "--max-size", "-1")]
)
def test_a_size_that_cannot_be_is_told_with_its_option(
    cli: Run, arguments: tuple[str, ...]
) -> None:
    code, _, err = cli(*arguments)
    assert code == 2
    assert f"Invalid value for '{arguments[1]}': cannot read the size '-1'; write it like" in err
