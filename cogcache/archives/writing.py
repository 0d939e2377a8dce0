"""Writing an archive: what a plan shows, out of whichever tier has it."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from cogcache import _core
from cogcache._offload import beside
from cogcache.archives import tar
from cogcache.archives.layout import MANIFEST, entry_name, manifest_lines
from cogcache.archives.report import ArchiveReport, Tally
from cogcache.archives.scratch import Scratch

if TYPE_CHECKING:
    from cogcache.backends.base import CacheBackend
    from cogcache.keys import Key
    from cogcache.selection import Plan, SelectedEntry
    from cogcache.tiering import Tiers

__all__ = ["ArchiveTarget", "write_archive"]

_TRIES: Final = 2  # of an entry that is replaced while it is copied


class Writable(Protocol):
    """An open binary file, a pipe."""

    def write(self, data: bytes, /) -> object:
        """Take all of ``data``."""
        ...


ArchiveTarget = str | os.PathLike[str] | Writable


async def write_archive(tiers: Tiers, plan: Plan, target: ArchiveTarget) -> ArchiveReport:
    """See ``CacheManager.export_archive``."""
    tally = Tally()
    with ExitStack() as stack:
        out = await beside(lambda beat: stack.enter_context(_opened(target)))
        entries = sorted(plan.entries, key=lambda one: str(one.key))
        await beside(lambda beat: _write_manifest(out, entries))
        for one in entries:
            await _add(tiers, one.key, out, tally)
        await beside(lambda beat: _write(out, tar.END))
        await beside(lambda beat: stack.close())
    return tally.report(
        f"not asked, since not available: {', '.join(plan.unavailable)}"
        if plan.unavailable
        else None
    )


async def _add(tiers: Tiers, key: Key, out: Writable, tally: Tally) -> None:
    """One entry, from the first tier that gives it whole."""
    word = "absent"
    for tier in tiers.backends:
        for _ in range(_TRIES):
            entry = await tiers.fetch(tier, key.encoded, parts=True)
            if isinstance(entry, str):
                word = entry if word == "absent" else word
                break
            with Scratch(entry.length) as scratch:
                failed = await _copied(tiers, tier, entry, scratch, out)
            if failed is None:
                tally.take(entry.length)
                return
            word = failed
            if failed != "changed":
                break
    if word in ("absent", "expired", "tag-invalidated"):
        tally.skip(word)
    else:
        tally.refuse(str(key), word)


async def _copied(
    tiers: Tiers, tier: CacheBackend, entry: _core.Entry, scratch: Scratch, out: Writable
) -> str | None:
    """Write an entry, once all of it is here and whole; ``None`` or the word for why not."""
    try:
        word = await tier.copy_to(entry, scratch)
    except (_core.DamagedError, _core.UnsupportedError) as error:
        return await tiers.value_failed(tier, entry, error)
    except Exception as error:
        tiers.failed(tier, "read", error)
        return "unavailable"
    if word is not None:
        return word

    def work(beat: Callable[[], None]) -> str | None:
        """Reading it anew is not the target's fault, so what fails there is told apart."""
        try:
            copy = scratch.entry(entry.key)
            copy.verify()
        except (_core.DamagedError, _core.ForeignError):
            return "damaged"
        name = entry_name(_core.hash128(entry.key), scratch.digest(beat))
        _write(out, tar.header(name, scratch.length, copy.created_ms // 1000))
        for piece in scratch.pieces():
            _write(out, piece)
            beat()
        _write(out, tar.padding(scratch.length))
        return None

    word = await beside(work)
    if word == "damaged":
        return await tiers.value_failed(tier, entry, _core.DamagedError("an entry to be archived"))
    return word


def _write_manifest(out: Writable, entries: list[SelectedEntry]) -> None:
    size = sum(map(len, manifest_lines(entries)))
    _write(out, tar.header(MANIFEST, size, 0))
    for line in manifest_lines(entries):
        _write(out, line)
    _write(out, tar.padding(size))


def _write(out: Writable, data: bytes) -> None:
    """All of it; an unbuffered file or a pipe may take less at once and say so."""
    view = memoryview(data)
    while len(view):
        taken = out.write(view)  # type: ignore[arg-type]
        if not isinstance(taken, int) or taken == len(view):
            return
        view = view[taken:]


def _opened(target: ArchiveTarget) -> AbstractContextManager[Writable]:
    if isinstance(target, str | os.PathLike):
        return _replacing(os.fspath(target))
    if not callable(getattr(target, "write", None)):
        raise TypeError(
            "target must be the path of a file or a binary file that is open for writing, "
            f"not {type(target).__name__}"
        )
    if isinstance(target, io.TextIOBase):
        raise TypeError("target is a text file; open it with 'wb', or give sys.stdout.buffer")
    return contextlib.nullcontext(target)


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[IO[Any]]:
    """A file that appears under its name when it is whole, and not at all if it will not be."""
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"target {path}: there is something else than a file; choose another name")
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(8)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(part, flags, 0o666), "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
