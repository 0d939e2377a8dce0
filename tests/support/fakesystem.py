"""A machine for identities that can be made to be anything: NFS, FAT, a hung server, a failing
disk."""

import errno
import os
import threading

from cogcache._system import System

LOCAL = b"24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
HOME_ON_NFS = LOCAL + b"30 24 0:40 / /mnt/team\\040share rw - nfs4 server:/export rw\n"


class FakeSystem(System):
    """The real machine but for what is set here.

    Attributes:
        now: what the wall clock says, nanoseconds; None: the real one.
        table: the table of mounts; None: there is none.
        errors: errno by path, raised when that path is looked at or opened.
        facts: fields of `os.stat_result` by path, in place of the real ones.
        names: real name by path, in place of what the kernel says.
        remote: whether paths lie on a remote file system; None: as the table says.
        hang: set to make every call on the file system wait for it.
        calls: names of all calls on the file system with the thread that made them.
    """

    def __init__(self, table=LOCAL):
        super().__init__()
        self.now = None
        self.table = table
        self.errors = {}
        self.facts = {}
        self.names = {}
        self.remote = None
        self.hang = None
        self.calls = []
        self.seconds = None

    def threads(self):
        return {thread for _, thread in self.calls}

    def called(self, name):
        return sum(call == name for call, _ in self.calls)

    def _call(self, name, path=None):
        self.calls.append((name, threading.get_ident()))
        if self.hang is not None:
            self.hang.wait(60)
        if path in self.errors:
            code = self.errors[path]
            raise OSError(code, os.strerror(code), os.fsdecode(path))

    def now_ns(self):
        return super().now_ns() if self.now is None else self.now

    def monotonic(self):
        return super().monotonic() if self.seconds is None else next(self.seconds)

    def read_mounts(self):
        return self.table

    def is_remote(self, path):
        return super().is_remote(path) if self.remote is None else self.remote

    def may_block(self, path):
        return super().may_block(path) if self.remote is None else self.remote

    def probe(self, path):
        self._call("probe", path)
        real, found = super().probe(path)
        real = self.names.get(path, real)
        changed = self.facts.get(path)
        if found is not None and changed:
            found = fake_stat(found, **changed)
        return real, found

    def open(self, path):
        self._call("open", path)
        return super().open(path)

    def read(self, fd, room, offset):
        self._call("read")
        return super().read(fd, room, offset)


def fake_stat(found, **changed):
    """A copy of a stat result with other fields; times in nanoseconds."""
    names = ("mode", "ino", "dev", "nlink", "uid", "gid", "size")
    first = [changed.get(f"st_{name}", getattr(found, f"st_{name}")) for name in names]
    times = {
        f"st_{name}_ns": changed.get(f"st_{name}_ns", getattr(found, f"st_{name}_ns"))
        for name in ("atime", "mtime", "ctime")
    }
    seconds = [value // 10**9 for value in times.values()]
    return os.stat_result((*first, *seconds), times)


class NoSystem(System):
    """A machine on which touching anything fails the test."""

    def _refuse(self, *args, **kwargs):
        raise AssertionError("a source that is never opened was looked at")

    probe = open = read = is_remote = may_block = _refuse


__all__ = ["HOME_ON_NFS", "LOCAL", "FakeSystem", "NoSystem", "errno", "fake_stat"]
