"""Writing objects: whole in one request up to 16 MiB, else in parts of 16 MiB, four at a time.

Nothing of an upload is visible before it is complete. When an answer is lost, the object itself is
asked: a random token in its metadata (and in its last 48 bytes) says whose write it is. An upload
that breaks off is left for the next put of its key where there is a record of it
(``cogcache.backends.s3.resume``), else it is given up.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, Final

from cogcache.backends.faults import AbsentError, NotAskedError, RemoteError, UnavailableError
from cogcache.backends.lanes import Call, Lane
from cogcache.backends.s3.client import S3Client
from cogcache.backends.s3.download import TOKEN, Reads
from cogcache.backends.s3.errors import ChangedError, ConflictError, OvertakenError
from cogcache.backends.s3.payload import Payload, payloads_of
from cogcache.backends.s3.probe import Abilities, crc32
from cogcache.backends.s3.resume import Part, Record, Unfinished, parts_in

__all__ = ["PART_BYTES", "Upload", "Writes"]

PART_BYTES: Final = 16 << 20
IN_FLIGHT: Final = 3  # parts on their way; one more is being filled
CONFLICTS: Final = 3  # how often a write that met another one is tried again
_PAUSE_SECONDS: Final = 0.05  # at most, after the first of them; doubled after each
_ABORT_SECONDS: Final = 30.0
_FOOTER_BYTES: Final = 48  # of a container; begins with the write token, docs/format.md


class Writes:
    """Writing to one bucket. All methods block and run in a lane's thread.

    Attributes:
        resumed: Uploads that were gone on with.
        spared_parts: Parts of these that the store had already.
    """

    def __init__(self, client: S3Client, reads: Reads) -> None:
        self._client = client
        self._reads = reads
        self.resumed = 0
        self.spared_parts = 0

    def put(
        self,
        call: Call,
        lane: Lane,
        name: str,
        body: Payload,
        token: str,
        can: Abilities,
        *,
        once: bool,
    ) -> bool:
        """Write an object in one request; with ``once``, unless there is one already.

        A write that met another one is sent again after a pause, since what replaces has to be the
        last. With ``once`` it is not where another's object is.

        Returns:
            Whether the object is ours; ``False`` with ``once`` means that another was there.

        Raises:
            UnavailableError: Nobody knows whether it was written; see ``whose``.
            RemoteError: It was not.
        """
        params: dict[str, Any] = {"Key": name, "Body": body, "Metadata": {TOKEN: token}}
        if can.checksums:
            params["ChecksumCRC32"] = crc32(body)
        if once and can.create_once:
            params["IfNoneMatch"] = "*"
        for turn in range(CONFLICTS + 1):
            try:
                self._client.send(call, lane, "put_object", **params)
            except (ChangedError, ConflictError) as error:
                if isinstance(error, ChangedError) and "IfNoneMatch" not in params:
                    raise
                is_last = turn == CONFLICTS
                if is_last or isinstance(error, ChangedError | OvertakenError):
                    # Another's, or our own first try of which the answer was lost; or what was
                    # there has been removed.
                    ours = self.whose(call, name, token, len(body))
                    if ours or (once and ours is not None):
                        return ours
                if is_last:
                    raise
            else:
                return True
            _pause(call, turn)
        raise AssertionError("unreachable")

    def leave(self, call: Call, name: str) -> None:
        """Have an empty object there, whoever writes it: all of that name are alike.

        Raises:
            RemoteError: There is none.
        """
        for turn in range(CONFLICTS + 1):
            try:
                self._client.send(call, self._client.small, "put_object", Key=name, Body=Payload())
            except NotAskedError:
                raise
            except (ConflictError, UnavailableError) as error:  # others leave it meanwhile
                if self.is_there(call, name):
                    return
                if turn == CONFLICTS or not isinstance(error, ConflictError):
                    raise
            else:
                return
            _pause(call, turn)

    def is_there(self, call: Call, name: str) -> bool:
        """Whether there is an object of this name, whoever wrote it.

        Raises:
            RemoteError: The store does not say.
        """
        try:
            self._client.send(call, self._client.small, "head_object", Key=name)
        except AbsentError:
            return False
        return True

    def whose(
        self, call: Call, name: str, token: str, size: int, *, marked: bool = True
    ) -> bool | None:
        """Whether the object that is there now is that of this write; ``None`` if there is none.

        Args:
            call: Of this thread.
            name: Of the object.
            token: Of its container.
            size: Of its container.
            marked: The token is in the metadata too, unless the store loses those.

        Raises:
            RemoteError: The store does not say.
        """
        try:
            answer = self._client.send(call, self._client.small, "head_object", Key=name)
        except AbsentError:
            return None
        if int(answer["ContentLength"]) != size:
            return False
        found = answer.get("Metadata", {}).get(TOKEN)
        if found is not None and marked:
            return bool(found == token)
        try:  # the container itself knows
            footer = self._reads.range(
                call,
                self._client.small,
                name,
                size - _FOOTER_BYTES,
                size,
                size,
                str(answer.get("ETag", "")),
            )
        except AbsentError:
            return None
        except ChangedError:
            return False
        return int.from_bytes(footer[:8], "little") == int(token, 16)

    def put_in_parts(
        self,
        call: Call,
        begin: Callable[[Call], Upload],
        pieces: Sequence[memoryview],
        token: str,
        *,
        once: bool,
    ) -> bool:
        """Write a large object in parts; in a thread of the work lane. Returns and raises as
        ``put``; what breaks off is left to be gone on with, or given up.
        """
        size = sum(len(piece) for piece in pieces)
        call.extend(self._client.seconds_for(size))
        upload = begin(call)
        try:
            for body in payloads_of(pieces, PART_BYTES):
                upload.add(call, body)
            return self.complete(call, upload, token, size, once=once)
        except BaseException as error:
            upload.break_off(error, wanted=not call.cancelled)
            raise

    def begin(
        self, call: Call, name: str, token: str, record: Record | None, *, spent: bool
    ) -> Upload:
        """Begin an upload, and say so in its record, if there is one; see ``Record.begin``."""
        try:
            answer = self._client.send(
                call,
                self._client.small,
                "create_multipart_upload",
                Key=name,
                Metadata={TOKEN: token},
            )
        except BaseException:
            if record is not None:
                record.done()
            raise
        upload = Upload(self, self._client, name, str(answer["UploadId"]), token)
        if record is not None:
            spent = spent or call.abandoned
            if record.begin(name, upload.id, int(token, 16), spent=spent):
                upload.record = record
            else:
                record.done()
        return upload

    def go_on(self, record: Record, parts: Mapping[int, Part]) -> Upload:
        """Go on with an upload that broke off."""
        self.resumed += 1
        mark = f"{record.mark:016x}"
        upload = Upload(self, self._client, record.object, record.upload or "", mark, parts)
        upload.record = record
        return upload

    def parts_of(self, call: Call, record: Record) -> Unfinished | None:
        """The parts that the store has of an upload that broke off; ``None`` if it has it no more.

        Raises:
            RemoteError: It does not say.
        """
        token = record.token
        record.spend()
        parts: dict[int, Part] = {}
        more: dict[str, Any] = {}
        while True:
            params = {"Key": record.object, "UploadId": record.upload, **more}
            try:
                answer = self._client.send(call, self._client.small, "list_parts", **params)
            except AbsentError:
                return None
            parts.update(parts_in(answer))
            if not answer.get("IsTruncated") or not answer.get("NextPartNumberMarker"):
                return Unfinished(parts, token, [record])
            more = {"PartNumberMarker": answer["NextPartNumberMarker"]}

    def give_up(self, call: Call, name: str, upload: str) -> None:
        """Have the store forget an upload, as far as it can be reached; never raises."""
        with contextlib.suppress(RemoteError):
            self._client.send(
                call, self._client.small, "abort_multipart_upload", Key=name, UploadId=upload
            )

    def complete(self, call: Call, upload: Upload, token: str, size: int, *, once: bool) -> bool:
        """Wait for all parts of an upload and make it visible; ``once`` as in ``put``, where the
        store is known to take it. Returns and raises as ``put``.
        """
        parts = upload.finish_parts(call)
        condition = {}
        if once and self._client.knows("CompleteMultipartUpload", "IfNoneMatch"):
            condition = {"IfNoneMatch": "*"}
        call.extend(self._client.seconds_for(size))
        upload.completing = True
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
            upload.completing = False
            raise
        except (AbsentError, ChangedError, ConflictError, UnavailableError) as error:
            # A lost answer, an upload that an earlier try completed, or one that said 200 and then
            # that it failed: only the object can tell.
            ours = self.whose(call, upload.name, token, size, marked=upload.mark == token)
            if not ours:
                if ours is None or not condition:
                    raise
                upload.break_off(error)  # another's object was there first
                return False
        upload.done()
        return True


class Upload:
    """One multipart upload under way.

    Attributes:
        name: Of the object.
        id: The store's.
        mark: The token in its metadata; that of the put that began it.
        record: What the next put of the key goes on with, if this one breaks off.
        completing: The store may be making it visible now.
    """

    def __init__(
        self,
        writes: Writes,
        client: S3Client,
        name: str,
        upload_id: str,
        mark: str,
        there: Mapping[int, Part] | None = None,
    ) -> None:
        self._writes = writes
        self._client = client
        self.name = name
        self.id = upload_id
        self.mark = mark
        self.record: Record | None = None
        self.completing = False
        self._there = dict(there or {})
        self._lock = threading.Lock()
        self._stopped = False
        self._flying: list[tuple[Call, int, Future[str]]] = []
        self._done: dict[int, str] = {}
        self._count = 0

    def add(self, call: Call, body: Payload) -> None:
        """Send a part, unless the store has it. Returns when there is room for the next: four parts
        at most are under way or being made.
        """
        self._count += 1
        number = self._count
        known = self._there.get(number)
        if known is not None and known.is_of(body):
            self._done[number] = known.etag
            self._writes.spared_parts += 1
            return
        part = Call(self._client.seconds_for(IN_FLIGHT * len(body)))  # they share the way

        def work(part: Call) -> str:
            return self._send(part, number, body)

        with self._lock:
            if self._stopped:
                raise UnavailableError("given up meanwhile")
            self._flying.append((part, number, self._client.bulk.submit(work, part)))
        while len(self._flying) >= IN_FLIGHT:
            self._take_first(call)

    def finish_parts(self, call: Call) -> list[dict[str, Any]]:
        """Wait for all parts; what completes the upload."""
        while self._flying:
            self._take_first(call)
        return [{"PartNumber": n, "ETag": etag} for n, etag in sorted(self._done.items())]

    def done(self) -> None:
        """It is complete."""
        record, self.record = self.record, None
        if record is not None:
            record.done()

    def can_be_left(self, error: BaseException) -> bool:
        """Whether a later put of the key may go on after this error: the store could not be
        reached, or did not let us for now.
        """
        return self.record is not None and isinstance(error, UnavailableError)

    def break_off(self, error: BaseException, *, wanted: bool = True) -> None:
        """Leave the upload for a later put of its key, or give it up; never raises.

        Args:
            error: Why.
            wanted: Somebody may go on with it. Else it is left only where nobody knows whether it
                is being completed: a store that gives up then may take the bytes of the new object.
        """
        if self.can_be_left(error) and (wanted or self.completing):
            self.leave()
        else:
            self.abort()

    def leave(self) -> None:
        """Leave what the store has of it to a later put of the key. Other tiers may show this
        one's entry meanwhile, so its token is not for another.
        """
        record, self.record = self.record, None
        if record is not None:
            record.leave()
            self._stop()
            record.spend()
            record.release()

    def abort(self) -> None:
        """Give the upload up, as far as the store can be reached; never raises."""
        self._stop()
        self._writes.give_up(Call(_ABORT_SECONDS), self.name, self.id)
        self.done()

    def _stop(self) -> None:
        """End what is under way: a part that arrives after an abort would stay for ever, and one of
        this put must not replace one of the next.
        """
        with self._lock:
            self._stopped = True
            flying = list(self._flying)
        for part, _, future in flying:
            part.abandoned = True
            future.cancel()
        wait([future for _, _, future in flying], timeout=_ABORT_SECONDS)

    def _send(self, part: Call, number: int, body: Payload) -> str:
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
        self._done[number] = etag


def _pause(call: Call, turn: int) -> None:
    """Let a write that was met get done; of several that met, not all try again at once."""
    time.sleep(random.uniform(0, _PAUSE_SECONDS * 2**turn))  # noqa: S311
    call.check()
