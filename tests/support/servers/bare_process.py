"""A small object store in memory that nobody has met before: `s3.BareServer` runs it.

It keeps what it is given and serves ranges, listings and uploads in parts, and that is all: it
checks no signature and no checksum, overwrites whatever the conditions of a write say, does not
know tags, lifecycles, copies or part numbers (501), and knows headers in its own spelling.
"""

import asyncio
import hashlib
import itertools
import re
import sys
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape, unescape

from . import wire
from .process import HOST

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
STAMP = "2026-01-01T00:00:00.000Z"


@dataclass
class Stored:
    body: bytes
    metadata: wire.Headers
    tag: str


@dataclass
class Upload:
    bucket: str
    key: str
    metadata: wire.Headers
    parts: dict[int, bytes] = field(default_factory=dict)


class Refused(Exception):
    """An answer with a status and S3's code for it."""

    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code


Answer = tuple[int, wire.Headers, bytes]


def document(root: str, *elements: str) -> bytes:
    return f'<?xml version="1.0"?>\n<{root}>{"".join(elements)}</{root}>'.encode()


def element(name: str, value: object) -> str:
    return f"<{name}>{escape(str(value))}</{name}>"


class Store:
    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.uploads: dict[str, Upload] = {}
        self.numbers = itertools.count(1)

    def answer(self, request: wire.Request) -> Answer:
        bucket, _, key = request.path.lstrip("/").partition("/")
        act = getattr(self, request.kind, None)
        if act is None:
            raise Refused(501, "NotImplemented")
        if bucket and request.kind != "CreateBucket" and bucket not in self.buckets:
            raise Refused(404, "NoSuchBucket")
        done: Answer = act(request, bucket, key)
        return done

    def ListBuckets(self, *_: Any) -> Answer:
        names = (f"<Bucket>{element('Name', name)}</Bucket>" for name in self.buckets)
        return 200, [], document("ListAllMyBucketsResult", "<Buckets>", *names, "</Buckets>")

    def CreateBucket(self, _: wire.Request, bucket: str, key: str) -> Answer:
        self.buckets.setdefault(bucket, {})
        return 200, [], b""

    def HeadBucket(self, *_: Any) -> Answer:
        return 200, [], b""

    def PutObject(self, request: wire.Request, bucket: str, key: str) -> Answer:
        tag = f'"{hashlib.md5(request.body).hexdigest()}"'
        self.buckets[bucket][key] = Stored(request.body, metadata(request), tag)
        return 200, [("Etag", tag)], b""

    def GetObject(self, request: wire.Request, bucket: str, key: str) -> Answer:
        stored = self.found(bucket, key)
        headers = [
            ("Etag", stored.tag),
            ("Last-Modified", DATE),
            ("Accept-Ranges", "bytes"),
            *stored.metadata,
        ]
        size = len(stored.body)
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", request.get("range") or "")
        if span is None or span[0] == "bytes=-":
            return 200, headers, stored.body
        first, last = (int(end) if end else None for end in span.groups())
        if first is None:
            assert last is not None
            start, stop = max(size - last, 0), size
        else:
            start, stop = first, size if last is None else min(last + 1, size)
        if start >= stop:
            raise Refused(416, "InvalidRange")
        headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
        return 206, headers, stored.body[start:stop]

    def HeadObject(self, request: wire.Request, bucket: str, key: str) -> Answer:
        return self.GetObject(request, bucket, key)

    def DeleteObject(self, _: wire.Request, bucket: str, key: str) -> Answer:
        self.buckets[bucket].pop(key, None)
        return 204, [], b""

    def DeleteObjects(self, request: wire.Request, bucket: str, _: str) -> Answer:
        keys = re.findall(rb"<Key>(.*?)</Key>", request.body, re.DOTALL)
        names = [unescape(key.decode(), {"&quot;": '"'}) for key in keys]
        for name in names:
            self.buckets[bucket].pop(name, None)
        gone = (f"<Deleted>{element('Key', name)}</Deleted>" for name in names)
        return 200, [], document("DeleteResult", *gone)

    def ListObjectsV2(self, request: wire.Request, bucket: str, _: str) -> Answer:
        asked = dict(request.query)
        most = int(asked.get("max-keys", 1000))
        after = max(asked.get("continuation-token", ""), asked.get("start-after", ""))
        encode = quote if asked.get("encoding-type") == "url" else str
        names = self.names(bucket, asked.get("prefix", ""), after)
        page: list[str] = []
        groups: list[str] = []
        last = after
        for name in names:
            group = cut(name, asked.get("prefix", ""), asked.get("delimiter", ""))
            if group is not None and (group in groups or after.startswith(group)):
                last = name
                continue
            if len(page) + len(groups) == most:
                break
            (page if group is None else groups).append(name if group is None else group)
            last = name
        cut_short = bool(names) and last != names[-1]
        contents = []
        for name in page:
            stored = self.buckets[bucket][name]
            facts = (
                element("Key", encode(name)),
                element("Size", len(stored.body)),
                element("ETag", stored.tag.strip('"')),
                element("LastModified", STAMP),
            )
            contents.append(f"<Contents>{''.join(facts)}</Contents>")
        prefixes = (
            f"<CommonPrefixes>{element('Prefix', encode(group))}</CommonPrefixes>"
            for group in groups
        )
        return (
            200,
            [],
            document(
                "ListBucketResult",
                element("IsTruncated", str(cut_short).lower()),
                element("KeyCount", len(page) + len(groups)),
                element("NextContinuationToken", encode(last)) if cut_short else "",
                element("EncodingType", "url") if encode is quote else "",
                *contents,
                *prefixes,
            ),
        )

    def CreateMultipartUpload(self, request: wire.Request, bucket: str, key: str) -> Answer:
        name = f"upload-{next(self.numbers)}"
        self.uploads[name] = Upload(bucket, key, metadata(request))
        facts = element("Bucket", bucket) + element("Key", key) + element("UploadId", name)
        return 200, [], document("InitiateMultipartUploadResult", facts)

    def UploadPart(self, request: wire.Request, bucket: str, key: str) -> Answer:
        number = int(dict(request.query)["partNumber"])
        self.upload(request).parts[number] = request.body
        return 200, [("Etag", f'"{hashlib.md5(request.body).hexdigest()}"')], b""

    def CompleteMultipartUpload(self, request: wire.Request, bucket: str, key: str) -> Answer:
        upload = self.upload(request)
        numbers = [int(n) for n in re.findall(rb"<PartNumber>(\d+)</PartNumber>", request.body)]
        if not numbers or not set(numbers) <= set(upload.parts):
            raise Refused(400, "InvalidPart")
        if any(len(upload.parts[number]) < 5 << 20 for number in numbers[:-1]):
            raise Refused(400, "EntityTooSmall")
        body = b"".join(upload.parts[number] for number in numbers)
        tag = f'"{hashlib.md5(body).hexdigest()}-{len(numbers)}"'
        self.buckets[bucket][key] = Stored(body, upload.metadata, tag)
        del self.uploads[dict(request.query)["uploadId"]]
        facts = element("Bucket", bucket) + element("Key", key) + element("ETag", tag)
        return 200, [], document("CompleteMultipartUploadResult", facts)

    def AbortMultipartUpload(self, request: wire.Request, *_: str) -> Answer:
        self.upload(request)
        del self.uploads[dict(request.query)["uploadId"]]
        return 204, [], b""

    def ListMultipartUploads(self, request: wire.Request, bucket: str, _: str) -> Answer:
        prefix = dict(request.query).get("prefix", "")
        uploads = (
            "<Upload>"
            + element("Key", upload.key)
            + element("UploadId", name)
            + element("Initiated", STAMP)
            + "</Upload>"
            for name, upload in self.uploads.items()
            if upload.bucket == bucket and upload.key.startswith(prefix)
        )
        truncated = element("IsTruncated", "false")
        return 200, [], document("ListMultipartUploadsResult", truncated, *uploads)

    # What the operations share.

    def found(self, bucket: str, key: str) -> Stored:
        stored = self.buckets[bucket].get(key)
        if stored is None:
            raise Refused(404, "NoSuchKey")
        return stored

    def upload(self, request: wire.Request) -> Upload:
        upload = self.uploads.get(dict(request.query)["uploadId"])
        if upload is None:
            raise Refused(404, "NoSuchUpload")
        return upload

    def names(self, bucket: str, prefix: str, after: str) -> list[str]:
        found = (n for n in self.buckets[bucket] if n.startswith(prefix) and n > after)
        return sorted(found, key=str.encode)


def cut(name: str, prefix: str, delimiter: str) -> str | None:
    """The common prefix that a listing shows in the place of this name, if it does."""
    at = name.find(delimiter, len(prefix)) if delimiter else -1
    return None if at < 0 else name[: at + len(delimiter)]


def metadata(request: wire.Request) -> wire.Headers:
    """The user's metadata, in title case as some stores give it back, and the type."""
    kept = [(n.title(), v) for n, v in request.headers if n.lower().startswith("x-amz-meta-")]
    return [*kept, ("Content-Type", request.get("content-type") or "binary/octet-stream")]


async def serve(store: Store, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await wire.read_head(reader):
            request = wire.Request(*head)
            if request.get("expect"):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            bodyless = not (request.get("content-length") or request.get("transfer-encoding"))
            body = [piece async for piece in wire.pieces(reader, request, bodyless)]
            request.body = b"".join(body)
            if "STREAMING" in (request.get("x-amz-content-sha256") or ""):
                request.body = without_chunks(request.body)
            try:
                status, headers, data = store.answer(request)
            except Refused as refused:
                status, headers = refused.status, []
                data = document("Error", element("Code", refused.code))
            sizes = [("Content-Length", str(len(data))), ("Server", "bare")]
            answer = wire.Message(["HTTP/1.1", str(status), "-"], [*headers, *sizes])
            if status == 204:
                answer.set("Content-Length", None)
            writer.write(answer.encode() + (b"" if request.method == "HEAD" else data))
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


def without_chunks(body: bytes) -> bytes:
    """What is inside an aws-chunked body."""
    kept: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].split(b";")[0], 16)
        if size == 0:
            return b"".join(kept)
        kept.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


async def main() -> None:
    store = Store()
    server = await asyncio.start_server(
        lambda reader, writer: serve(store, reader, writer), HOST, int(sys.argv[1]), limit=1 << 20
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
