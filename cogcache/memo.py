"""A memo of content digests, so that the second look at a file is a stat.

Losing it costs time only, and nothing in it can make a wrong value likely: every record checks
itself, and names path, size, times, device and inode of the file whose bytes were read. Any number
of processes share one memo file.

The file: 32 bytes of head (magic), then records of 64 bytes, appended in one write each::

    key 16 | digest 32 | length of the digest 1 | zeros 7 | XXH3-64 of the 56 bytes before, seeded

A full file is rewritten with its newer half and replaced at once; whoever has the old one notices
by its inode and reads the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import threading
from pathlib import Path
from typing import Final

from cogcache import _core
from cogcache._fork import renew_after_fork

__all__ = ["DigestMemo"]

_MAGIC: Final = b"cogcache digest memo 1".ljust(32, b"\0")
_RECORD: Final = struct.Struct("<16s32sB7xQ")
_CHECKED: Final = _RECORD.size - 8
_SEED: Final = 0x636F676D656D6F31


def _user_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base) if base.startswith("/") else Path("~/.cache").expanduser()


class DigestMemo:
    """Content digests by file, kept in one file and in memory.

    Every fault of the file (missing, foreign, damaged, not writable) is a memo that knows less;
    none is ever raised. Safe from many threads and many processes; what one records, others find.

    Args:
        path: the memo file; its directory must exist to be written to.
        max_records: newest records kept; twice as many make the file be rewritten.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_records: int = 32_768) -> None:
        if max_records < 1:
            raise ValueError(f"max_records is at least 1, not {max_records}")
        self.path = Path(path)
        self.max_records = max_records
        self._known: dict[bytes, bytes] = {}
        self._file: tuple[int, int] | None = None  # device and inode of what was read
        self._read = 0  # bytes of it that were read
        self._lock = threading.Lock()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Another thread of the parent may have been inside: what it had half read is read anew."""
        self._lock = threading.Lock()
        self._file, self._read = None, 0

    @classmethod
    def for_root(cls, base_path: str | os.PathLike[str] | None) -> DigestMemo:
        """Return the memo of a cache directory, or of the user when there is none to write to."""
        if base_path is None:
            return cls.for_user()
        home = Path(base_path, "v1")
        if os.access(home, os.W_OK | os.X_OK):
            return cls(home / "memo")
        return cls.for_user()

    @classmethod
    def for_user(cls) -> DigestMemo:
        """Return the memo in the user's own cache directory, which is made if need be."""
        home = _user_cache_dir() / "cogcache"
        with contextlib.suppress(OSError):
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(home / "memo")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (str(self.path), self.max_records)

    @staticmethod
    def key(kind: str, real: bytes, found: os.stat_result, *, local: bool) -> bytes:
        """Return what a digest of this kind of this file, as it is now, is remembered under.

        Device and inode take part on local file systems only: servers change them at will.
        """
        facts = [kind, real, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
        if local:
            facts += [found.st_dev, found.st_ino]
        return hashlib.sha256(_core.encode_key_value(facts)).digest()[:16]

    def get(self, key: bytes, *, refresh: bool = True) -> bytes | None:
        """Return the digest recorded under ``key``, or None.

        Args:
            key: from `key`.
            refresh: read what other processes appended when the key is unknown; with False, no I/O.
        """
        known = self._known.get(key)
        if known is not None or not refresh:
            return known
        with self._lock:
            self._load()
            return self._known.get(key)

    def put(self, key: bytes, digest: bytes) -> None:
        """Record a digest of at most 32 bytes. The caller has made sure that it cannot be
        outdated.
        """
        record = self._pack(key, digest)
        with self._lock:
            self._remember(key, digest)
            with contextlib.suppress(OSError):
                if self._append(record):
                    return
                self._remember(key, digest)  # the newest again, after what was just loaded
                self._rewrite()

    # --- the file ------------------------------------------------------------------------------

    @staticmethod
    def _pack(key: bytes, digest: bytes) -> bytes:
        record = _RECORD.pack(key, digest, len(digest), 0)
        return record[:_CHECKED] + _core.hash64(record[:_CHECKED], _SEED).to_bytes(8, "little")

    def _remember(self, key: bytes, digest: bytes) -> None:
        self._known.pop(key, None)
        self._known[key] = digest
        while len(self._known) > 2 * self.max_records:
            del self._known[next(iter(self._known))]

    def _open(self, flags: int) -> int:
        """Open the file when it can be trusted: regular, no symlink, of an owner the root
        trusts.
        """
        fd = os.open(self.path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            home = self.path.parent.stat()
            trusted = found.st_uid in (os.geteuid(), 0, home.st_uid) or (
                home.st_mode & stat.S_IWGRP and found.st_gid == home.st_gid
            )
            if not stat.S_ISREG(found.st_mode) or not trusted:
                raise PermissionError(f"{self.path} is no file of a trusted owner")
        except OSError:
            os.close(fd)
            raise
        return fd

    def _load(self) -> None:
        """Take in what the file has beyond what was read of it."""
        try:
            fd = self._open(os.O_RDONLY)
        except OSError:
            return
        try:
            self._load_from(fd)
        except OSError:
            pass
        finally:
            os.close(fd)

    def _load_from(self, fd: int) -> None:
        found = os.fstat(fd)
        if self._file != (found.st_dev, found.st_ino) or found.st_size < self._read:
            self._file, self._read = (found.st_dev, found.st_ino), 0
        bound = len(_MAGIC) + 4 * self.max_records * _RECORD.size
        size = min(found.st_size, bound)
        if size <= self._read:
            return
        data = os.pread(fd, size - self._read, self._read)
        if self._read == 0:
            if not data.startswith(_MAGIC):
                return
            self._read = len(_MAGIC)
            data = data[len(_MAGIC) :]
        whole = len(data) - len(data) % _RECORD.size
        for at in range(0, whole, _RECORD.size):
            key, digest, length, check = _RECORD.unpack_from(data, at)
            if check == _core.hash64(data[at : at + _CHECKED], _SEED) and 0 < length <= 32:
                self._remember(key, digest[:length])
        self._read += whole

    def _append(self, record: bytes) -> bool:
        """Append to the file as it is; False when it must be written anew."""
        try:
            fd = self._open(os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return False
        try:
            size = os.fstat(fd).st_size - len(_MAGIC)
            # A torn record would put all later ones out of step.
            if (
                os.pread(fd, len(_MAGIC), 0) == _MAGIC
                and size % _RECORD.size == 0
                and size < 2 * self.max_records * _RECORD.size
            ):
                os.write(fd, record)
                return True
            self._load_from(fd)
        finally:
            os.close(fd)
        return False

    def _rewrite(self) -> None:
        """Replace the file by the newest records that are known here."""
        newest = list(self._known.items())[-self.max_records :]
        data = _MAGIC + b"".join(self._pack(key, digest) for key, digest in newest)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            fd = os.open(
                temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
            )
            with os.fdopen(fd, "wb") as out:
                if self.path.parent.stat().st_mode & stat.S_IWGRP:
                    os.fchmod(fd, 0o660)
                out.write(data)
            temporary.replace(self.path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._file, self._read = None, 0


def _rebuild(path: str, max_records: int) -> DigestMemo:
    return DigestMemo(path, max_records=max_records)
