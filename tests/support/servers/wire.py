"""HTTP/1.1 and RESP as the fault proxy and the bare store read and write them; S3's signature."""

import asyncio
import datetime
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

PIECE = 1 << 18
Headers = list[tuple[str, str]]


@dataclass
class Message:
    """The head of a request (``first`` = method, target, version) or of an answer."""

    first: list[str]
    headers: Headers

    def get(self, name: str) -> str | None:
        for found, value in self.headers:
            if found.lower() == name.lower():
                return value
        return None

    def set(self, name: str, value: str | None) -> None:
        """Put one value in place of all; None removes."""
        kept = [pair for pair in self.headers if pair[0].lower() != name.lower()]
        self.headers[:] = kept if value is None else [*kept, (name, value)]

    def encode(self) -> bytes:
        lines = [" ".join(self.first), *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass
class Request(Message):
    body: bytes = b""
    kind: str = field(init=False, default="")
    path: str = field(init=False, default="")  # decoded, with the bucket
    query: list[tuple[str, str]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        target = urlsplit(self.first[1])
        self.path = unquote(target.path)
        self.query = parse_qsl(target.query, keep_blank_values=True)
        self.kind = self._operation()

    @property
    def method(self) -> str:
        return self.first[0]

    def _operation(self) -> str:
        """What S3 calls this request."""
        names = {name for name, _ in self.query}
        bucket, _, key = self.path.lstrip("/").partition("/")
        if not bucket:
            return "ListBuckets"
        many = {
            ("POST", "uploads"): "CreateMultipartUpload",
            ("POST", "uploadId"): "CompleteMultipartUpload",
            ("POST", "delete"): "DeleteObjects",
            ("PUT", "partNumber"): "UploadPart",
            ("DELETE", "uploadId"): "AbortMultipartUpload",
            ("GET", "uploadId"): "ListParts",
            ("GET", "uploads"): "ListMultipartUploads",
            ("GET", "list-type"): "ListObjectsV2",
        }
        for (method, name), kind in many.items():
            if self.method == method and name in names:
                return kind
        aspect = names & {"tagging", "lifecycle", "versioning", "acl", "location", "policy"}
        if aspect:
            return self.method.capitalize() + ("Object" if key else "Bucket") + min(aspect).title()
        if self.method == "PUT" and self.get("x-amz-copy-source"):
            return "CopyObject"
        kind = self.method.capitalize() + ("Object" if key else "Bucket")
        return {"GetBucket": "ListObjects", "PutBucket": "CreateBucket"}.get(kind, kind)


async def read_head(reader: asyncio.StreamReader) -> tuple[list[str], Headers] | None:
    """The first line, split in three, and the headers; None at the end of the stream."""
    lines: list[str] = []
    while True:
        line = await reader.readline()
        if not line:
            return None
        text = line.decode("latin-1").rstrip("\r\n")
        if not text and lines:
            break
        if text:
            lines.append(text)
    pairs = [line.split(":", 1) for line in lines[1:]]
    return lines[0].split(" ", 2), [(name.strip(), value.strip()) for name, value in pairs]


async def pieces(reader: asyncio.StreamReader, head: Message, empty: bool) -> AsyncIterator[bytes]:
    """The body that follows ``head``, a piece at a time, without the framing of chunks."""
    length = head.get("content-length")
    if empty:
        return
    if "chunked" in (head.get("transfer-encoding") or "").lower():
        while size := int((await reader.readline()).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readline()
        while (await reader.readline()).strip():
            pass
    elif length is None:
        while data := await reader.read(PIECE):
            yield data
    else:
        left = int(length)
        while left:
            data = await reader.read(min(left, PIECE))
            if not data:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(data)
            yield data


def sign(request: Request, access_key: str, secret_key: str) -> None:
    """Sign an altered request anew, version 4, leaving its body's digest as it is."""
    given = request.get("authorization") or ""
    if "Credential=" not in given:
        return
    scope = given.split("Credential=")[1].split(",")[0].split("/", 1)[1]
    date, region, service, _ = scope.split("/")
    signed = sorted(
        {
            name.lower()
            for name, _ in request.headers
            if name.lower() in ("host", "content-md5", "content-type", "range")
            or name.lower().startswith(("x-amz-", "if-"))
        }
    )
    target = urlsplit(request.first[1])
    parameters = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in request.query
    )
    canonical = "\n".join(
        [
            request.method,
            target.path,
            "&".join(f"{name}={value}" for name, value in parameters),
            *(f"{name}:{' '.join((request.get(name) or '').split())}" for name in signed),
            "",
            ";".join(signed),
            request.get("x-amz-content-sha256") or "UNSIGNED-PAYLOAD",
        ]
    )
    stamp = request.get("x-amz-date") or f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}"
    text = "\n".join(
        ["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = b"AWS4" + secret_key.encode()
    for step in (date, region, service, "aws4_request", text):
        key = hmac.digest(key, step.encode(), "sha256")
    request.set(
        "Authorization",
        f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, "
        f"SignedHeaders={';'.join(signed)}, Signature={key.hex()}",
    )


Read = Callable[[asyncio.StreamReader], Awaitable[bytes]]


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    """One RESP value, whole and as it was sent: a reply, a push, or a command."""
    line = await reader.readline()
    if not line.endswith(b"\r\n"):
        raise asyncio.IncompleteReadError(line, None)
    sort, rest = line[:1], line[1:-2]
    if sort in b"$=!" and rest != b"-1":
        return line + await reader.readexactly(int(rest) + 2)
    if sort in b"*~>%" and rest != b"-1":
        many = int(rest) * (2 if sort == b"%" else 1)
        return b"".join([line, *[await read_reply(reader) for _ in range(many)]])
    return line


def words(command: bytes) -> list[bytes]:
    """The words of a command as `read_reply` gave it; large ones are cut to 64 bytes."""
    if command[:1] != b"*":
        return command.split()
    found, at = [], command.index(b"\r\n") + 2
    while at < len(command):
        end = command.index(b"\r\n", at)
        size = int(command[at + 1 : end])
        found.append(command[end + 2 : end + 2 + min(size, 64)])
        at = end + 2 + size + 2
    return found
