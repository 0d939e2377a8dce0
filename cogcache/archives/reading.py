"""Reading an archive, whoever made it: nothing is believed, and nothing gets in unverified."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from cogcache import _core
from cogcache._offload import beside
from cogcache.archives import tar
from cogcache.archives.layout import ENTRY, MANIFEST
from cogcache.archives.manifest import Manifest, read_manifest
from cogcache.archives.rekey import RefusedError, Rekey
from cogcache.archives.report import ArchiveReport, Tally
from cogcache.archives.scratch import IN_MEMORY, Scratch
from cogcache.archives.sending import send
from cogcache.backends.base import META_SOURCE, META_TAGS
from cogcache.exceptions import shown
from cogcache.keys import Key
from cogcache.origins import source_of

if TYPE_CHECKING:
    from cogcache.tiering import Tiers
    from cogcache.writing import Writing

__all__ = ["ArchiveSource", "read_archive"]

_STEP: Final = 1 << 20
# By how much a tag may have been changed later than now, by the clock of another place: what lies
# further ahead would outlive every invalidation.
_AHEAD_US: Final = 86_400_000_000
_PACKED: Final = {
    b"\x1f\x8b": "gzip",
    b"BZ": "bzip2",
    b"\xfd7": "xz",
    b"(\xb5": "zstd",
    b"PK": "zip",
}


class Readable(Protocol):
    """An open binary file, a pipe."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


ArchiveSource = str | os.PathLike[str] | Readable


@dataclass(frozen=True, slots=True)
class _Arrived:
    """What a member was: an entry that is whole and what it says it is, or the word for why not."""

    name: str
    entry: _core.Entry | None = None
    scratch: Scratch | None = None
    word: str = ""


async def read_archive(
    tiers: Tiers,
    writing: Writing,
    source: ArchiveSource,
    *,
    on_conflict: Literal["keep", "replace"],
    rekey: Rekey | None,
    max_entry_bytes: int,
    max_entries: int,
) -> ArchiveReport:
    """See ``CacheManager.import_archive``."""
    tally = Tally()
    with _opened(source) as stream:
        archive = _Archive(stream, rekey, max_entry_bytes, max_entries)
        await beside(archive.begin)
        while True:
            try:
                arrived = await beside(archive.next)
            except tar.TarError as error:
                return tally.report(f"{error} after {archive.read:,} bytes", _unmatched(rekey))
            if arrived is None:
                return tally.report(unmatched=_unmatched(rekey))
            if arrived.word:
                tally.refuse(arrived.name, arrived.word)
            elif arrived.entry is not None and arrived.scratch is not None:
                with arrived.scratch:
                    await _take(tiers, writing, arrived, on_conflict, tally)


def _unmatched(rekey: Rekey | None) -> tuple[str, ...]:
    return () if rekey is None else rekey.unmatched


async def _take(
    tiers: Tiers,
    writing: Writing,
    arrived: _Arrived,
    on_conflict: Literal["keep", "replace"],
    tally: Tally,
) -> None:
    """Put one entry into the tiers, unless there is a reason not to."""
    entry, scratch = arrived.entry, arrived.scratch
    assert entry is not None and scratch is not None
    now_ms = max(tier.now_ms() for tier in tiers.backends)
    if entry.is_expired(now_ms):
        tally.skip("expired")
    elif tiers.is_dead(entry):
        tally.skip("tag-invalidated")
    elif any(at > now_ms * 1000 + _AHEAD_US for _, at in entry.meta.get(META_TAGS) or ()):
        tally.refuse(arrived.name, "future-tag")
    elif on_conflict == "keep" and (await tiers.find(entry.key))[0] is not None:
        tally.skip("present")
    else:
        source, kind = _hashes(entry)
        if scratch.length > IN_MEMORY:
            result = await send(tiers, writing, entry, scratch, source=source, kind=kind)
        else:
            image = entry.to_image()
            what: Any = {tier.draft_kind: image for tier in tiers.backends}
            result = await writing.write(what, source=source, kind=kind)
        if result.stored:
            tally.take(entry.length)
        else:
            tally.refuse(arrived.name, result.reason)


def _hashes(entry: _core.Entry) -> tuple[int, int]:
    """What the index of the filesystem tier finds an entry by: its source, its profile and
    artifact.
    """
    key = Key.from_encoded(entry.key)
    ref = source_of(entry)
    kind = _core.hash64(f"{key.profile}\0{key.artifact}".encode("utf-8", "surrogatepass"))
    return 0 if ref is None else ref.uri_hash, kind & 0xFFFFFFFF if key.artifact else 0


class _Archive:
    """The members of an archive, each checked before it is handed out. Its methods block.

    Attributes:
        read: Bytes so far.
        manifest: What the archive says of itself.
    """

    def __init__(
        self, stream: Readable, rekey: Rekey | None, max_entry_bytes: int, max_entries: int
    ) -> None:
        self._stream = stream
        self._rekey = rekey
        self._most = max_entry_bytes
        self._most_entries = max_entries
        self._seen: set[bytes] = set()
        self._tar = tar.TarReader(self._read)
        self.read = 0
        self.manifest = Manifest()

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if self.read == 0 and data[:2] in _PACKED:
            raise ValueError(
                f"source is compressed ({_PACKED[data[:2]]}); unpack it first, entries are "
                "compressed one by one"
            )
        self.read += len(data)
        return data

    def begin(self, beat: Callable[[], None]) -> None:
        """Read what every archive begins with.

        Raises:
            ValueError: This is none, or one of a later version.
        """
        self._tar.beat = beat
        try:
            member = self._tar.next()
            if member is None or member.name.removeprefix("./") != MANIFEST:
                raise tar.TarError(f"its first member is not {MANIFEST}")
            most_keys = 0 if self._rekey is None else self._most_entries
            self.manifest = read_manifest(self._tar.read, most_keys=most_keys)
        except tar.TarError as error:
            raise ValueError(f"source is no archive of cogcache: {error}") from None

    def next(self, beat: Callable[[], None]) -> _Arrived | None:
        """The next member that is there for an entry."""
        self._tar.beat = beat
        while (member := self._tar.next()) is not None:
            if member.kind == "directory":
                continue
            try:
                return self._checked(member, beat)
            except RefusedError as refused:
                return _Arrived(member.name, word=str(refused))
        return None

    def _checked(self, member: tar.Member, beat: Callable[[], None]) -> _Arrived:
        named = ENTRY.fullmatch(member.name)
        if member.kind != "file":
            raise RefusedError("not-a-file")
        if named is None:
            raise RefusedError("unknown-name")
        key_digest = bytes.fromhex(named[1])
        if key_digest in self._seen:
            raise RefusedError("duplicate")
        if member.size > self._most or len(self._seen) >= self._most_entries:
            raise RefusedError("too-large" if member.size > self._most else "too-many")
        self._seen.add(key_digest)
        scratch = Scratch(member.size)
        try:
            entry = self._verified(scratch, named[2], key_digest, beat)
            here = None if self._rekey is None else self._rekey.readdressed(entry, self.manifest)
            if here is not None:
                old = scratch
                with old:
                    scratch, entry = _rewritten(old, entry, *here)
            return _Arrived(member.name, entry, scratch)
        except BaseException:
            scratch.__exit__()
            raise

    def _verified(
        self, scratch: Scratch, digest: str, key_digest: bytes, beat: Callable[[], None]
    ) -> _core.Entry:
        hasher = _core.Hasher128()
        at = 0
        while piece := self._tar.read(_STEP):
            hasher.update(piece)
            scratch.write_at(at, piece)
            at += len(piece)
        if hasher.digest().hex() != digest:
            raise RefusedError("wrong-digest")
        try:
            entry = scratch.entry()
            entry.verify()
            meta = entry.meta
            key = Key.from_encoded(entry.key)
        except _core.DamagedError:
            raise RefusedError("damaged") from None
        except (_core.ForeignError, _core.UnsupportedError):
            raise RefusedError("unsupported") from None
        except ValueError:
            raise RefusedError("wrong-key") from None
        if _core.hash128(entry.key) != key_digest:
            raise RefusedError("wrong-key")
        if META_SOURCE in meta and key.text is None:
            ref = source_of(entry)
            if ref is not None and ref.fingerprint != key.source:
                raise RefusedError("wrong-source")
        beat()
        return entry


def _rewritten(
    old: Scratch, entry: _core.Entry, key: bytes, meta: dict[int | str, Any]
) -> tuple[Scratch, _core.Entry]:
    """The same parts under another key."""
    try:
        head, data_end, tail = entry.readdressed(key, _core.pack(meta))
    except ValueError:  # over a limit of the metadata
        raise RefusedError("too-large") from None
    except _core.DamagedError:  # no life to keep
        raise RefusedError("damaged") from None
    new = Scratch(data_end + len(tail))
    try:
        new.write_at(0, head)
        for start in range(len(head), data_end, _STEP):
            new.write_at(start, old.read(start, min(_STEP, data_end - start)))
        new.write_at(data_end, tail)
        written = new.entry(key)
        written.verify()
    except BaseException:
        new.__exit__()
        raise
    return new, written


def _opened(source: ArchiveSource) -> AbstractContextManager[Readable]:
    if isinstance(source, str | os.PathLike):
        return open(source, "rb")
    if not callable(getattr(source, "read", None)):
        raise TypeError(
            "source must be the path of an archive or a binary file that is open for reading, "
            f"not {shown(source)}"
        )
    if isinstance(source, io.TextIOBase):
        raise TypeError("source is a text file; open it with 'rb', or give sys.stdin.buffer")
    return contextlib.nullcontext(source)
