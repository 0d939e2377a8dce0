"""The command line as a program: pipes that end, Ctrl-C, terminals, and what is not installed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "cogcache"]
SECONDS = 60


def _environment(**more: str) -> dict[str, str]:
    kept = {name: v for name, v in os.environ.items() if not name.startswith("COGCACHE_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    manager = CacheManager(CacheConfig([FilesystemCacheConfig(str(tmp_path / "cache"))]))
    manager.sync.set("large", os.urandom(3_000_000))
    manager.sync.set_many({f"key:{number}:{'long' * 20}": number for number in range(1500)})
    manager.sync.aclose()
    return tmp_path / "cache"


@pytest.mark.parametrize("verb", [("get", "large"), ("ls", "-q")])
def test_a_reader_that_goes_away_ends_it_quietly(cache: Path, verb: tuple[str, ...]) -> None:
    with subprocess.Popen(
        [*PROGRAM, *verb, "-t", str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        cwd=cache.parent,
    ) as program:
        assert program.stdout is not None and program.stderr is not None
        assert program.stdout.read(10)
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(SECONDS) == 141


def test_output_that_cannot_be_written_is_a_failure(cache: Path) -> None:
    with open("/dev/full", "wb") as full:
        answer = subprocess.run(
            [*PROGRAM, "ls", "-q", "-t", str(cache)],
            stdout=full,
            stderr=subprocess.PIPE,
            env=_environment(),
            timeout=SECONDS,
        )
    assert (answer.returncode, b"No space left" in answer.stderr) == (1, True)
    assert answer.stderr.count(b"\n") == 1


def test_ctrl_c_is_130_and_keeps_nothing(cache: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "put", "half", "-t", str(cache)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        cwd=cache.parent,
    ) as program:
        assert program.stdin is not None and program.stderr is not None
        # More than a pipe holds: when this is written, the program is reading.
        program.stdin.write(b"x" * 4_000_000)
        program.stdin.flush()
        program.send_signal(signal.SIGINT)
        assert program.stderr.read() == b"cogcache: interrupted\n"
        assert program.wait(SECONDS) == 130
    answer = subprocess.run(
        [*PROGRAM, "get", "half", "-t", str(cache)],
        env=_environment(),
        cwd=cache.parent,
        capture_output=True,
        timeout=SECONDS,
    )
    assert (answer.returncode, answer.stderr) == (3, b"cogcache: half: absent\n")


_INTERRUPTING = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPTED_AT"]:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""
_SCRIPT = "import sys\nfrom cogcache.cli import main\nsys.exit(main())\n"


def _interrupted(folder: Path, at: str, *program: str) -> subprocess.CompletedProcess[str]:
    """What becomes of Ctrl-C when a program begins to import a module."""
    (folder / "sitecustomize.py").write_text(_INTERRUPTING)
    (folder / "cogcache").write_text(_SCRIPT)  # as pip installs it
    return subprocess.run(
        [sys.executable, *program],
        env=_environment(PYTHONPATH=f"{folder}{os.pathsep}{ROOT}", INTERRUPTED_AT=at),
        cwd=folder,
        capture_output=True,
        timeout=SECONDS,
        text=True,
    )


@pytest.mark.parametrize("program", [("-m", "cogcache"), ("-mcogcache",), ("cogcache",)])
@pytest.mark.parametrize("at", ["cogcache._types", "cogcache.manager", "cogcache.cli.listing"])
def test_ctrl_c_during_the_imports_is_130_without_a_traceback(
    tmp_path: Path, at: str, program: tuple[str, ...]
) -> None:
    answer = _interrupted(tmp_path, at, *program, "config", "--json")
    assert (answer.returncode, answer.stdout) == (130, "")
    assert answer.stderr == "cogcache: interrupted\n"


def test_ctrl_c_during_the_imports_of_another_program_is_its_own(tmp_path: Path) -> None:
    answer = _interrupted(tmp_path, "cogcache.manager", "-c", "import cogcache")
    assert answer.returncode != 130
    assert answer.stderr.startswith("Traceback") and "KeyboardInterrupt" in answer.stderr


def _on_a_terminal(arguments: list[str], typed: bytes = b"", **more: str) -> tuple[int, str]:
    """The exit code, and all that a program prints whose every stream is a terminal."""
    leader, follower = pty.openpty()
    program = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=_environment(TERM="xterm-256color", COLUMNS="120", **more),
        start_new_session=True,
    )
    os.close(follower)
    if typed:
        os.write(leader, typed)
    printed = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        printed += data
    os.close(leader)
    return program.wait(SECONDS), printed.decode()


def test_a_terminal_gets_colour_and_is_asked(cache: Path) -> None:
    here = ["-t", str(cache)]
    code, printed = _on_a_terminal(["ls", "-n", "1", *here])
    assert code == 0 and "\x1b[" in printed and "1,501 entries" in printed and "1 shown" in printed
    code, printed = _on_a_terminal(["ls", "-n", "1", *here], NO_COLOR="1")
    assert code == 0 and "\x1b[3" not in printed
    code, printed = _on_a_terminal(["rm", "large", *here], b"n\n")
    assert code == 1 and "Delete 1 entry, 3.0 MB? [y/N]" in printed
    code, printed = _on_a_terminal(["get", "large", *here])
    assert code == 2 and "not for a terminal" in printed
    code, printed = _on_a_terminal(["rm", "large", *here], b"y\n")
    assert code == 0 and "1 entry deleted" in printed


def test_without_click_it_says_what_to_install(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "class Hiding:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] not in ('click', 'rich'):\n"
        "            return self.finder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = map(Hiding, sys.meta_path)\n"
        "from cogcache.cli import main\n"
        "main()\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, "ls"],
        env=_environment(),
        cwd=tmp_path,
        capture_output=True,
        timeout=SECONDS,
        text=True,
    )
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == (
        "cogcache: the command line needs click: pip install 'cogcache-video[cli]'\n"
    )
