"""Uploads that broke off, and what a later put of the same key needs to go on with one.

While a large upload is under way, a *record* of it lies in the spool of the filesystem tier beside:
one small file a key and place, ``<digest of the key>-<place>.upload``, with the store's id of the
upload. Whoever sends holds a lock (``flock``) on it that the kernel releases with its death, so an
upload has one sender at a time. The next put of the key on this machine finds the record free, asks
the store which parts it has, and sends those that it lacks: a part is spared only if the store has
as many bytes with the MD5 of those that would be sent, so what becomes visible is always the newer
put alone, whatever the older one was about.

The first part holds the write token. A stream takes up the token of the one that broke off as long
as nobody can have seen it, and then the first part is spared too; see ``Record.token``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from cogcache import _core
from cogcache._fork import renew_after_fork
from cogcache.backends.s3.payload import Payload

__all__ = ["RECORDS", "RESUME_SECONDS", "Part", "Record", "Records", "Unfinished"]

RECORDS: Final = 64  # of one place; the uploads of the oldest are given up for newer ones
# Stores that clear abandoned uploads away do it after a day.
RESUME_SECONDS: Final = 43_200.0
_RECORD_BYTES: Final = 4096  # a block of the disk, so that writing it in place needs no more of it


@dataclass(frozen=True, slots=True)
class Part:
    """A part that the store has."""

    size: int
    etag: str

    def is_of(self, body: Payload) -> bool:
        """Whether these are its bytes. ETags that are no MD5 (some encryptions) say no."""
        if len(body) != self.size:
            return False
        return self.etag.strip('"') == body.md5()


class Record:
    """One upload's record, locked by this process until ``release`` or ``done``.

    Attributes:
        object: Name of the object.
        upload: The store's id of the upload; ``None`` when there is none yet.
        mark: The token in the metadata of the upload.
    """

    def __init__(self, records: Records, name: str, fd: int) -> None:
        self._closing = threading.Lock()
        self._fd: int | None = fd
        self._records = records
        self.name = name
        self.object = ""
        self.upload: str | None = None
        self.mark = 0
        self._spent = True
        self._read()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The lock is the parent's; closing our copy of the descriptor leaves it so."""
        self._closing = threading.Lock()
        self._close_file()

    def _read(self) -> None:
        assert self._fd is not None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(os.pread(self._fd, _RECORD_BYTES, 0))
            if said["version"] == 1:
                self.object, upload = str(said["object"]), str(said["upload"])
                self.mark, self._spent = int(said["mark"], 16), bool(said["spent"])
                self.upload = upload

    @property
    def token(self) -> int | None:
        """The write token of the stream that broke off, if a new one may have it: no tier has
        shown an entry with it, nor may one ever do.
        """
        return None if self._spent else self.mark

    @property
    def age_seconds(self) -> float:
        """Since it was last written."""
        with contextlib.suppress(OSError, TypeError):
            return time.time() - os.fstat(self._fd).st_mtime  # type: ignore[arg-type]
        return 0.0

    def begin(self, name: str, upload: str, mark: int, *, spent: bool) -> bool:
        """An upload has begun; whether that is on the disk now.

        Args:
            name: Of the object.
            upload: The store's id of it.
            mark: The token in its metadata.
            spent: Other tiers have an entry with this token, or may get one while it lasts.
        """
        self.object, self.upload, self.mark, self._spent = name, upload, mark, spent
        return self._write()

    def spend(self) -> None:
        """From now on somebody may see an entry with the token."""
        if not self._spent:
            self._spent = True
            if not self._write():
                self.done()  # never twice: rather not at all

    def renew(self) -> None:
        """A stream that goes on has the token again, and nobody has seen it."""
        self._spent = False
        self._write()

    def _write(self) -> bool:
        said = {
            "version": 1,
            "object": self.object,
            "upload": self.upload,
            "mark": f"{self.mark:016x}",
            "spent": self._spent,
        }
        data = json.dumps(said).encode()
        with self._closing:
            if self._fd is None or len(data) > _RECORD_BYTES:
                return False
            try:
                os.pwrite(self._fd, data.ljust(_RECORD_BYTES), 0)
                os.fdatasync(self._fd)
            except OSError:
                return False
        return True

    def done(self) -> None:
        """There is nothing to go on with."""
        if self._fd is not None:
            self._records.remove(self.name)
            self._close()

    def leave(self) -> None:
        """It is about to be released: who wants it may wait for that."""
        self._records.leaving.setdefault(self.name, Future())

    def release(self) -> None:
        """Let others go on with it. May be called twice."""
        self._close()

    def __del__(self) -> None:
        """Nobody waits for it any more: others may have it."""
        self._close_file()

    def _close_file(self) -> None:
        with self._closing:
            fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _close(self) -> None:
        self._close_file()
        left = self._records.leaving.pop(self.name, None)
        if left is not None:
            left.set_result(None)


@dataclass(slots=True)
class Unfinished:
    """An upload that broke off, and the parts that the store has of it; ours until ``take`` or
    ``release``. On the disk its token is spent until somebody goes on with it.
    """

    parts: Mapping[int, Part]
    token: int | None
    _held: list[Record] = field(default_factory=list)

    def take(self) -> Record | None:
        """The record, for whoever goes on; ``None`` if it has been released or taken."""
        with contextlib.suppress(IndexError):
            return self._held.pop()
        return None

    def release(self) -> None:
        """Leave it as it is."""
        record = self.take()
        if record is not None:
            record.release()


class Records:
    """The records of one place in the spool of one store. Methods block.

    Args:
        store: Of a filesystem tier.
        destination: See ``cogcache.spool.destination_of``.

    Attributes:
        leaving: Those that this process is about to release.
    """

    def __init__(self, store: _core.Store, destination: str) -> None:
        self._store = store
        self._label = f"{destination}.upload"
        self.leaving: dict[str, Future[None]] = {}
        self._no_locks = False  # the filesystem gave none when it was last asked
        renew_after_fork(self)

    def after_fork(self) -> None:
        """What the parent is leaving is not ours."""
        self.leaving = {}

    def name_of(self, key: bytes) -> str:
        """The record of a key."""
        return f"{_core.hash128(key).hex()}-{self._label}"

    def find(self, key: bytes) -> Record | None:
        """The record of a key, if there is one that nobody has."""
        return self._claim(self.name_of(key))

    def make(self, key: bytes) -> Record | None:
        """A record for a key; ``None`` if somebody has it, or the disk takes none."""
        record = self.find(key)
        if record is None and not os.path.exists(self._path(self.name_of(key))):
            with contextlib.suppress(OSError, RuntimeError):  # closed, or the disk is gone
                self._store.spool_write(_core.hash128(key), self._label, b" " * _RECORD_BYTES)
                record = self.find(key)
                if self._no_locks:  # nobody could ever take it up
                    self.remove(self.name_of(key))
        return record

    def remove(self, name: str) -> None:
        """Forget one, whoever has it."""
        with contextlib.suppress(OSError, RuntimeError):
            self._store.spool_remove(name)

    def left_over(self, older_than_seconds: float, most: int) -> Iterator[Record]:
        """Those that nobody has and nobody should go on with: the old ones, and the oldest of more
        than ``most``. Locked; each is the caller's to end.
        """
        found: list[tuple[float, str]] = []
        now = time.time()
        with contextlib.suppress(OSError), os.scandir(self._path("")) as listed:
            for item in listed:
                if item.name.endswith(self._label):
                    with contextlib.suppress(OSError):
                        found.append((item.stat().st_mtime, item.name))
        found.sort()
        for number, (written, name) in enumerate(found):
            if now - written > older_than_seconds or number < len(found) - most:
                record = self._claim(name)
                if record is not None:
                    yield record

    def _path(self, name: str) -> str:
        return os.path.join(self._store.root, "spool", name)

    def _claim(self, name: str) -> Record | None:
        try:
            fd = os.open(self._path(name), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._no_locks = False
            if os.fstat(fd).st_nlink > 0:
                return Record(self, name, fd)
        except BlockingIOError:
            self._no_locks = False
        except OSError:
            self._no_locks = True
        os.close(fd)
        return None


def parts_in(answer: dict[str, Any]) -> Iterator[tuple[int, Part]]:
    """The parts that an answer to ListParts names."""
    for one in answer.get("Parts") or ():
        yield int(one["PartNumber"]), Part(int(one["Size"]), str(one["ETag"]))
