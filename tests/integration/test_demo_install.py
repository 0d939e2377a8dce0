"""What the examples need is installed once, and again when what they need has changed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

INSTALL = Path(__file__).resolve().parents[2] / "docs" / "examples" / "install.py"


class Machine:
    """The installer with a pip that only notes what it is asked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = importlib.util.spec_from_file_location("install_of_the_examples", INSTALL)
        assert spec is not None and spec.loader is not None
        self.module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.requirements = folder / "requirements"
        shutil.copytree(INSTALL.parent / "requirements", self.requirements)
        self.calls: list[str] = []
        self.fails = False
        self.speech = folder / "speech"
        monkeypatch.setattr(sys, "prefix", str(folder))
        monkeypatch.setattr(self.module, "REQUIREMENTS", self.requirements)
        monkeypatch.setattr(self.module, "SPEECH", self.speech)
        monkeypatch.setattr(self.module, "pip", self.pip)
        monkeypatch.setattr(self.module, "fetch_speech", Path.mkdir)

    def pip(self, *arguments: str) -> None:
        if self.fails:
            raise subprocess.CalledProcessError(1, ["python", "-m", "pip", "", "", *arguments])
        self.calls.append(Path(arguments[-1]).name)

    def install(self, *arguments: str) -> list[str]:
        """Which requirement files were installed."""
        self.calls.clear()
        assert self.module.main(list(arguments)) == 0
        return list(self.calls)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_the_second_run_installs_nothing(machine: Machine) -> None:
    assert machine.install() == ["libraries.txt", "no-deps.txt", "data.txt"]
    assert machine.speech.is_dir()
    assert machine.install() == []
    assert machine.install("--fleet") == ["fleet.txt"]
    assert machine.install("--fleet") == []
    assert machine.install() == []


def test_what_has_changed_is_installed_again(machine: Machine) -> None:
    machine.install("--fleet")
    with open(machine.requirements / "fleet.txt", "a") as file:
        file.write("# newer\n")
    assert machine.install("--fleet") == ["fleet.txt"]
    with open(machine.requirements / "data.txt", "a") as file:
        file.write("# newer\n")
    assert machine.install("--fleet") == ["libraries.txt", "no-deps.txt", "data.txt"]


def test_a_failure_is_told_and_the_next_run_goes_on(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.install()
    machine.fails = True
    assert machine.module.main(["--fleet"]) == 1
    assert "run the same command again" in capsys.readouterr().err
    machine.fails = False
    assert machine.install("--fleet") == ["fleet.txt"]


def test_an_unknown_option_is_refused(machine: Machine) -> None:
    assert machine.module.main(["--everything"]) == 2
    assert machine.calls == []
