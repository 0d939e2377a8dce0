"""An S3 store on this machine for the time of the example: SeaweedFS, one program from a wheel.

It listens on this machine only and keeps everything in a folder of the example. A guard process
(this file, run as a program) holds it and ends it when the example is gone, however it went.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import json
import os
import random
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HOST = "127.0.0.1"
BUCKET = "artifacts"
START_SECONDS = 60.0
# Ports of SeaweedFS: each of its servers has one for gRPC beside its own.
PORT_NAMES = tuple(
    name + grpc for name in ("s3", "master", "volume", "filer", "admin") for grpc in ("", ".grpc")
)


class StoreError(Exception):
    """The store is not installed or does not start; the message says what to do, or why."""


class Store:
    """A SeaweedFS in ``folder``, from ``async with`` on; also killed and started again.

    Attributes:
        bucket: Where the pods keep their artifacts.
        endpoint_url: Where it answers.
        credentials: For the environment of whoever may use it.
    """

    bucket = BUCKET

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.credentials = {
            "AWS_ACCESS_KEY_ID": "AK" + secrets.token_hex(9).upper(),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "AWS_REGION": "us-east-1",
        }
        self._program = program()
        self._ports: dict[str, int] = {}
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        return f"http://{HOST}:{self._ports['s3']}"

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True)
        for again in (True, True, False):
            self._choose_ports()
            try:
                await self.start()
            except StoreError:  # somebody may have taken a port meanwhile
                if not again:
                    raise
            else:
                return self
        raise AssertionError("unreachable")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    async def start(self) -> None:
        """Start it on its ports, with the data that it has, and wait until it answers.

        Raises:
            StoreError: It ended at once, or did not answer within a minute.
        """
        guard = self._guard = self._launch()
        try:
            until = time.monotonic() + START_SECONDS
            while not await asyncio.to_thread(self._answers):
                if guard.poll() is not None:
                    raise StoreError(f"{self._program} ended at its start:\n{self._said()}")
                if time.monotonic() > until:
                    raise StoreError(
                        f"{self._program} did not answer within {START_SECONDS:g} s:\n"
                        f"{self._said()}"
                    )
                await asyncio.sleep(0.1)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """``kill -9``; returns when it is gone. Does nothing when it does not run."""
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            guard.wait()

    def _launch(self) -> subprocess.Popen[bytes]:
        with open(self.folder / "log", "ab") as log:
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(self.folder)],  # the folder is for ps
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "TMPDIR": str(self.folder), "HOME": str(self.folder)},
                start_new_session=True,  # Ctrl-C is for the example, which ends it in its turn
            )
        assert guard.stdin is not None
        # What it leaves in /tmp, whatever TMPDIR says.
        litter = [f"/tmp/seaweedfs-*-{port}.sock" for port in self._ports.values()]
        guard.stdin.write(json.dumps({"command": self._command(), "litter": litter}).encode())
        guard.stdin.write(b"\n")
        guard.stdin.flush()
        return guard

    def _choose_ports(self) -> None:
        chosen: set[int] = set()
        while len(chosen) < len(PORT_NAMES):
            port = random.randrange(10_000, 32_000)  # below those that clients get
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.bind((HOST, port))
                chosen.add(port)
        self._ports = dict(zip(PORT_NAMES, chosen, strict=True))

    def _command(self) -> list[str]:
        identity = {
            "name": "example",
            "credentials": [
                {
                    "accessKey": self.credentials["AWS_ACCESS_KEY_ID"],
                    "secretKey": self.credentials["AWS_SECRET_ACCESS_KEY"],
                }
            ],
            "actions": ["Admin", "Read", "List", "Write"],
        }
        path = self.folder / "s3.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps({"identities": [identity]}))
        (self.folder / "data").mkdir(exist_ok=True)
        return command_of(self._program, self._ports, self.folder / "data")

    def _answers(self) -> bool:
        """Whether it gives an object back: it lists buckets before it knows where its data is."""
        from botocore.exceptions import BotoCoreError, ClientError

        with contextlib.suppress(OSError), socket.create_connection((HOST, self._ports["s3"]), 1):
            s3 = self._client()
            try:
                return bool(s3.get_object(Bucket=BUCKET, Key="ready")["Body"].read() == b"ready")
            except BotoCoreError:
                return False
            except ClientError as error:
                lacks = error.response.get("Error", {}).get("Code")
            with contextlib.suppress(BotoCoreError, ClientError):
                if lacks == "NoSuchBucket":
                    s3.create_bucket(Bucket=BUCKET)
                if lacks in ("NoSuchBucket", "NoSuchKey"):
                    s3.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
            s3.close()
        return False

    def _client(self) -> Any:
        import boto3.session
        from botocore.config import Config

        session = boto3.session.Session(
            self.credentials["AWS_ACCESS_KEY_ID"],
            self.credentials["AWS_SECRET_ACCESS_KEY"],
            region_name=self.credentials["AWS_REGION"],
        )
        config = Config(
            connect_timeout=2,
            read_timeout=5,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
        )
        return session.client("s3", endpoint_url=self.endpoint_url, config=config)

    def _said(self) -> str:
        lines = (self.folder / "log").read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-12:]) or "    (it said nothing)"


def command_of(program: str, ports: Mapping[str, int], data: Path) -> list[str]:
    """SeaweedFS in one process: its sockets are in the working directory, and so is ``s3.json``,
    which says who may use it. The tests start it so, too.

    Args:
        program: Where it is.
        ports: By the names of ``PORT_NAMES``.
        data: A folder for what it keeps.
    """
    flags = {
        "dir": str(data),
        "ip": HOST,
        "ip.bind": HOST,
        "master.telemetry": "false",
        "volume.max": "0",
        "s3.config": "s3.json",
        "s3.autoCreateBucket": "false",
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "webdav": "false",
        "admin.ui": "false",
        "filer.localSocket": "filer.sock",
        "s3.localSocket": "s3.sock",
    }
    for name, port in ports.items():
        server, _, grpc = name.partition(".")
        flags[f"{server}.port{'.grpc' if grpc else ''}"] = str(port)
    return [program, "mini", *(f"-{name}={value}" for name, value in flags.items())]


def program() -> str:
    """Where SeaweedFS is: beside this Python, or on the PATH.

    Raises:
        StoreError: Nowhere.
    """
    beside = Path(sysconfig.get_path("scripts"), "weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        install = Path(__file__).resolve().parents[1] / "install.py"
        raise StoreError(
            "weed (SeaweedFS) is not installed; `make demo-fleet` brings everything, or run\n"
            f"    {sys.executable} {install} --fleet"
        )
    return found


def guard() -> int:
    """Run what the first line of standard input says until that input ends, then kill it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    order = json.loads(sys.stdin.readline())
    server = subprocess.Popen(order["command"], stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while server.poll() is None:
            ready, _, _ = select.select([sys.stdin], [], [], 0.2)
            if ready:
                break
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        for pattern in order["litter"]:
            for path in glob.glob(pattern):
                os.unlink(path)
    return 1


if __name__ == "__main__":
    sys.exit(guard())
