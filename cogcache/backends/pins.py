"""Pins of a filesystem tier: keys whose entries no policy evicts.

A pin is an empty file ``v1/pins/<32 hex>``, named by the digest of the key: all processes of the
directory see it, it outlives them, and an index that is lost or made anew forgets none. Deleting,
replacing and the end of a life go on as ever; a new value of the key is pinned like the old one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from typing import Final

from cogcache import _folders
from cogcache.exceptions import PinLimitError

__all__ = ["MOST_PINS", "PINNED_SHARE", "Pins"]

MOST_PINS: Final = 1024
PATIENCE_SECONDS: Final = 2.0
PINNED_SHARE: Final = 2  # of the limit: pinned entries take at most this part
_NAME: Final = re.compile(r"[0-9a-f]{32}")
_FILE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Pins:
    """The pins of one directory. Its methods block; usable from any thread and process.

    Args:
        root: ``<base_path>/v1``.
        limit_bytes: Of the tier; ``None`` if it has none.
        group: Whether the directory's group may pin too.
    """

    def __init__(self, root: str, limit_bytes: float | None, *, group: bool = False) -> None:
        self._root = root
        self._folder = os.path.join(root, "pins")
        self._most_bytes = None if limit_bytes is None else int(limit_bytes / PINNED_SHARE)
        self._group = group

    def pin(self, digest: bytes) -> bool:
        """Pin the key of this digest; False when no entry of it is there.

        Raises:
            PinLimitError: More would be pinned than may be.
            OSError: As the system has it.
        """
        name = digest.hex()
        with self._locked() as folder:
            pinned = self._sizes()
            if name in pinned:
                return pinned[name] is not None
            size = self._size(name)
            if size is None:
                return False
            if len(pinned) >= MOST_PINS:
                self._drop_idle(pinned, folder)
            self._check_room(size, [one for one in pinned.values() if one is not None])
            os.close(os.open(name, _FILE_FLAGS, 0o660 if self._group else 0o600, dir_fd=folder))
            # What evicts looks for the file while it has the shard: either it saw it, or the entry
            # is gone by now.
            if self._size(name) is None:
                os.unlink(name, dir_fd=folder)
                return False
        return True

    def unpin(self, digest: bytes) -> bool:
        """Let the key of this digest be evicted again; whether it was pinned."""
        try:
            folder = os.open(self._folder, _folders.FLAGS)
        except FileNotFoundError:
            return False
        try:
            os.unlink(digest.hex(), dir_fd=folder)
        except FileNotFoundError:
            return False
        finally:
            os.close(folder)
        return True

    def digests(self) -> list[bytes]:
        """The digests of all pinned keys, also of those that have no entry now."""
        return [bytes.fromhex(name) for name in self._names()]

    def usage(self) -> dict[str, int]:
        """``pinned``, how many entries are, and ``pinned_bytes``, what they take on disk."""
        if not os.path.isdir(self._folder):
            return {"pinned": 0, "pinned_bytes": 0}
        sizes = [one for one in self._sizes().values() if one is not None]
        return {"pinned": len(sizes), "pinned_bytes": sum(sizes)}

    def _check_room(self, size: int, pinned: list[int]) -> None:
        if len(pinned) >= MOST_PINS:
            raise PinLimitError(
                f"{len(pinned):,} entries are pinned, the most that may be; unpin some"
            )
        total = sum(pinned) + size
        if self._most_bytes is not None and total > self._most_bytes:
            raise PinLimitError(
                f"pinned entries would take {total:,} bytes, and may take {self._most_bytes:,} "
                f"(1/{PINNED_SHARE} of max_size_mb): unpin some, or raise max_size_mb"
            )

    def _drop_idle(self, pinned: dict[str, int | None], folder: int) -> None:
        """Forget pins of keys that have no entry any more, to make room."""
        for name in [name for name, size in pinned.items() if size is None]:
            del pinned[name]
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)

    def _names(self) -> list[str]:
        try:
            return [name for name in sorted(os.listdir(self._folder)) if _NAME.fullmatch(name)]
        except FileNotFoundError:
            return []

    def _sizes(self) -> dict[str, int | None]:
        return {name: self._size(name) for name in self._names()}

    def _size(self, name: str) -> int | None:
        """What the entry of a digest takes on disk, or ``None`` if there is none."""
        try:
            found = os.lstat(os.path.join(self._root, "objects", name[:2], name[2:]))
        except FileNotFoundError:
            return None
        return max(found.st_blocks * 512, found.st_size)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Nobody else pins meanwhile, so that the limits hold; the kernel ends it with the
        process.
        """
        folder = _folders.opened(self._folder, group=self._group)
        try:
            _lock(folder)
            yield folder
        finally:
            os.close(folder)


def _lock(folder: int) -> None:
    """Have the folder alone. Where there are no locks, or somebody who was stopped has it, the
    limits hold nearly.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.005)
        except OSError:
            return
        else:
            return
