"""Sources: which video, exactly. Captured once, then used for get, compute and set.

Kinds of identity and what each holds are specified in ``docs/keys.md``: ``stat`` (URI, size and
modification time), ``content``, ``sampled`` and ``sha256`` (digests, so that copies share),
``etag`` and ``source_id`` (the caller's word), ``absent`` (nothing there yet) and ``opaque`` (a URI
that is never opened).
"""

from __future__ import annotations

import asyncio
import difflib
import errno
import logging
import os
import stat
from collections.abc import Callable
from typing import Final, Literal, TypeVar

from cogcache._identity import SourceRef, SourceUnavailableError, probe, unavailable
from cogcache._offload import NoAnswerError, offload
from cogcache._reading import DIGESTS, Beat, content_digest, no_beat, sample_digest
from cogcache._system import SYSTEM, System
from cogcache.exceptions import shown
from cogcache.memo import DigestMemo
from cogcache.uris import LONGEST_NAME, Place, SourcePath, file_uri, place_of

__all__ = [
    "IDENTITIES",
    "DigestMemo",
    "Identity",
    "Source",
    "SourceRef",
    "SourceUnavailableError",
    "capture",
    "capture_async",
    "changed_async",
    "file_digest",
    "settle_async",
    "unreadable",
]

T = TypeVar("T")

_log = logging.getLogger("cogcache")

Identity = Literal["stat", "content", "sampled", "sha256"]
IDENTITIES: Final[tuple[Identity, ...]] = ("stat", "content", "sampled", "sha256")

YOUNG_NS: Final = 10_000_000
"""A file time younger than this may stand still over another change: one tick of the clock that
stamps files (1 to 10 ms before Linux 6.13)."""
YOUNG_COARSE_NS: Final = 2_000_000_000
"""The same for times of a server's clock or without digits below 1 ms (NFS, FAT, S3 mounts)."""
_ATTEMPTS: Final = 3
_SLOW_SECONDS: Final = 5.0


class WouldReadError(Exception):
    """Internal: the identity needs bytes of the file, and the caller must not wait for them."""


Source = SourcePath | SourceRef
"""Where a source is: a path, a URI, or what was captured of it before."""


def _same_file(a: os.stat_result, b: os.stat_result | None) -> bool:
    return b is not None and (a.st_size, a.st_mtime_ns, a.st_ctime_ns, a.st_ino, a.st_dev) == (
        b.st_size,
        b.st_mtime_ns,
        b.st_ctime_ns,
        b.st_ino,
        b.st_dev,
    )


def _tick_ns(system: System, real: bytes, time_ns: int, now_ns: int) -> int:
    """Return how long a file time of this age and file system is young; 0 when it is no longer."""
    age = now_ns - time_ns
    if age >= YOUNG_COARSE_NS:
        return 0
    coarse = time_ns % 1_000_000 == 0 or system.is_remote(real)
    window = YOUNG_COARSE_NS if coarse else YOUNG_NS
    return window if age < window else 0


def _settled_path(system: System, place: Place) -> tuple[bytes, bytes, os.stat_result | None]:
    """Return the path as asked, the real one, and what is there."""
    assert place.path is not None
    real, found = probe(system, place.path)
    if place.literal is not None:
        literal_real, literal_found = probe(system, place.literal)
        if literal_found is not None and found is not None:
            raise ValueError(
                "this file:// source names one file percent-decoded and another as it stands, and "
                "both exist; pass a path"
            )
        if literal_found is not None:
            return place.literal, literal_real, literal_found
    return place.path, real, found


def _named(place: Place, system: System) -> tuple[str, bytes | None]:
    """Return URI and path for an identity that is the caller's word: the file need not be
    readable.
    """
    if place.uri is not None:
        return place.uri, None
    assert place.path is not None
    try:
        path, real, _ = _settled_path(system, place)
    except SourceUnavailableError:
        return file_uri(os.path.normpath(place.path)), place.path
    return file_uri(real), path


def check_arguments(identity: str, source_id: object, etag: object, source: object) -> None:
    """Refuse arguments that no identity can be made of."""
    if not isinstance(identity, str) or identity not in IDENTITIES:
        near = difflib.get_close_matches(shown(identity), IDENTITIES, 1, 0.0)
        raise ValueError(
            f"identity is one of {', '.join(IDENTITIES)}, not {shown(identity)}; "
            f"did you mean {near[0]}?"
        )
    if source_id is not None and not isinstance(source_id, str | bytes):
        raise TypeError(f"source_id is a str or bytes, not {type(source_id).__name__}")
    if etag is not None and not isinstance(etag, str):
        raise TypeError(f"etag is a str, not {type(etag).__name__}")
    if source_id is not None and etag is not None:
        raise ValueError("source_id and etag exclude each other: source_id names the content alone")
    if source_id is not None:
        _check_word(source_id, "source_id")
    if etag is not None:
        _check_word(etag, "etag")
    if isinstance(source, SourceRef) and (source_id is not None or etag is not None):
        raise ValueError("a SourceRef has its identity already: no source_id, no etag")


def _check_word(word: str | bytes, name: str) -> None:
    """Refuse what no identity can hold, before it is found there under another name."""
    try:
        size = len(word if isinstance(word, bytes) else word.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be text without lone surrogates") from None
    if not 0 < size <= LONGEST_NAME:
        raise ValueError(f"{name} must have 1 to {LONGEST_NAME:,} bytes, not {size:,}")
    if isinstance(word, str) and "\0" in word:
        raise ValueError(f"{name} holds a NUL character")


def capture(
    source: Source,
    identity: Identity = "stat",
    *,
    source_id: str | bytes | None = None,
    etag: str | None = None,
    memo: DigestMemo | None = None,
    may_read: bool = True,
    beat: Beat = no_beat,
    system: System = SYSTEM,
) -> SourceRef:
    """Capture what a source is, now. Blocks for a stat, and for reading where the identity needs
    it.

    Args:
        source: a path, a URI, or a `SourceRef`, which is returned as it is.
        identity: how a readable file is identified.
        source_id: identify by this instead; the file is not looked at.
        etag: identify by URI and this instead; likewise.
        memo: where digests of whole files are remembered; None reads every time.
        may_read: with False, raise WouldReadError instead of reading more than a young file's
        sample.
        beat: called after every block that was read.
        system: what stands for the machine.

    Raises:
        TypeError: a source, source_id or etag of another type.
        ValueError: an empty path, NUL, an unknown identity, a directory, FIFO or device, or a
            ``file://`` source that names two files.
        FileNotFoundError: a relative path while the working directory is gone.
        SourceUnavailableError: the system cannot say what the file is.
    """
    check_arguments(identity, source_id, etag, source)
    if isinstance(source, SourceRef):
        return source
    return capture_place(
        place_of(source),
        identity,
        source_id=source_id,
        etag=etag,
        memo=memo,
        may_read=may_read,
        beat=beat,
        system=system,
    )


def capture_place(
    place: Place,
    identity: Identity,
    *,
    source_id: str | bytes | None,
    etag: str | None,
    memo: DigestMemo | None,
    may_read: bool,
    beat: Beat,
    system: System,
) -> SourceRef:
    """`capture` after the source was anchored to the working directory of the call."""
    now = system.now_ns()
    if source_id is not None or etag is not None:
        uri, path = _named(place, system)
        kind = "etag" if source_id is None else "source_id"
        return SourceRef(uri, kind, etag=etag, source_id=source_id, path=path, captured_ns=now)
    if place.uri is not None:
        return SourceRef(place.uri, "opaque", captured_ns=now)
    attempts = _ATTEMPTS
    while True:
        attempts -= 1
        try:
            ref, steady = _look(place, identity, memo, may_read, beat, system)
        except SourceUnavailableError:
            raise
        except OSError as error:
            if attempts and isinstance(error, FileNotFoundError):
                continue
            raise unavailable(error) from error
        # A file that never holds still gets its last identity: `changed` will tell the difference.
        if steady or not attempts:
            return ref


def _look(
    place: Place,
    identity: Identity,
    memo: DigestMemo | None,
    may_read: bool,
    beat: Beat,
    system: System,
) -> tuple[SourceRef, bool]:
    """Identify what is at a path, once; also say whether it held still meanwhile."""
    # Before the stat: a file that ages while we look was young when we saw it.
    now = system.now_ns()
    path, real, found = _settled_path(system, place)
    uri = file_uri(real)
    if found is None:
        return SourceRef(uri, "absent", path=path, captured_ns=now), True
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{uri} is no regular file; pass source_id= to name what it stands for")
    young = _tick_ns(system, real, found.st_mtime_ns, now)
    digest = young_digest = None
    if identity != "stat":
        still_young = _tick_ns(system, real, found.st_ctime_ns, now) > 0
        keeper = None if still_young else memo
        digest = _digest(identity, system, real, found, keeper, may_read, beat)
    elif young:
        young_digest = sample_digest(system, real, found, beat)
    steady = True
    if identity != "stat" or young:
        real_after, after = probe(system, path)
        steady = real_after == real and _same_file(found, after)
    ref = SourceRef(
        uri,
        identity,
        found.st_size,
        found.st_mtime_ns,
        digest=digest,
        captured_ns=now,
        path=path,
        ctime_ns=found.st_ctime_ns,
        young_ns=young,
        young_digest=young_digest,
    )
    return ref, steady


def _digest(
    kind: str,
    system: System,
    real: bytes,
    found: os.stat_result,
    memo: DigestMemo | None,
    may_read: bool,
    beat: Beat,
) -> bytes:
    """Return the digest of a file's content, from the memo when that knows it."""
    memo_key = None
    if memo is not None and kind != "sampled":
        memo_key = memo.key(kind, real, found, local=not system.is_remote(real))
        known = memo.get(memo_key, refresh=may_read)
        if known is not None:
            return known
    if not may_read:
        raise WouldReadError
    started = system.monotonic()
    digest = DIGESTS[kind](system, real, found, beat)
    _tell_if_slow(kind, system.monotonic() - started, system, real)
    if memo is not None and memo_key is not None:
        _, after = system.probe(real)
        # A change since must not be remembered as this content.
        if _same_file(found, after):
            memo.put(memo_key, digest)
    return digest


_told_slow = False


def _tell_if_slow(kind: str, seconds: float, system: System, real: bytes) -> None:
    global _told_slow
    if seconds > _SLOW_SECONDS and not _told_slow and system.is_remote(real):
        _told_slow = True
        _log.info(
            "reading a source on a network file system for its %s identity took %.1f s; "
            "identity='sampled' reads 1 MiB of it, source_id= nothing",
            kind,
            seconds,
        )


def file_digest(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    """Return the XXH3-128 of a file's content, 32 hex digits: for weights or prompt files as
    parameters.

    Blocks while it reads. The digest is against chance, not against an adversary.

    Raises:
        ValueError: not a regular file.
        OSError: the file cannot be read.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"path must be the path of a file, not {type(path).__name__}")
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError("path holds a lone surrogate that stands for no byte") from None
    if len(name) > LONGEST_NAME:
        raise ValueError(f"path has at most {LONGEST_NAME:,} bytes, not {len(name):,}")
    found = os.stat(name)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{os.fsdecode(name)} is no regular file")
    return content_digest(SYSTEM, name, found, no_beat).hex()


def unreadable(source: SourcePath, *, system: System = SYSTEM) -> SourceRef:
    """What stands for a source that ``capture`` could not look at: its URI by name alone, and an
    identity that no other look shares.
    """
    place = place_of(source)
    uri = place.uri
    if uri is None:
        assert place.path is not None
        uri = file_uri(os.path.normpath(place.path))
    return SourceRef(uri, "unreadable", captured_ns=system.now_ns(), path=place.path)


async def capture_async(
    source: Source,
    identity: Identity = "stat",
    *,
    source_id: str | bytes | None = None,
    etag: str | None = None,
    memo: DigestMemo | None = None,
    timeout_seconds: float = 5.0,
    system: System = SYSTEM,
) -> SourceRef:
    """`capture` for event loops: a plain stat of a local file runs inline, whatever may wait does
    not.

    A relative path is anchored before the first await. Digests and everything on remote file
    systems
    run in daemon threads; cancelling leaves nothing behind but a thread that ends by itself.

    Args:
        source: as for `capture`, like the arguments not named here.
        identity: likewise.
        source_id: likewise.
        etag: likewise.
        memo: likewise.
        timeout_seconds: how long the file system may make no progress at all.
        system: what stands for the machine.

    Raises:
        SourceUnavailableError: also when the file system did not answer in time.
    """
    check_arguments(identity, source_id, etag, source)
    if isinstance(source, SourceRef):
        return source
    place = place_of(source)

    def work(beat: Beat, may_read: bool = True) -> SourceRef:
        return capture_place(
            place,
            identity,
            source_id=source_id,
            etag=etag,
            memo=memo,
            may_read=may_read,
            beat=beat,
            system=system,
        )

    if not (
        (place.path is not None and system.may_block(place.path))
        or (place.literal is not None and system.may_block(place.literal))
    ):
        try:
            return work(no_beat, may_read=False)
        except WouldReadError:
            pass
    return await _away(work, timeout_seconds)


async def changed_async(
    ref: SourceRef, *, timeout_seconds: float = 5.0, system: System = SYSTEM
) -> bool:
    """`SourceRef.changed` for event loops, as `capture_async` is for `capture`."""
    reads = ref.kind in DIGESTS or ref.young_ns
    if ref.path is None or not (reads or system.may_block(ref.path)):
        return ref.changed(system=system)
    return await _away(lambda beat: ref.changed(system=system, beat=beat), timeout_seconds)


async def settle_async(
    ref: SourceRef, *, timeout_seconds: float = 5.0, system: System = SYSTEM
) -> bool:
    """`SourceRef.settle` for event loops: the wait is an await, at most 2 s and rarely any."""
    if not ref.young_ns:
        return True
    await asyncio.sleep(ref.settle_seconds_on(system))
    return not await changed_async(ref, timeout_seconds=timeout_seconds, system=system)


async def _away(work: Callable[[Beat], T], timeout_seconds: float) -> T:
    try:
        return await offload(work, timeout_seconds=timeout_seconds)
    except NoAnswerError as error:
        why = f"{error}" or f"the file system of the source gave no answer for {timeout_seconds} s"
        raise SourceUnavailableError(errno.ETIMEDOUT, why) from None
