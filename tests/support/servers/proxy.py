"""A proxy before a server that counts what passes and makes faults: the tests' side of it."""

import base64
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from .certs import Certificate
from .process import HOST


class Proxy:
    """The fault proxy before one server; a context manager.

    Faults are set with `set` and stay until `clear` or `begin`. Each may be narrowed:

    - ``kind``: S3's name of the operation ("GetObject", "UploadPart"), or Redis' command ("MGET");
    - ``path``: a part of the object's path, or of the first word after the command;
    - ``skip``: leave out the first so many that match; ``every``: then take only each n-th;
    - ``times``: only so often.

    Faults of single requests (with ``kind`` and so on):

    ===================  ============================================================
    delay                wait ``seconds`` (+ up to ``jitter``) before the request goes on
    hold                 stop ``where="before"`` it reaches the server, or ``"after"`` the server
                         has answered, until `release`; see `wait_held`
    drop                 end the connection when the request has come (``how``: see below)
    lost_answer          the server does it, the client's connection ends without a word
    cut                  end the connection after ``after`` bytes of the answer, head included
    truncate             close after ``after`` bytes of the answer's body
    rate                 send the answer at ``bytes_per_second``, in portions of ``seconds`` (0.05)
    ===================  ============================================================

    Of S3 only:

    ===================  ============================================================
    status               answer ``status`` with ``code``, ``headers``; the server hears nothing, or
                         with ``committed=True`` does it first. ``status=200`` for a Complete is a
                         200 with an error in its body; ``page`` is a text in the place of the error
    flip                 one bit of the body, at bit ``at`` or anywhere
    swap                 bytes of another object that went by before under this answer's head; with
                         ``whole=True`` the other's head too; ``body=bytes``: these bytes
    header               set ``headers`` of the answer; None removes
    wrong_content_range  the range named is one byte off
    ignore_range         the whole object, status 200
    ignore_conditions    If-Match, If-None-Match and the like are not seen by the server
    no_continue          ``Expect: 100-continue`` is not answered
    cut_upload           end the connection after ``after`` bytes of the request's body
    rate_upload          take the request's body at ``bytes_per_second``
    ===================  ============================================================

    Of Redis only: ``error`` answers with ``text`` ("LOADING Redis is loading").

    Of the whole proxy: ``refuse`` (connections, those that are open are reset), ``unanswered``
    (connecting never ends), ``black_hole`` (connects, takes requests, says nothing).

    ``how`` is "reset" or "close". On protocol "tcp" the faults of single requests act on whole
    connections.
    """

    def __init__(
        self,
        upstream: int,
        protocol: str,
        *,
        access_key: str = "",
        secret_key: str = "",
        certificate: Certificate | None = None,
    ) -> None:
        self._settings = {
            "upstream": upstream,
            "protocol": protocol,
            "access_key": access_key,
            "secret_key": secret_key,
            "certificate": [certificate.chain, certificate.key] if certificate else None,
        }
        self.secure = certificate.chain if certificate else None
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self._control: socket.socket | None = None

    def start(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-m", "support.servers.proxy_process"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._settings) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the fault proxy ended at its start"
        ports = json.loads(line)
        self.port = ports["port"]
        self._control = socket.create_connection((HOST, ports["control"]))
        self._answers = self._control.makefile("r")
        return self

    def close(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None and self._process.stdout is not None
        assert self._control is not None
        self._answers.close()
        self._control.close()
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def endpoint_url(self) -> str:
        """For S3 clients."""
        return f"{'https' if self.secure else 'http'}://{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """For Redis clients."""
        return f"redis://{HOST}:{self.port}/0"

    def set(self, fault: str, **how: Any) -> int:
        """Make a fault from now on; the number it has is for `clear`."""
        if isinstance(how.get("body"), bytes):
            how["body"] = base64.b64encode(how["body"]).decode()
        number: int = self._ask("set", fault=fault, **how)
        return number

    def clear(self, number: int | None = None) -> None:
        """End one fault, or all."""
        self._ask("clear", number=number)

    def counts(self) -> dict[str, Any]:
        """What passed since the start or the last `zero`.

        ``connections``, ``open`` (now), ``requests``, ``kinds`` (requests by kind), ``bytes_up``
        (bodies of S3 requests, whole Redis commands), ``bytes_down`` (everything), ``body_down``
        (bodies of answers by kind), ``faults`` (requests that met one), ``turns`` (Redis: times a
        client had to wait for an answer before it sent on), ``held`` (now), ``errors`` (of the
        proxy itself)."""
        counts: dict[str, Any] = self._ask("counts")
        return counts

    def requests(self) -> list[dict[str, Any]]:
        """The requests in their order: ``kind``, ``path``, ``range``, ``status`` and ``tag`` (the
        ETag of the answer), or ``words``.
        """
        log: list[dict[str, Any]] = self._ask("requests")
        return log

    def zero(self) -> None:
        """Count from nothing again."""
        self._ask("zero")

    def begin(self) -> None:
        """No faults, no connections, nothing counted, and another port: as if it were a new one.

        What an earlier test asked for and gave up may still be asked for again by a thread of its
        client that waits for its next try. At the old port nobody answers it, so it can neither be
        counted nor meet a fault that is another test's.
        """
        self.port = self._ask("begin")

    def drop(self, how: str = "reset") -> None:
        """End all connections there are."""
        self._ask("drop", how=how)

    def wait_held(self, number: int = 1, seconds: float = 60.0) -> None:
        """Wait until so many requests are held."""
        held = self._ask("wait_held", number=number, seconds=seconds)
        assert held >= number, f"{held} of {number} requests were held after {seconds:g} s"

    def release(self) -> None:
        """Let go what is held; what comes later is held again until `clear`."""
        self._ask("release")

    def _ask(self, verb: str, **arguments: Any) -> Any:
        assert self._control is not None, "not started"
        self._control.sendall(json.dumps({"do": verb, **arguments}).encode() + b"\n")
        answer = json.loads(self._answers.readline())
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(answer["error"])
        return answer
