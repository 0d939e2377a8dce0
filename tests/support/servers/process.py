"""A server of the tests: started, asked until it answers, killed, started again where it was."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

HOST = "127.0.0.1"
START_SECONDS = 300.0  # Swift needs a minute where everything else needs the processor too
PORT_IS_TAKEN = ("in use", "could not bind", "is not available on")  # as the servers say it
_given: set[int] = set()


class MissingServer(Exception):
    """A program that the tests start is not installed; the text says how to get it."""


class NotStarted(Exception):
    """A server ended at once or did not answer in time; the text ends with what it logged."""


def free_port() -> int:
    """A port that nobody listens on, outside the range the system takes ports for clients from.

    So a server that is killed finds it free when it is started again. Somebody may still take it
    before the server does: `Server.start` then tries another.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            _given.add(port)
            return port


class Server:
    """Base of all servers; also a context manager that starts and closes.

    A subclass lists `port_names`, writes its configuration in `prepare`, says what to run in
    `commands` and looks in `answers` whether the server answers as itself.

    Attributes:
        folder: where configuration, data and log lie; removed on close.
        ports: the ports by name, the same over kill and restart.
        pids: the processes that are running.
    """

    name = "server"
    port_names: tuple[str, ...] = ("main",)
    grace_seconds = 5.0

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self.pids: list[int] = []
        self._keeper: subprocess.Popen[str] | None = None
        self.folder = Path()

    # What a subclass fills in.

    def prepare(self) -> None:
        """Write configuration files for the ports just chosen."""

    def commands(self) -> list[dict[str, Any]]:
        """What to run: ``argv`` and optionally ``executable`` of each process."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Ask the server once; False or an OSError: not yet."""
        raise NotImplementedError

    def litter(self) -> list[str]:
        """Patterns of files that the server leaves outside its folder."""
        return []

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "LANG": "C.UTF-8",
        }

    # Life.

    @property
    def port(self) -> int:
        return self.ports[self.port_names[0]]

    def start(self) -> Self:
        """Start on free ports and wait until it answers. On taken ports: again on others."""
        self.commands_exist()
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        self.folder = Path(self._read()["folder"])
        for attempt in range(5):
            self.ports = {name: free_port() for name in self.port_names}
            self.prepare()
            try:
                self._launch()
            except NotStarted as error:
                said = str(error).lower()
                taken = any(words in said for words in PORT_IS_TAKEN)
                self._ask("kill")
                if not taken or attempt == 4:
                    self.close()
                    raise
            else:
                return self
        raise AssertionError

    def commands_exist(self) -> None:
        """Raise MissingServer when what has to be run is not installed."""

    def restart(self) -> None:
        """Kill it if it runs, then start it on the same ports and data, and wait for an answer."""
        self._ask("kill")
        self._launch()

    def kill(self) -> None:
        """SIGKILL to all its processes; returns when they are gone."""
        self._ask("kill")
        self.pids = []

    def stop(self) -> None:
        """End it as an administrator would; killed after `grace_seconds`."""
        self._ask("stop", grace=self.grace_seconds)
        self.pids = []

    def revive(self) -> None:
        """Have it run again, whatever a test did to it."""
        self.thaw()
        if not self.pids or any(code is not None for code in self._ask("status")["codes"]):
            self.restart()

    def freeze(self) -> None:
        """Stop its processes where they are: connections are taken and nothing answers."""
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End everything and remove the folder. May be called twice."""
        keeper, self._keeper, self.pids = self._keeper, None, []
        if keeper is not None:
            assert keeper.stdin is not None and keeper.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                keeper.stdin.close()
            keeper.wait(90)
            keeper.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self) -> str:
        """The end of what it wrote."""
        path = self.folder / "log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def _launch(self) -> None:
        self.pids = self._ask(
            "start",
            commands=self.commands(),
            cwd=str(self.folder),
            env=self.environment(),
            log=str(self.folder / "log"),
            litter=self.litter(),
        )["pids"]
        for _ in patiently(START_SECONDS):
            answered = False
            with contextlib.suppress(OSError):
                answered = self.answers()
            # Only now: what answered on this port may be somebody else, who kept ours from it.
            ended = [code for code in self._ask("status")["codes"] if code is not None]
            if ended:
                raise NotStarted(f"{self.name} ended with {ended} at its start:\n{self.log()}")
            if answered:
                return
        raise NotStarted(f"{self.name} did not answer in {START_SECONDS:g} s:\n{self.log()}")

    def _ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        assert self._keeper is not None and self._keeper.stdin is not None, "not started"
        self._keeper.stdin.write(json.dumps({"do": verb, **arguments}) + "\n")
        answer = self._read()
        if "error" in answer:
            raise NotStarted(f"{self.name}: {answer['error']}")
        return answer

    def _read(self) -> dict[str, Any]:
        assert self._keeper is not None and self._keeper.stdout is not None
        line = self._keeper.stdout.readline()
        assert line, f"the keeper of {self.name} is gone"
        answer: dict[str, Any] = json.loads(line)
        return answer


def patiently(seconds: float) -> Iterator[None]:
    """Turns of a loop that asks until something answers, with a short pause between them."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
        time.sleep(0.01)
