"""One computation of a key on a host, over its processes: a lock that the kernel holds.

A file under ``v1/locks/`` of the cache directory, named by the digest of the key and locked with
``flock``. The lock ends with the process that holds it, however that ends, so there is nothing to
time out and nothing to clean up. The file goes when the lock is given back: who has opened it
meanwhile sees that its name leads elsewhere, and opens the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import stat
import time
from collections.abc import AsyncIterator
from typing import Final

from cogcache import _folders
from cogcache._fork import renew_after_fork
from cogcache._inline import in_calling_thread, is_sync
from cogcache._offload import NoAnswerError, beside

__all__ = ["HostLocks"]

logger = logging.getLogger("cogcache")

LOOK_SECONDS: Final = 0.02  # between two looks at a lock that somebody else holds
_FILE_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class _Held:
    """A lock that this process holds, until ``release`` or until nobody has it any more."""

    def __init__(self, path: str, file: int) -> None:
        self._path = path
        self._file = file
        self._pid = os.getpid()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """It is the parent's; as long as a copy of the descriptor is open, so is the lock."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def release(self) -> None:
        """Give it back; may be called twice."""
        file, self._file = self._file, -1
        if file < 0:
            return
        if os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        os.close(file)

    __del__ = release


class HostLocks:
    """The locks of one cache directory. Usable from any loop and thread.

    Args:
        folder: Where their files are; is made when it is needed.
        group: Whether the directory's group may lock too.
    """

    def __init__(self, folder: str, *, group: bool = False) -> None:
        self._folder = folder
        self._group = group
        self._told = False

    @contextlib.asynccontextmanager
    async def held(self, name: str, *, wait: bool = True) -> AsyncIterator[None]:
        """Within, no other process of this host is within the same name.

        Where no file can be locked (no room, no permission, a file system without locks), it is
        entered all the same, which is said once: a lock saves work and is never needed. With
        ``wait=False`` likewise where another process is within.
        """
        lock = await self._taken(name, wait)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    async def _taken(self, name: str, wait: bool) -> _Held | None:
        while True:
            try:
                lock = await beside(lambda beat: self._try(name))
            except (OSError, NoAnswerError) as error:
                self._tell(error)
                return None
            if lock is not None or not wait:
                return lock
            if is_sync():
                await in_calling_thread(time.sleep, LOOK_SECONDS)
            else:
                await asyncio.sleep(LOOK_SECONDS)

    def _try(self, name: str) -> _Held | None:
        """The lock, or ``None`` while somebody else has it."""
        path = os.path.join(self._folder, name)
        while True:
            folder = _folders.opened(self._folder, group=self._group)
            try:
                file = os.open(name, _FILE_FLAGS, 0o660 if self._group else 0o600, dir_fd=folder)
                try:
                    if not stat.S_ISREG(os.fstat(file).st_mode):
                        raise OSError(f"{path} is not a regular file: remove it")
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is_named(file, name, folder):
                        held, file = _Held(path, file), -1
                        return held
                except BlockingIOError:
                    return None
                finally:
                    if file >= 0:
                        os.close(file)
            finally:
                os.close(folder)

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "single_flight='host': no lock in %s, so processes may compute the same at the "
                "same time: %s: %s",
                self._folder,
                type(error).__name__,
                error,
            )


def _is_named(file: int, name: str, folder: int) -> bool:
    """Whether the name still leads to this file."""
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(file)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
