"""Writing objects: whole in one request up to 16 MiB, else in parts of 16 MiB, four at a time.

Nothing of an upload is visible before it is complete. When an answer is lost, the object itself is
asked: a random token in its metadata (and in its last 48 bytes) says whose write it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, Final

from cogcache.backends.s3.client import S3Client
from cogcache.backends.s3.download import TOKEN, Reads
from cogcache.backends.s3.errors import (
    AbsentError,
    ChangedError,
    ConflictError,
    NotAskedError,
    S3Error,
    UnavailableError,
)
from cogcache.backends.s3.lanes import Call, Lane
from cogcache.backends.s3.probe import Abilities, crc32

__all__ = ["PART_BYTES", "Upload", "Writes", "parts_of"]

PART_BYTES: Final = 16 << 20
IN_FLIGHT: Final = 4
CONFLICTS: Final = 3  # how often a write that met another one is tried again
_ABORT_SECONDS: Final = 30.0
_FOOTER_BYTES: Final = 48  # of a container; begins with the write token, docs/format.md


def parts_of(pieces: Sequence[memoryview], size: int = PART_BYTES) -> Iterator[bytearray]:
    """The bytes of ``pieces`` in bodies of exactly ``size`` bytes, the last one shorter.

    Bodies are ``bytearray``: for ``bytes`` botocore waits for a ``100 Continue``.
    """
    body = bytearray()
    for piece in pieces:
        at = 0
        while at < len(piece):
            take = min(size - len(body), len(piece) - at)
            body += piece[at : at + take]
            at += take
            if len(body) == size:
                yield body
                body = bytearray()
    if body:
        yield body


class Writes:
    """Writing to one bucket. All methods block and run in a lane's thread."""

    def __init__(self, client: S3Client, reads: Reads) -> None:
        self._client = client
        self._reads = reads

    def put(
        self,
        call: Call,
        lane: Lane,
        name: str,
        body: bytearray,
        token: str,
        can: Abilities,
        *,
        once: bool,
    ) -> bool:
        """Write an object in one request; with ``once``, unless there is one already.

        Returns:
            Whether the object is ours; ``False`` with ``once`` means that another was there.

        Raises:
            UnavailableError: Nobody knows whether it was written; see ``confirm``.
            S3Error: It was not.
        """
        params: dict[str, Any] = {"Key": name, "Body": body, "Metadata": {TOKEN: token}}
        if can.checksums:
            params["ChecksumCRC32"] = crc32(body)
        if once and can.create_once:
            params["IfNoneMatch"] = "*"
        for turn in range(CONFLICTS + 1):
            try:
                self._client.send(call, lane, "put_object", **params)
            except ChangedError:
                if "IfNoneMatch" not in params:
                    raise
                # Another's, or our own first try of which the answer was lost.
                return self.confirm(call, name, token, len(body))
            except ConflictError:
                if turn == CONFLICTS:
                    raise
                call.check()
            else:
                return True
        raise AssertionError("unreachable")

    def confirm(self, call: Call, name: str, token: str, size: int) -> bool:
        """Whether the object that is there now is that of this write.

        Raises:
            S3Error: The store does not say.
        """
        try:
            answer = self._client.send(call, self._client.small, "head_object", Key=name)
        except AbsentError:
            return False
        if int(answer["ContentLength"]) != size:
            return False
        found = answer.get("Metadata", {}).get(TOKEN)
        if found is not None:
            return bool(found == token)
        try:  # a store that loses metadata: the container itself knows
            footer = self._reads.range(
                call,
                self._client.small,
                name,
                size - _FOOTER_BYTES,
                size,
                size,
                str(answer.get("ETag", "")),
            )
        except (AbsentError, ChangedError):
            return False
        return int.from_bytes(footer[:8], "little") == int(token, 16)

    def put_in_parts(
        self,
        call: Call,
        name: str,
        pieces: Sequence[memoryview],
        token: str,
        can: Abilities,
        *,
        once: bool,
    ) -> bool:
        """Write a large object in parts, which holds at most 64 MiB of copies; in a thread of the
        work lane. Returns and raises as ``put``; whatever goes wrong, the parts are given up.
        """
        size = sum(len(piece) for piece in pieces)
        call.extend(self._client.seconds_for(size))
        upload = Upload(self._client, call, name, token, can)
        try:
            for body in parts_of(pieces):
                upload.add(call, body)
            parts = upload.finish_parts(call)
            return self.complete(call, upload, parts, size, once=once)
        except BaseException:
            upload.abort()
            raise

    def complete(
        self, call: Call, upload: Upload, parts: list[dict[str, Any]], size: int, *, once: bool
    ) -> bool:
        """Make an upload visible. Returns and raises as ``put``."""
        condition = {}
        if (
            once
            and upload.can.create_once
            and self._client.knows("CompleteMultipartUpload", "IfNoneMatch")
        ):
            condition = {"IfNoneMatch": "*"}
        call.extend(self._client.seconds_for(size))
        try:
            self._client.send(
                call,
                self._client.bulk,
                "complete_multipart_upload",
                Key=upload.name,
                UploadId=upload.id,
                MultipartUpload={"Parts": parts},
                **condition,
            )
        except NotAskedError:
            raise
        except (AbsentError, ChangedError, ConflictError, UnavailableError) as error:
            # A lost answer, an upload that an earlier try completed, or one that said 200 and then
            # that it failed: only the object can tell.
            if self.confirm(call, upload.name, upload.token, size):
                return True
            if not (condition and isinstance(error, ChangedError)):
                raise
            upload.abort()  # another's object was there first
            return False
        return True


class Upload:
    """One multipart upload under way."""

    def __init__(self, client: S3Client, call: Call, name: str, token: str, can: Abilities) -> None:
        self._client = client
        self.can = can
        self.name = name
        self.token = token
        answer = client.send(
            call,
            client.small,
            "create_multipart_upload",
            Key=name,
            Metadata={TOKEN: token},
        )
        self.id = str(answer["UploadId"])
        self._flying: list[tuple[Call, int, Future[str]]] = []
        self._done: list[dict[str, Any]] = []
        self._count = 0

    def add(self, call: Call, body: bytearray) -> None:
        """Send a part. Returns when there is room for the next: four parts at most are under way or
        being made.
        """
        self._count += 1
        number = self._count
        part = Call(self._client.seconds_for(len(body)))

        def work(part: Call) -> str:
            return self._send(part, number, body)

        self._flying.append((part, number, self._client.bulk.submit(work, part)))
        while len(self._flying) >= IN_FLIGHT:
            self._take_first(call)

    def finish_parts(self, call: Call) -> list[dict[str, Any]]:
        """Wait for all parts; what completes the upload."""
        while self._flying:
            self._take_first(call)
        return self._done

    def abort(self) -> None:
        """Give the upload up, as far as the store can be reached; never raises."""
        for part, _, future in self._flying:
            part.abandoned = True
            future.cancel()
        # A part that arrives after the abort would stay for ever.
        wait([future for _, _, future in self._flying], timeout=_ABORT_SECONDS)
        self._flying = []
        with contextlib.suppress(S3Error):
            self._client.send(
                Call(_ABORT_SECONDS),
                self._client.small,
                "abort_multipart_upload",
                Key=self.name,
                UploadId=self.id,
            )

    def _send(self, part: Call, number: int, body: bytearray) -> str:
        params: dict[str, Any] = {"Key": self.name, "UploadId": self.id, "PartNumber": number}
        answer = self._client.send(part, self._client.bulk, "upload_part", Body=body, **params)
        return str(answer["ETag"])

    def _take_first(self, call: Call) -> None:
        _, number, future = self._flying[0]
        while not future.done():
            call.check()
            wait([future], timeout=0.5)
        etag = future.result()
        self._flying.pop(0)
        self._done.append({"PartNumber": number, "ETag": etag})
