"""The spool: entries that wait to be sent to another tier, kept where they outlive the process.

The entry that a filesystem tier has just stored *is* the payload: a hard link to exactly that
generation lies in ``<base_path>/v1/spool/``, with a small durable record beside it. Both are there
before the put is acknowledged, so a ``kill -9`` loses nothing, and any process that uses the
directory may send it. Who sends holds a lock (``flock``) on the record that the kernel releases
with its death; the record goes when the entry has been sent.

Names: ``<digest of the key>-<write token>-<destination>.entry`` and ``.job``. The destination is a
hash of what a tier's configuration says of its place, so a job waits for the bucket that it was
meant for, whatever else is configured.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import mmap
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from cogcache import _bridge, _core
from cogcache._fork import renew_after_fork
from cogcache._inline import is_inline
from cogcache._offload import NoAnswerError, offload
from cogcache._reading import no_beat

__all__ = ["Claim", "Spool", "Spooled", "is_newer"]

logger = logging.getLogger("cogcache")
T = TypeVar("T")

ORPHAN_SECONDS: Final = 600.0  # a link without a record is a put that was killed in between
VERSION: Final = 1  # of a record
LOOK_SECONDS: Final = 30.0  # without getting further, and a look is given up
_PEEK: Final = _core.GET_INDEX_ONLY | _core.GET_ANY_AGE | _core.GET_NO_TOUCH


@dataclass(frozen=True, slots=True)
class Spooled:
    """One job.

    Attributes:
        name: Of the record, without its ending.
        key: Of the entry.
        size: Of the container, in bytes.
        source: As given to the put.
        kind: As given to the put.
        made_ms: When it was put, Unix milliseconds.
    """

    name: str
    key: bytes
    size: int
    source: int
    kind: int
    made_ms: int


class Claim:
    """A job that is this process' to send, until ``release`` or its death."""

    def __init__(self, spool: Spool, name: str, fd: int) -> None:
        self._spool = spool
        self._name = name
        self._fd: int | None = fd
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The lock is the parent's; only closing our copy of the descriptor leaves it so."""
        self.release()

    def entry(self) -> _core.Entry:
        """What is to be sent, mapped.

        Raises:
            _core.DamagedError: It is not whole.
            OSError: It cannot be read.
        """
        return self._spool.entry(self._name)

    def stands(self) -> bool:
        """Whether nobody has withdrawn the job since."""
        return self._fd is not None and os.fstat(self._fd).st_nlink > 0

    async def finish(self) -> None:
        """It is done: forget it."""
        await self._spool.remove(self._name)

    def release(self) -> None:
        """Let others have it, if it is not done. May be called twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)


class Spool:
    """The jobs for one destination in the spool of one store.

    Every method is safe from several threads and processes at once.

    Args:
        store: Of a filesystem tier.
        destination: See ``destination_of``.
    """

    def __init__(self, store: _core.Store, destination: str) -> None:
        self._store = store
        self._ending = f"-{destination}"
        self._can_lock = False  # as far as anybody knows
        self._said = False

    def path(self, name: str) -> str:
        """Where a file of the spool is."""
        return os.path.join(self._store.root, "spool", name)

    def entry(self, name: str, key: bytes | None = None) -> _core.Entry:
        """The entry of a job, mapped.

        Raises:
            _core.DamagedError: It is not whole.
            _core.ForeignError: It is not of that key.
            OSError: It cannot be read.
        """
        fd = os.open(self.path(f"{name}.entry"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size == 0:
                raise _core.DamagedError("an empty file")
            data = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        return _core.Entry.from_bytes(data) if key is None else _core.Entry.from_bytes(data, key)

    async def is_current(self, job: Spooled) -> bool:
        """Whether the store has this very generation of the key now."""
        found = await _bridge.run(self._store, "fetch", job.key, _PEEK)
        if isinstance(found, str):
            return False
        return job.name == f"{found.digest.hex()}-{found.token:016x}{self._ending}"

    async def has_newer(self, entry: _core.Entry) -> bool:
        """Whether somebody has put another value of the key into the store since this one."""
        found = await self.newest(entry.key)
        return found is not None and is_newer(found, entry)

    async def newest(self, key: bytes) -> _core.Entry | None:
        """What the store has of a key now."""
        found = await _bridge.run(self._store, "fetch", key, _PEEK)
        return None if isinstance(found, str) else found

    async def keep(self, key: bytes, token: int, source: int, kind: int) -> Spooled | str:
        """Keep the generation ``token`` of a key for sending, durably; or one word for why it
        cannot be: ``"absent"`` when the store has another by now, ``"no-space"``, ``"no-locks"``
        where nobody could ever claim it ...
        """
        entry = await _bridge.run(self._store, "fetch", key, _PEEK)
        if isinstance(entry, str):
            return entry
        if entry.token != token:
            return "absent"
        label = f"{token:016x}{self._ending}"
        name = f"{entry.digest.hex()}-{label}"
        made_ms = time.time_ns() // 1_000_000
        job = Spooled(name, key, entry.length, source, kind, made_ms)
        word: str | None = await _bridge.run(self._store, "spool_link", entry, f"{label}.entry")
        if word is None:
            record = {
                "version": VERSION,
                "key": key.hex(),
                "size": job.size,
                "source": source,
                "kind": kind,
                "made_ms": made_ms,
            }
            data = json.dumps(record).encode()
            word = await _bridge.run(self._store, "spool_write", entry.digest, f"{label}.job", data)
        if word is None and not await self._locks(name):
            word = "no-locks"
        if word is not None:
            await self.remove(name)
            return word
        return job

    async def again(self, entry: _core.Entry, source: int, kind: int) -> Spooled | str:
        """``keep`` for a generation of which there may be a job already: that one, if nobody is
        sending it now, else ``"busy"``.
        """
        name = f"{entry.digest.hex()}-{entry.token:016x}{self._ending}"
        claim = self.claim(name)
        if claim == "absent":
            return await self.keep(entry.key, entry.token, source, kind)
        if isinstance(claim, str):
            return claim
        claim.release()
        with contextlib.suppress(ValueError):
            return self._read(name) or "absent"
        return "absent"

    async def remove(self, name: str) -> None:
        """Forget a job, whoever works at it; the record first, so that no job lacks its entry."""
        for ending in (".job", ".entry"):
            await _bridge.run(self._store, "spool_remove", name + ending)

    def claim(self, name: str) -> Claim | str:
        """Make a job one's own: ``"busy"`` while another has it, ``"absent"`` when it is done."""
        taken = self._take(name)
        return "busy" if taken == "no-locks" else taken

    def _take(self, name: str) -> Claim | str:
        path = self.path(f"{name}.job")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return "absent"
        except OSError as error:
            self._say_why(error)
            return "busy"
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            done = os.fstat(fd).st_nlink == 0
        except BlockingIOError:
            os.close(fd)
            return "busy"
        except OSError as error:
            os.close(fd)
            self._say_why(error)
            return "no-locks"
        claim = Claim(self, name, fd)
        if done:
            claim.release()
            return "absent"
        return claim

    async def _locks(self, name: str) -> bool:
        """Whether files of the spool can be locked, tried with a new one until they could."""
        if not self._can_lock:
            with contextlib.suppress(NoAnswerError, RuntimeError):  # then nobody knows
                self._can_lock = await self._off_loop(self._try_lock, name)
                return self._can_lock
        return True

    def _try_lock(self, beat: Callable[[], None], name: str) -> bool:
        beat()
        taken = self._take(name)
        if isinstance(taken, Claim):
            taken.release()
        return taken != "no-locks"

    def _say_why(self, error: OSError) -> None:
        """Nobody has a job, and yet it cannot be claimed: said once."""
        if not self._said:
            self._said = True
            logger.warning(
                "entries that wait in %s cannot be claimed for sending: %s; as long as that is so, "
                "each put sends its own. If it lasts, put base_path on a filesystem where flock "
                "works, or set behind_durable=False",
                self.path(""),
                error,
            )

    async def jobs(
        self,
        known: frozenset[str] = frozenset(),
        damaged: Callable[[str], object] = lambda name: None,
    ) -> list[Spooled]:
        """What waits for this destination, whoever put it, the oldest first, without the ``known``
        names. Links that a killed put left without a record are removed, and so are records that
        cannot be read, with their links; ``damaged`` is told the names of these.
        """
        try:
            found, orphans, spoilt = await self._off_loop(self._look, known)
        except (NoAnswerError, RuntimeError):
            return []  # a disk that hangs, or no thread: the next look will find them
        for name in orphans:
            await _bridge.run(self._store, "spool_remove", name)
        for name in spoilt:
            claim = self.claim(name)
            if isinstance(claim, Claim):  # else somebody is just sending it
                with contextlib.suppress(OSError):
                    await claim.finish()
                    damaged(name)
                claim.release()
        return found

    async def _off_loop(self, work: Callable[[Callable[[], None], Any], T], about: Any) -> T:
        """``work(beat, about)`` where it holds up nobody.

        Raises:
            NoAnswerError: The disk hangs.
            RuntimeError: There is no thread.
        """
        if is_inline():
            return work(no_beat, about)
        return await offload(lambda beat: work(beat, about), timeout_seconds=LOOK_SECONDS)

    def _look(
        self, beat: Callable[[], None], known: frozenset[str]
    ) -> tuple[list[Spooled], list[str], list[str]]:
        """Jobs, names of old links that have no record, and names of records that are spoilt."""
        found: dict[str, Spooled] = {}
        spoilt: list[str] = []
        links: list[os.DirEntry[str]] = []
        for item in self._files():
            name, ending = os.path.splitext(item.name)
            if not name.endswith(self._ending) or name in known:
                continue
            beat()
            if ending == ".job":
                try:
                    job = self._read(name)
                except ValueError:
                    spoilt.append(name)
                    continue
                if job is not None:
                    found[name] = job
            elif ending == ".entry":
                links.append(item)
        orphans: list[str] = []
        for item in links:
            name = item.name.removesuffix(".entry")
            if name not in found and not os.path.exists(self.path(f"{name}.job")):
                with contextlib.suppress(OSError):
                    if time.time() - item.stat().st_ctime > ORPHAN_SECONDS:
                        orphans.append(item.name)
        return sorted(found.values(), key=lambda job: job.made_ms), orphans, spoilt

    def _files(self) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(self.path("")) as listed:
                yield from listed
        except OSError:
            return  # none yet, or the disk is gone: the store says so itself

    def _read(self, name: str) -> Spooled | None:
        """A job; ``None``: done meanwhile, or of a later version, or not to be read just now.

        Raises:
            ValueError: Nobody will ever read it.
        """
        try:
            with open(self.path(f"{name}.job"), "rb") as file:
                data = file.read()
        except OSError as error:
            if error.errno == errno.EIO:
                raise ValueError("the disk has lost it") from error
            return None
        try:
            record: dict[str, Any] = json.loads(data)
            if int(record["version"]) > VERSION:
                return None
            job = Spooled(
                name,
                bytes.fromhex(record["key"]),
                int(record["size"]),
                int(record["source"]),
                int(record["kind"]),
                int(record["made_ms"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError("no record of ours") from error
        if not name.startswith(_core.hash128(job.key).hex()):
            raise ValueError("of another key")
        return job


def is_newer(entry: _core.Entry, other: _core.Entry) -> bool:
    """Whether it was put after another one of its key."""
    return entry.token != other.token and entry.created_ms >= other.created_ms
