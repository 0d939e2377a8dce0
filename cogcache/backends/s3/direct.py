"""Reads and writes of objects over connections of our own, signed by us: the same requests as those
of boto3's client at a tenth of its processor time, most of which holds the interpreter.

boto3 stays the one who knows: where requests go, whether a store is addressed by path or by host,
and for which region is signed, is learnt from the requests that it sends; credentials come from its
provider, frozen anew for each request. What is not plain and quick is left to it: whatever has a
header that is not known here, a proxy, another kind of signature, every answer but success and the
few refusals that say all by their status, and every failure of a connection. It then asks once
more, which is the second try, so redirects, retries and the words of errors are its.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import SystemRandom
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from cogcache.backends.faults import RemoteError
from cogcache.backends.lanes import Call
from cogcache.backends.s3.errors import error_of_answer
from cogcache.backends.s3.http1 import Body, Connection, Connections, Head
from cogcache.backends.s3.payload import Payload
from cogcache.backends.s3.sigv4 import EMPTY, UNSIGNED, Credentials, Signer, path_of, query_of

__all__ = ["OPERATIONS", "Direct", "Patience"]

OPERATIONS: Final = {"get_object": "GET", "put_object": "PUT", "upload_part": "PUT"}
Again = Literal["failed", "refused"]
MISTRUSTED: Final = 3  # refusals in a row that boto3 did not get, and we are doing something wrong
_HEADERS: Final = {
    "Range": "range",
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
    "ChecksumCRC32": "x-amz-checksum-crc32",
}
_OTHERS: Final = frozenset({"Key", "Body", "Metadata", "UploadId", "PartNumber"})
_META: Final = "x-amz-meta-"
# Of boto3's requests: what we send too, and what says nothing to the store.
_KNOWN: Final = frozenset(
    {
        *_HEADERS.values(),
        "accept-encoding",
        "amz-sdk-invocation-id",
        "amz-sdk-request",
        "authorization",
        "content-length",
        "host",
        "user-agent",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
        "x-amzn-trace-id",
    }
)
_SCOPE: Final = re.compile(r"AWS4-HMAC-SHA256 Credential=[^,]*/([^/,]+)/s3/aws4_request,")
_CODE: Final = re.compile(rb"<Code>([A-Za-z0-9]+)</Code>")
_MESSAGE: Final = re.compile(rb"<Message>([^<]*)</Message>")
_ABSENT: Final = frozenset({b"NoSuchKey", b"NoSuchUpload"})
_TAKEN: Final = frozenset({200, 202})
_BUSY: Final = frozenset({429, 500, 502, 503, 504})
SLOW_BYTES_A_SECOND: Final = 256 << 10  # of a body that shares the way with three others
_SHORT: Final = 64 << 10  # bytes of a body that only says what was wrong


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds of one lane.

    Attributes:
        connect: For a new connection.
        read: Without a byte of progress.
    """

    connect: float
    read: float

    def after(self, body: Payload | None) -> float:
        """Seconds until an answer begins: what was sent may lie in buffers of the way for long."""
        return self.read + (len(body) / SLOW_BYTES_A_SECOND if body is not None else 0.0)


@dataclass(frozen=True, slots=True)
class _Where:
    """Where requests go: all but the object of an address.

    Attributes:
        scheme: ``"http"`` or ``"https"``.
        host: As the header says it.
        name: Of the server, to connect to.
        port: Of it.
        base: Of every path, before the slash that the name of an object follows.
        region: That is signed for.
        agent: What we call ourselves.
    """

    scheme: str
    host: str
    name: str
    port: int
    base: str
    region: str
    agent: str


def where_of(request: Any, name: str) -> _Where | None:
    """Where a request of boto3 for an object went; ``None`` if there is more to it than we know."""
    headers = {key.lower(): _text(value) for key, value in request.headers.items()}
    if any(key not in _KNOWN and not key.startswith(_META) for key in headers):
        return None
    scope = _SCOPE.match(headers.get("authorization", ""))
    url = urlsplit(request.url)
    path = path_of(name)
    if scope is None or url.scheme not in ("http", "https") or not url.hostname:
        return None
    if not url.path.endswith("/" + path):
        return None
    usual = 443 if url.scheme == "https" else 80
    port = url.port or usual
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return _Where(
        url.scheme,
        host if port == usual else f"{host}:{port}",
        url.hostname,
        port,
        url.path[: -len(path) - 1],
        scope[1],
        headers.get("user-agent", ""),
    )


class Direct:
    """Requests to one bucket that boto3 is spared. Usable from any thread.

    Args:
        credentials: Those of now.
        sign_payloads: Whether the hash of what is sent is signed.
        trust: The file with the authorities that TLS trusts.
        proxied: Whether a URL is reached through a proxy.
        patience: By the name of the lane.
        count: Told of each request that is sent: its operation, and the bytes it carries.
        heed: Told of the status of each answer.

    Attributes:
        answered: Requests that boto3 was spared.
    """

    def __init__(
        self,
        credentials: Callable[[], Credentials],
        *,
        sign_payloads: bool,
        trust: Callable[[], str],
        proxied: Callable[[str], bool],
        patience: Mapping[str, Patience],
        count: Callable[[str, int], None],
        heed: Callable[[int], None],
    ) -> None:
        self._credentials = credentials
        self._sign_payloads = sign_payloads
        self._trust = trust
        self._proxied = proxied
        self._patience = patience
        self._count = count
        self._heed = heed
        self._tick = min(0.25, *(one.read / 4 for one in patience.values()))
        self._way: tuple[_Where, Signer, Connections] | None = None
        self._refused = 0
        self.answered = 0

    def learn(self, request: Any, name: str) -> None:
        """Take note of a request for an object that boto3 is about to send."""
        where = where_of(request, name)
        way = self._way
        if way is not None and way[0] == where:
            return
        made = None
        if where is not None and not self._proxied(request.url):
            with contextlib.suppress(OSError):  # without authorities boto3 says what is wrong
                context = self._context() if where.scheme == "https" else None
                kept = Connections(where.name, where.port, context, self._tick)
                made = (where, Signer(where.region), kept)
        self._way = made
        if way is not None:
            way[2].close()

    def takes(self, operation: str, params: Mapping[str, Any]) -> bool:
        """Whether such a request may be sent here."""
        return (
            self._way is not None
            and self._refused < MISTRUSTED
            and operation in OPERATIONS
            and all(name in _HEADERS or name in _OTHERS for name in params)
        )

    def send(
        self, call: Call, lane: str, operation: str, params: Mapping[str, Any]
    ) -> dict[str, Any] | Again:
        """One request and its answer in the shape of boto3's, with a ``Body`` of ours; or why boto3
        has to ask.

        Raises:
            RemoteError: There is no such object, or a condition does not hold; or nobody waits any
                more.
        """
        way = self._way
        if way is None:
            return "failed"
        where, signer, kept = way
        patience = self._patience[lane]
        body: Payload | None = params.get("Body")
        head = self._head_of(where, signer, operation, params, body)
        if head is None:
            return "refused"
        connection: Connection | None = None
        try:
            self._count(operation, 0 if body is None else len(body))
            connection = kept.take(call, patience.connect)
            connection.send(call, patience.read, head, [] if body is None else body.pieces)
            answer = connection.read_head(call, patience.after(body))
        except RemoteError:
            if connection is not None:
                connection.close()
            raise
        except (OSError, ValueError):
            if connection is not None:
                connection.close()
            call.check()
            return "failed"
        return self._answered(
            call, operation, answer, Body(connection, answer, call, patience.read, kept.give_back)
        )

    def was_wrong(self) -> None:
        """boto3 got what was refused here."""
        self._refused += 1

    def close(self) -> None:
        """Close what is idle; a request makes new connections."""
        way, self._way = self._way, None
        if way is not None:
            way[2].close()

    # --- inside -----------------------------------------------------------------------------------

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._trust())
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _head_of(
        self,
        where: _Where,
        signer: Signer,
        operation: str,
        params: Mapping[str, Any],
        body: Payload | None,
    ) -> bytes | None:
        method = OPERATIONS[operation]
        headers = {_HEADERS[name]: value for name, value in params.items() if name in _HEADERS}
        for name, value in params.get("Metadata", {}).items():
            headers[_META + name] = value
        headers["host"] = where.host
        path = f"{where.base}/{path_of(params['Key'])}"
        query = ""
        if "UploadId" in params:
            query = query_of(
                [("partNumber", str(params["PartNumber"])), ("uploadId", params["UploadId"])]
            )
        payload = EMPTY
        if body is not None:
            payload = body.sha256() if self._sign_payloads else UNSIGNED
        signed = signer.sign(
            method, path, query, headers, payload, self._credentials(), time.time()
        )
        lines = [f"{method} {path}{'?' if query else ''}{query} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in signed.items()]
        lines.append(f"user-agent: {where.agent}")
        lines.append("accept-encoding: identity")
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        text = "\r\n".join(lines)
        if not text.isascii() or text.count("\r") + text.count("\n") != 2 * (len(lines) - 1):
            return None  # a value that is not of one line
        return f"{text}\r\n\r\n".encode()

    def _answered(
        self, call: Call, operation: str, head: Head, body: Body
    ) -> dict[str, Any] | Again:
        self._heed(head.status)
        if head.status in (200, 206) and operation == "get_object":
            return self._understood(_as_boto3(head) | {"Body": body})
        said = _short(body, head.length)
        if head.status in _TAKEN and len(said) == head.length and _CODE.search(said) is None:
            # Without an ETag too: Swift has a page for what met a newer object, and to send it
            # again would make it the newest.
            return self._understood(_as_boto3(head))
        if head.status in (304, 404, 412, 416):
            code = _CODE.search(said)
            if head.status != 404 or (code is not None and code[1] in _ABSENT):
                self._understood({})
                raise _error_of(head, said, operation)
        if head.status in _BUSY:
            left = call.deadline - time.monotonic()
            time.sleep(max(0.0, min(1.0, left / 2)) * SystemRandom().random())
            call.check()
            return "failed"
        return "refused"

    def _understood(self, answer: dict[str, Any]) -> dict[str, Any]:
        self._refused = 0
        self.answered += 1
        return answer


def _as_boto3(head: Head) -> dict[str, Any]:
    headers = head.headers
    answer: dict[str, Any] = {
        "ResponseMetadata": {"HTTPStatusCode": head.status, "HTTPHeaders": headers},
        "ContentLength": head.length,
        "Metadata": {
            name[len(_META) :]: value for name, value in headers.items() if name.startswith(_META)
        },
    }
    if "etag" in headers:
        answer["ETag"] = headers["etag"]
    if "content-range" in headers:
        answer["ContentRange"] = headers["content-range"]
    return answer


def _error_of(head: Head, said: bytes, operation: str) -> RemoteError:
    code, message = _CODE.search(said), _MESSAGE.search(said)
    return error_of_answer(
        {
            "Error": {
                "Code": "" if code is None else code[1].decode(),
                "Message": "" if message is None else message[1].decode("utf-8", "replace"),
            },
            "ResponseMetadata": {"HTTPStatusCode": head.status, "HTTPHeaders": head.headers},
        },
        operation,
    )


def _short(body: Body, length: int) -> bytes:
    """All of a body that is no object; nothing of a long one, or one that breaks off."""
    data = bytearray(length if length <= _SHORT else 0)
    at = 0
    try:
        while at < len(data):
            count = body.readinto(memoryview(data)[at:])
            if not count:
                return b""
            at += count
    except OSError as error:
        if isinstance(error, RemoteError):
            raise
        return b""
    finally:
        body.close()
    return bytes(data)


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
