"""What identities ask of the machine, behind one object that a test can replace."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from typing import Final

__all__ = ["SYSTEM", "System"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Types of file systems whose server may be slow or gone, and whose clock is not ours.
_REMOTE_TYPES: Final = _words(
    "nfs nfs4 cifs smb2 smb3 smbfs ncpfs afs coda lustre gpfs beegfs ceph glusterfs 9p "
    "orangefs pvfs2 gfs2 ocfs2 panfs vxfs autofs fuse"
)
_MOUNTS_SECONDS: Final = 1.0
_LINKS_MAX: Final = 40
_OCTAL = re.compile(rb"\\([0-7]{3})")
_NOT_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def _unescape_mount(text: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), text)


class System:
    """The real machine."""

    def __init__(self) -> None:
        # The variable keeps to what every POSIX system has, as the core does.
        plain = os.environ.get("COGCACHE_PLAIN_POSIX", "0") not in ("", "0")
        self._o_path: int | None = None if plain else getattr(os, "O_PATH", None)
        self._preadv = None if plain else getattr(os, "preadv", None)
        self._mounts: dict[bytes, bool] | None = None
        self._mounts_read = -_MOUNTS_SECONDS

    def now_ns(self) -> int:
        """Return the wall clock, nanoseconds since the epoch: what file times are compared with."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps: what durations are measured with."""
        return time.monotonic()

    # --- paths ---------------------------------------------------------------------------------

    def probe(self, path: bytes) -> tuple[bytes, os.stat_result | None]:
        """Return where the path leads with all symlinks followed, and what is there (None:
        nothing).

        Opens nothing: neither FIFOs nor devices notice.

        Raises:
            OSError: the system cannot say (EACCES, EIO, ESTALE ...).
        """
        if self._o_path is None:
            return self._probe_by_name(path)
        try:
            # Name and facts of one and the same file, in two calls instead of one per component.
            fd = os.open(path, self._o_path | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return os.path.realpath(path), None
            return self._probe_by_name(path)
        try:
            found = os.fstat(fd)
            real = os.readlink(b"/proc/self/fd/%d" % fd)
        except OSError:
            return self._probe_by_name(path)
        finally:
            os.close(fd)
        # Of a file without a name, or outside of this root, the kernel tells no usable one.
        if not found.st_nlink or not real.startswith(b"/") or real.endswith(b" (deleted)"):
            return self._probe_by_name(path)
        return real, found

    def _probe_by_name(self, path: bytes) -> tuple[bytes, os.stat_result | None]:
        try:
            found = os.stat(path)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return os.path.realpath(path), None
        return os.path.realpath(path), found

    def open(self, path: bytes) -> int:
        """Open a regular file for reading; never blocks on a FIFO or wakes a device that took its
        place.
        """
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.ESTALE, "no longer a regular file", os.fsdecode(path))
        return fd

    def read(self, fd: int, room: memoryview, offset: int) -> int:
        """Read into ``room`` from ``offset``; returns the bytes read, 0 at the end."""
        if self._preadv is not None:
            return int(self._preadv(fd, [room], offset))
        data = os.pread(fd, len(room), offset)
        room[: len(data)] = data
        return len(data)

    # --- mounts --------------------------------------------------------------------------------

    def read_mounts(self) -> bytes | None:
        """Return the kernel's table of mounts, or None where there is none (macOS, no /proc)."""
        try:
            with open("/proc/self/mountinfo", "rb") as table:
                return table.read()
        except OSError:
            return None

    def mounts(self) -> dict[bytes, bool] | None:
        """Return mount points and whether each is remote; None when that cannot be known."""
        now = self.monotonic()
        if now - self._mounts_read >= _MOUNTS_SECONDS:
            table = self.read_mounts()
            self._mounts = None if table is None else self._parse_mounts(table)
            self._mounts_read = now
        return self._mounts

    @staticmethod
    def _parse_mounts(table: bytes) -> dict[bytes, bool]:
        mounts: dict[bytes, bool] = {}
        for line in table.splitlines():
            before, _, after = line.partition(b" - ")
            fields = before.split(b" ")
            if len(fields) > 4:
                # Of two mounts on one point, the later covers the earlier.
                kind = after.split(b" ", 1)[0].decode("ascii", "replace")
                remote = kind.partition(".")[0] in _REMOTE_TYPES
                mounts[_unescape_mount(fields[4])] = remote
        return mounts

    def is_remote(self, path: bytes) -> bool:
        """Whether an absolute path without symlinks lies on a remote file system, by its name.

        True where mounts are unknown: the wider window for young files is the safe one.
        """
        mounts = self.mounts()
        if mounts is None:
            return True
        if not any(mounts.values()):
            return False
        at = path
        while at not in mounts:
            if at in (b"/", b""):
                return False
            at = os.path.dirname(at)
        return mounts[at]

    def may_block(self, path: bytes) -> bool:
        """Whether asking about an absolute path might wait for a server.

        Follows symlinks one by one and touches only what is local. True where mounts are unknown.
        """
        mounts = self.mounts()
        if mounts is None:
            return True
        if not any(mounts.values()):
            return False
        todo = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
        at = b"/"
        links = 0
        while todo:
            if self.is_remote(at):
                return True
            part = todo.pop()
            if part == b"..":
                at = os.path.dirname(at)
                continue
            step = os.path.join(at, part)
            if self.is_remote(step):
                return True
            try:
                target = os.readlink(step)
            except OSError:
                at = step
                continue
            links += 1
            if links > _LINKS_MAX:
                return False
            if target.startswith(b"/"):
                at = b"/"
            todo += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
        return self.is_remote(at)


SYSTEM: Final = System()
"""The one that is used where none is given."""
