"""Reading objects: the end of one first, then exactly the ranges asked for, each answer checked
against its question.

An answer is only used if its ``Content-Range`` is the range asked for, its ``ETag`` the one that
the object was opened with, and its body as long as it says; the checksums inside the container come
on top. A body that breaks off is resumed where it broke, on a new connection. Neither HEAD nor LIST
is needed, except once for a store that does not know suffix ranges.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from cogcache.backends.faults import (
    MisconfiguredError,
    MismatchError,
    RefusedError,
    RemoteError,
    UnavailableError,
)
from cogcache.backends.lanes import Call, Lane, current_call
from cogcache.backends.s3.client import S3Client
from cogcache.backends.s3.errors import (
    ChangedError,
    NotModifiedError,
    NotSupportedError,
    OutOfRangeError,
    error_of,
)
from cogcache.backends.s3.http1 import Body
from cogcache.backends.slots import slot_of_text, take_slot

__all__ = [
    "FRESH",
    "TOKEN",
    "Filling",
    "Reads",
    "RemoteBytes",
    "Room",
    "Tail",
    "fetch_parallel",
    "token_of",
    "wait_for",
]

TAIL_BYTES: Final = 64 * 1024
RANGE_BYTES: Final = 8 << 20  # of one request of a large transfer
PARALLEL: Final = 4
WHOLE_LIMIT: Final = 1 << 30  # bytes held in memory where a store cannot give ranges
RESUMES: Final = 5
SLOWEST: Final = 64 * 1024  # bytes a second; a body that comes slower is asked for anew
PATIENCE_SECONDS: Final = 2.0  # before a body's rate is judged
TOKEN: Final = "cc-token"  # noqa: S105 - of a write; in the metadata of every object
FRESH: Final = "cc-fresh"  # the freshness slot of one that was refreshed; newer than those inside
_PIECE: Final = 1 << 20
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Room:
    """Memory of a known size that is filled in place and then handed out as bytes, without a copy
    unless somebody still has a view of it.

    Attributes:
        view: All of it, writable, until ``take``.
    """

    def __init__(self, size: int) -> None:
        self._file = io.BytesIO()
        if size:
            self._file.seek(size - 1)
            self._file.write(b"\0")
        self.view = self._file.getbuffer()

    def take(self) -> bytes:
        """The bytes; the view is no longer usable."""
        self.view.release()
        return self._file.getvalue()


class Filling:
    """Where the bytes of a range go, in their order: into memory that is as large as the range, or
    piece by piece through less, which then is still in the processor's cache when it is taken on.

    Args:
        size: Of the range.
        room: So much memory, or with ``take`` any.
        take: ``take(offset, piece)`` is called with each piece that fills the memory, and the last.

    Attributes:
        got: Bytes that came so far.
    """

    def __init__(
        self, size: int, room: memoryview, take: Callable[[int, memoryview], None] | None = None
    ) -> None:
        self.size = size
        self.got = 0
        self._room = room
        self._taken = 0
        self._take = take

    @property
    def next(self) -> memoryview:
        """Memory for the next bytes; empty at the end."""
        at = self.got - self._taken
        return self._room[at : at + min(_PIECE, self.size - self.got)]

    def add(self, count: int) -> None:
        """So many bytes are in there."""
        self.got += count
        here = self.got - self._taken
        if self._take is None or (here < len(self._room) and self.got < self.size):
            return
        try:
            self._take(self._taken, self._room[:here])
        except RemoteError:  # nobody waits any more
            raise
        except Exception as error:
            raise NotTakenError from error
        self._taken = self.got


class NotTakenError(Exception):
    """What a ``Filling`` takes the bytes to has raised the cause: no fault of the store."""


class BrokenBodyError(Exception):
    """A body ended or stalled before its end; ``args[0]`` says how."""


class OtherGenerationError(MismatchError):
    """An answer with another ETag than the one that was a condition of the request: that of another
    object, or of another generation from a store that ignores conditions.
    """


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of an object.

    Attributes:
        size: Of the whole object.
        start: Where ``data`` begins in it.
        data: The bytes from there to the end.
        etag: As the store gives it; ``""`` if it gives none.
        token: The write token in its metadata, 16 hex digits, or ``None``.
    """

    size: int
    start: int
    data: bytes
    etag: str
    token: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether ``data`` is all of it."""
        return self.start == 0


def token_of(tail: Tail) -> int:
    """The write token in the footer of a container (docs/format.md); 0 if this is too short."""
    return _token_in(tail.data)


def _token_in(data: bytes | bytearray) -> int:
    return int.from_bytes(data[-48:-40], "little") if len(data) >= 48 else 0


class Reads:
    """Reading from one bucket. All methods block and run in a lane's thread.

    Attributes:
        suffixes: Whether the store knows ``bytes=-n``; ``None`` until the first answer.
        ranges: Whether it knows ranges at all; ``None`` until the first answer.
        mismatches: Answers to other questions than the one asked.
        resumes: Bodies that broke and were asked for from there on.
        bytes_in: Bytes of bodies, used or not.
    """

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self.suffixes: bool | None = None
        self.ranges: bool | None = None
        self.mismatches = 0
        self.resumes = 0
        self.bytes_in = 0

    # --- the end of an object ---------------------------------------------------------------------

    def tail(
        self, call: Call, name: str, want: int = TAIL_BYTES, *, known: Tail | None = None
    ) -> Tail:
        """The last ``want`` bytes of an object, or all of it; ``known`` again, without its bytes
        being sent, if that is still the end of it.

        Raises:
            AbsentError: There is no such object.
            RemoteError: See there.
        """
        return self._until_whole(lambda: self._tail(call, name, want, known))

    def whole(self, call: Call, name: str) -> Tail:
        """All of an object, up to 1 GiB, in one answer: so of one generation, whoever replaces it
        meanwhile, and whether or not the store knows conditions and ranges.

        Raises:
            AbsentError: There is no such object.
            RefusedError: It is larger.
            RemoteError: See there.
        """
        return self._until_whole(lambda: self._whole(call, name))

    def _until_whole(self, ask: Callable[[], Tail]) -> Tail:
        for turn in range(RESUMES + 1):
            try:
                return ask()
            except BrokenBodyError as error:
                if turn == RESUMES:
                    raise UnavailableError(f"get_object: {error}") from error
                self.resumes += 1
        raise AssertionError("unreachable")

    def _tail(self, call: Call, name: str, want: int, known: Tail | None) -> Tail:
        if self.ranges is False:
            return self._whole(call, name)
        if self.suffixes is False:
            return self._tail_after_head(call, name, want)
        unless = {"IfNoneMatch": known.etag} if known is not None and known.etag else {}
        try:
            answer = self._get(call, self._client.small, name, Range=f"bytes=-{want}", **unless)
        except NotModifiedError:
            if known is None:
                raise
            return known
        except OutOfRangeError:
            # A store that takes a suffix longer than the object for a range outside of it.
            return self._whole(call, name)
        except (NotSupportedError, RefusedError):
            self.suffixes = False
            return self._tail_after_head(call, name, want)
        size = _length(answer)
        if _status(answer) == 200:
            self._expect_s3(call, answer)
            if size > want:  # it ignored the range; now at least the size is known
                self._drop(call, answer)
                self.suffixes = False
                return self._tail_at(call, name, size, _etag(answer), want)
            return self._tail_of(call, answer, 0, size, size)
        total = _total(answer)
        if total is None:
            self._drop(call, answer)
            raise MismatchError("get_object: a partial answer without a Content-Range")
        start = max(0, total - want)
        self._expect(call, answer, start, total, total)
        self.suffixes = True
        return self._tail_of(call, answer, start, total - start, total)

    def _tail_after_head(self, call: Call, name: str, want: int) -> Tail:
        answer = self._client.send(call, self._client.small, "head_object", Key=name)
        return self._tail_at(call, name, int(answer["ContentLength"]), _etag(answer), want)

    def _tail_at(self, call: Call, name: str, size: int, etag: str, want: int) -> Tail:
        if size <= want:  # one answer, whatever became of it since its size was known
            return self._whole(call, name)
        start = size - want
        data = self.range(call, self._client.small, name, start, size, size, etag)
        if self.ranges is False:
            return self._whole(call, name)
        return Tail(size, start, data, etag)

    def _whole(self, call: Call, name: str) -> Tail:
        answer = self._get(call, self._client.small, name)
        size = _length(answer)
        if size > WHOLE_LIMIT:
            self._drop(call, answer)
            raise RefusedError(f"get_object: {size} bytes are too many for one answer")
        call.extend(self._client.seconds_for(size))
        return self._tail_of(call, answer, 0, size, size)

    def _tail_of(
        self, call: Call, answer: dict[str, Any], start: int, size: int, total: int
    ) -> Tail:
        try:
            call.ask_for(size)
        except RemoteError:
            self._drop(call, answer)
            raise
        data = bytearray(size)
        got = self._read_body(call, answer, Filling(size, memoryview(data)))
        if got < size:
            raise BrokenBodyError(f"{got} of {size} bytes came")
        metadata = answer["Metadata"]
        slot = slot_of_text(metadata.get(FRESH, ""))
        if slot is not None:
            take_slot(data, _token_in(data), slot)
        return Tail(total, start, bytes(data), _etag(answer), metadata.get(TOKEN))

    # --- ranges -----------------------------------------------------------------------------------

    def range(
        self, call: Call, lane: Lane, name: str, start: int, stop: int, total: int, etag: str
    ) -> bytes:
        """Bytes ``start`` to ``stop`` of the generation ``etag`` of an object of ``total`` bytes.

        Raises:
            ChangedError, AbsentError: Another generation is there, or none.
            RemoteError: See there.
        """
        room = Room(stop - start)
        self.range_into(call, lane, name, start, Filling(stop - start, room.view), total, etag)
        return room.take()

    def range_into(
        self, call: Call, lane: Lane, name: str, start: int, filling: Filling, total: int, etag: str
    ) -> None:
        """``range``, as its bytes come; the first of them are right even if it fails after them."""
        call.ask_for(filling.size)
        call.extend(self._client.seconds_for(filling.size))
        turn = others = 0
        while filling.got < filling.size:
            try:
                self._range_once(call, lane, name, start, filling, total, etag)
                if filling.got < filling.size:
                    raise BrokenBodyError(f"{filling.got} of {filling.size} bytes came")
            except NotTakenError as error:
                raise error.__cause__ or error from None
            except OtherGenerationError as error:
                others += 1
                if others > 1:
                    raise ChangedError(f"{error}, twice") from error
                self.resumes += 1
            except (BrokenBodyError, MismatchError) as error:
                turn += 1
                if turn > RESUMES:
                    if isinstance(error, RemoteError):
                        raise
                    raise UnavailableError(f"get_object: {error}") from error
                self.resumes += 1

    def _range_once(
        self, call: Call, lane: Lane, name: str, start: int, filling: Filling, total: int, etag: str
    ) -> None:
        start, stop = start + filling.got, start + filling.size
        condition = {"IfMatch": etag} if etag else {}
        answer = self._get(call, lane, name, Range=f"bytes={start}-{stop - 1}", **condition)
        if etag and _etag(answer) != etag:
            self._drop(call, answer)
            self.mismatches += 1
            raise OtherGenerationError("get_object: another ETag than the one asked for")
        if _status(answer) == 200:
            self._cut_out(call, answer, start, filling, total)
            return
        self._expect(call, answer, start, stop, total)
        self.ranges = True
        self._read_body(call, answer, filling)

    def _cut_out(
        self, call: Call, answer: dict[str, Any], start: int, filling: Filling, total: int
    ) -> None:
        """The range out of a whole body, from a store that ignores ranges."""
        size = _length(answer)
        if size != total or size > WHOLE_LIMIT:
            self._drop(call, answer)
            self.mismatches += size != total
            raise MismatchError(f"get_object: {size} bytes where the object has {total}")
        self.ranges = False
        call.extend(self._client.seconds_for(size))
        whole = memoryview(bytearray(size))
        at, got = start, self._read_body(call, answer, Filling(size, whole))
        while at < got and len(room := filling.next[: got - at]):
            room[:] = whole[at : at + len(room)]
            at += len(room)
            filling.add(len(room))

    # --- one answer -------------------------------------------------------------------------------

    def _get(self, call: Call, lane: Lane, name: str, **params: Any) -> dict[str, Any]:
        answer = self._client.send(call, lane, "get_object", Key=name, **params)
        if "ContentLength" not in answer:
            self._drop(call, answer)
            raise MismatchError("get_object: an answer without a length")
        return answer

    def _expect(
        self, call: Call, answer: dict[str, Any], start: int, stop: int, total: int
    ) -> None:
        expected = f"bytes {start}-{stop - 1}/{total}"
        said = str(answer.get("ContentRange", ""))
        if said != expected or _length(answer) != stop - start:
            self._drop(call, answer)
            self.mismatches += 1
            raise MismatchError(
                f"get_object: an answer for {said or 'no range'!r} of {_length(answer)} bytes, "
                f"asked for was {expected!r}"
            )

    def _expect_s3(self, call: Call, answer: dict[str, Any]) -> None:
        """Something that says 200 to every request, such as a portal that wants a log-in."""
        headers = answer["ResponseMetadata"].get("HTTPHeaders", {})
        if not _etag(answer) and not any(name.startswith("x-amz") for name in headers):
            attempt = call.attempt
            answer["Body"].close()
            if attempt is not None:
                attempt.misconfigured()
            raise MisconfiguredError(
                "get_object: the endpoint does not answer as an S3 store does; correct endpoint_url"
            )

    def _read_body(self, call: Call, answer: dict[str, Any], filling: Filling) -> int:
        """Read a body of exactly what ``filling`` lacks; how many bytes came. The connection is
        kept only after a whole one.
        """
        body = answer["Body"]
        fill = _filler_of(body)
        wanted, got = filling.size - filling.got, 0
        began = time.monotonic()
        attempt = call.attempt
        try:
            while got < wanted:
                call.check()
                size = fill(filling.next)
                if not size:
                    break
                filling.add(size)
                got += size
                self.bytes_in += size  # no call in it, so that no other thread comes between
                took = time.monotonic() - began
                due = min(wanted, (took - PATIENCE_SECONDS) * SLOWEST)
                if took > PATIENCE_SECONDS and got < due:
                    break
            else:
                if not fill(memoryview(bytearray(1))):  # the end, so that the connection is kept
                    return self._ended(attempt, got)
        except NotTakenError:
            self._drop(call, answer)
            raise
        except RemoteError:
            body.close()
            if attempt is not None and call.abandoned:
                attempt.dropped()
            raise
        except Exception as error:
            if isinstance(error_of(error, "get_object"), UnavailableError):
                body.close()
                _failed(attempt)
                return got
            raise
        body.close()
        _failed(attempt)
        return got

    @staticmethod
    def _ended(attempt: Any, got: int) -> int:
        if attempt is not None:
            attempt.succeeded()
        return got

    @staticmethod
    def _drop(call: Call, answer: dict[str, Any]) -> None:
        """Do not read a body; its connection ends with it."""
        answer["Body"].close()
        if call.attempt is not None:
            call.attempt.succeeded()


def _failed(attempt: Any) -> None:
    if attempt is not None:
        attempt.failed()


def _filler_of(body: Any) -> Callable[[memoryview], int]:
    """A function that fills memory with what is there, without waiting for all of it; so a slow
    body is seen.
    """
    if isinstance(body, Body):
        return body.readinto
    raw = getattr(body, "_raw_stream", None)
    read: Callable[[int], bytes] | None = getattr(raw, "read1", None)
    if read is None:  # urllib3 before 2.1: http.client's own
        read = getattr(getattr(raw, "_fp", None), "read1", None)
    given: Callable[[int], bytes] = body.read if read is None else read

    def fill(room: memoryview) -> int:
        piece = given(len(room))
        room[: len(piece)] = piece
        return len(piece)

    return fill


def _status(answer: dict[str, Any]) -> int:
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


def _length(answer: dict[str, Any]) -> int:
    return int(answer["ContentLength"])


def _total(answer: dict[str, Any]) -> int | None:
    found = _CONTENT_RANGE.fullmatch(str(answer.get("ContentRange", "")))
    return None if found is None else int(found[3])


def _etag(answer: dict[str, Any]) -> str:
    return str(answer.get("ETag", ""))


class RemoteBytes:
    """The bytes of one generation of an object, for the reader of containers.

    ``read`` blocks and belongs into a thread of the small or the work lane; large ranges are split
    and fetched in parallel by the bulk lane. What lies in the tail costs no request.
    """

    def __init__(self, reads: Reads, client: S3Client, name: str, tail: Tail) -> None:
        self._reads = reads
        self._client = client
        self.name = name
        self.tail = tail
        self._is_open = False

    def opened(self) -> None:
        """The index has been read: from now on nothing more is kept."""
        self._is_open = True

    def read(self, offset: int, size: int) -> bytes:
        """Exactly these bytes.

        Raises:
            RemoteError: See there.
        """
        tail = self.tail
        if offset >= tail.start:
            at = offset - tail.start
            return tail.data[at : at + size]
        front = min(offset + size, tail.start)
        data = self._fetch(offset, front)
        if not self._is_open and front == tail.start and not tail.is_whole:
            self.tail = replace(tail, start=offset, data=data + tail.data)
        more = size - len(data)
        return data + tail.data[:more] if more else data

    def _fetch(self, start: int, stop: int) -> bytes:
        call = current_call()
        if call is None:
            raise RuntimeError("the bytes of a remote entry are read in the threads of its tier")
        if stop - start > RANGE_BYTES:
            call.ask_for(stop - start)
        if stop - start <= RANGE_BYTES:
            return self._reads.range(
                call, self._client.small, self.name, start, stop, self.tail.size, self.tail.etag
            )
        room = Room(stop - start)
        fetch_parallel(self._reads, self._client, call, self.name, start, room.view, self.tail)
        return room.take()


def fetch_parallel(
    reads: Reads,
    client: S3Client,
    call: Call,
    name: str,
    start: int,
    room: memoryview,
    tail: Tail,
) -> None:
    """Fill ``room`` with the bytes from ``start`` on: ranges of 8 MiB, four at a time, by the bulk
    lane. Blocks; not in a thread of the bulk lane itself. The first fault ends it.
    """
    pieces = [(at, room[at : at + RANGE_BYTES]) for at in range(0, len(room), RANGE_BYTES)]
    call.extend(client.seconds_for(len(room)))
    parts: list[tuple[Call, Any]] = []
    waiting = list(reversed(pieces))
    try:
        while waiting or parts:
            while waiting and len(parts) < PARALLEL:
                at, view = waiting.pop()
                part = Call(client.seconds_for(PARALLEL * len(view)))  # they share the way

                def work(part: Call, at: int = at, view: memoryview = view) -> None:
                    filling = Filling(len(view), view)
                    reads.range_into(
                        part, client.bulk, name, start + at, filling, tail.size, tail.etag
                    )

                parts.append((part, client.bulk.submit(work, part)))
            call.check()
            future = parts[0][1]
            wait_for(call, future)
            future.result()
            parts.pop(0)
    finally:
        for part, future in parts:
            part.abandoned = True
            future.cancel()


def wait_for(call: Call, future: Any) -> None:
    """Wait for work in another lane, as long as somebody waits for this call."""
    from concurrent.futures import wait

    while not future.done():
        call.check()
        wait([future], timeout=0.5)
