"""The set-up scripts on machines that lack something: made of a PATH with stand-ins on it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What a minimal Debian has, as far as the scripts use it.
BASE = ["sh", "cat", "cut", "dirname", "id", "mktemp", "mv", "rm", "sed", "tr"]


class Machine:
    """A PATH with only the named tools on it, and a record of what stand-ins were called with."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.log = folder / "log"
        self.log.touch()
        self.home = folder / "home"
        self.home.mkdir()
        for tool in BASE:
            self.link(tool)

    def link(self, tool: str) -> None:
        path = shutil.which(tool)
        assert path, f"this test needs {tool}"
        (self.bin / tool).symlink_to(path)

    def stand_in(self, tool: str, body: str = "") -> None:
        path = self.bin / tool
        path.unlink(missing_ok=True)
        path.write_text(f'#!/bin/sh\necho "{tool} $*" >>"{self.log}"\n{body}\n')
        path.chmod(0o755)

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env={"PATH": str(self.bin), "HOME": str(self.home), "LANG": "C.UTF-8", **env},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
            check=False,
        )

    def setup(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("sh", ".ci/setup", *arguments, **{"PYTHON": sys.executable, **env})

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# A cc that works once apt-get was here.
WORKING_COMPILER = """
while [ $# -gt 0 ]; do [ "$1" = -o ] && { : >"$2"; chmod +x "$2"; exit 0; }; shift; done
"""


def make_apt(machine: Machine) -> None:
    """An apt-get whose install brings a compiler, make and pkg-config."""
    machine.stand_in(
        "apt-get",
        f"""
        case "$*" in *install*) ;; *) exit 0 ;; esac
        for tool in cc make pkg-config clang; do
            [ ! -e "{machine.home}/$tool" ] || mv "{machine.home}/$tool" "{machine.bin}/$tool"
        done""",
    )
    for tool in ("cc", "make", "pkg-config", "clang"):
        machine.stand_in(tool, WORKING_COMPILER)
        (machine.bin / tool).rename(machine.home / tool)
    machine.link("chmod")


def test_without_apt_every_package_manager_is_named(machine: Machine) -> None:
    answer = machine.setup()
    assert answer.returncode == 1
    assert answer.stdout == ""
    for command in (
        "apt-get install build-essential make pkg-config libzstd-dev libxxhash-dev",
        "dnf install gcc make pkgconf-pkg-config libzstd-devel xxhash-devel",
        "apk add build-base make pkgconf zstd-dev xxhash-dev",
        "brew install pkgconf zstd xxhash",
        "conda install -c conda-forge c-compiler make pkg-config zstd xxhash",
    ):
        assert command in answer.stderr


def test_root_installs_what_is_missing_through_apt(machine: Machine) -> None:
    machine.stand_in("id", "echo 0")
    make_apt(machine)
    answer = machine.setup()
    assert answer.returncode == 0, answer.stderr
    apt = [call for call in machine.calls() if call.startswith("apt-get")]
    assert apt[0].endswith("update")
    assert apt[1].endswith("install build-essential make pkg-config libzstd-dev libxxhash-dev")


def test_another_user_installs_through_sudo(machine: Machine) -> None:
    machine.stand_in("id", "echo 1000")
    machine.stand_in("sudo", '"$@"')
    make_apt(machine)
    answer = machine.setup()
    assert answer.returncode == 0, answer.stderr
    sudo = [call for call in machine.calls() if call.startswith("sudo")]
    assert sudo
    assert {call.split()[1] for call in sudo} == {"apt-get"}


def test_another_user_without_sudo_is_told_the_command(machine: Machine) -> None:
    machine.stand_in("id", "echo 1000")
    make_apt(machine)
    answer = machine.setup()
    assert answer.returncode == 1
    assert "no sudo" in answer.stderr
    assert "apt-get install build-essential" in answer.stderr
    assert not [call for call in machine.calls() if call.startswith("apt-get")]


def test_a_complete_machine_is_left_alone(machine: Machine) -> None:
    machine.stand_in("apt-get")
    for tool in ("cc", "make", "pkg-config", "spin"):
        machine.stand_in(tool, WORKING_COMPILER)
    machine.link("chmod")
    answer = machine.setup()
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == ""
    assert not [call for call in machine.calls() if call.startswith("apt-get")]


def test_going_on_without_an_extra_is_said(machine: Machine) -> None:
    machine.stand_in("id", "echo 0")
    machine.stand_in("apt-get", 'case "$*" in *spin*) exit 100 ;; esac')
    for tool in ("cc", "make", "pkg-config"):
        machine.stand_in(tool, WORKING_COMPILER)
    machine.link("chmod")
    answer = machine.setup()
    assert answer.returncode == 0, answer.stderr
    assert "Going on without spin" in answer.stdout


def test_fuzzing_needs_clang_as_well(machine: Machine) -> None:
    machine.stand_in("id", "echo 0")
    make_apt(machine)
    answer = machine.setup("--fuzz")
    assert answer.returncode == 0, answer.stderr
    assert [call for call in machine.calls() if call.endswith("libxxhash-dev clang")]


def complete(machine: Machine) -> None:
    for tool in ("cc", "make", "pkg-config", "spin"):
        machine.stand_in(tool, WORKING_COMPILER)
    machine.link("chmod")


def test_servers_for_the_tests_come_without_their_services(machine: Machine) -> None:
    complete(machine)
    machine.stand_in("id", "echo 0")
    brought = {"redis-tools": "redis-check-rdb", "python3-swift": "python-of-swift"}
    installs = "".join(
        f'case "$*" in *install*{package}*) mv "{machine.home}/{tool}" "{machine.bin}" ;; esac\n'
        for package, tool in brought.items()
    )
    for tool in brought.values():
        machine.stand_in(tool)
        (machine.bin / tool).rename(machine.home / tool)
    machine.stand_in("apt-get", installs)
    of_swift = str(machine.bin / "python-of-swift")
    for _ in range(2):
        answer = machine.setup("--servers", COGCACHE_TEST_SWIFT_PYTHON=of_swift)
        assert answer.returncode == 0, answer.stderr
    apt = [call for call in machine.calls() if "install" in call]
    assert len(apt) == 1
    assert apt[0].endswith("install redis-tools python3-swift")


def test_servers_that_are_to_be_left_out_are_not_installed(machine: Machine) -> None:
    complete(machine)
    machine.stand_in("apt-get")
    lacking = {"COGCACHE_TEST_SWIFT_PYTHON": str(machine.bin / "absent")}
    answer = machine.setup("--servers", COGCACHE_TEST_WITHOUT="redis,swift", **lacking)
    assert answer.returncode == 0, answer.stderr
    assert not [call for call in machine.calls() if call.startswith("apt-get")]


def test_missing_servers_are_named_with_a_way_round(machine: Machine) -> None:
    complete(machine)
    lacking = {"COGCACHE_TEST_SWIFT_PYTHON": str(machine.bin / "absent")}
    assert machine.setup(**lacking).returncode == 0
    answer = machine.setup("--servers", **lacking)
    assert answer.returncode == 1
    for text in (
        "lacks: redis swift",
        "apt-get install redis-tools python3-swift",
        "brew install redis",
        "COGCACHE_TEST_WITHOUT=redis,swift",
    ):
        assert text in answer.stderr


def test_no_python_is_said_clearly(machine: Machine) -> None:
    machine.stand_in("python3", "echo 3.9 /usr/bin/python3; exit 1")
    answer = machine.run("sh", ".ci/python")
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "No CPython >= 3.11" in answer.stderr


def test_a_shim_that_does_not_run_is_passed_over(machine: Machine) -> None:
    machine.stand_in("python3", "echo 'python3: command not found' >&2; exit 127")
    machine.stand_in("python3.12", f'exec "{sys.executable}" "$@"')
    answer = machine.run("sh", ".ci/python")
    assert answer.returncode == 0, answer.stderr
    assert os.path.samefile(answer.stdout.strip(), sys.executable)


def test_a_named_python_that_is_too_old_is_refused(machine: Machine) -> None:
    machine.stand_in("old", "exit 1")
    machine.stand_in("python3", f'exec "{sys.executable}" "$@"')
    answer = machine.run("sh", ".ci/python", PYTHON=str(machine.bin / "old"))
    assert answer.returncode == 1
    assert f"PYTHON={machine.bin}/old is not" in answer.stderr
