"""`SourceRef`: the identity of a source at one moment, and whether it still holds."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from cogcache import _core
from cogcache._reading import DIGESTS, Beat, Digest, no_beat, sample_digest
from cogcache._system import SYSTEM, System
from cogcache.uris import file_uri

__all__ = [
    "KINDS_WITH_URI",
    "URI_TAG",
    "SourceRef",
    "SourceUnavailableError",
    "probe",
    "unavailable",
]


# Kinds that name a place; others stand for content wherever it lies.
KINDS_WITH_URI: Final = ("stat", "absent", "etag", "opaque")
URI_TAG: Final = "uri:"
"""What the tag begins with that every artifact carries, for `invalidate_video`."""


class SourceUnavailableError(OSError):
    """The system cannot say what the source is (EACCES, EIO, ESTALE, a server that does not
    answer).

    Not the same as a file that is missing. Keeps errno; pipelines turn it into a miss with a
    reason.
    """


def unavailable(error: OSError) -> SourceUnavailableError:
    """Return what to raise for a source; its name stays out: texts go to logs, names may be
    secret.
    """
    return SourceUnavailableError(error.errno, f"the source cannot be read: {error.strerror}")


def probe(system: System, path: bytes) -> tuple[bytes, os.stat_result | None]:
    """`System.probe`, with what the system cannot say as SourceUnavailableError."""
    try:
        return system.probe(path)
    except OSError as error:
        raise unavailable(error) from error


@dataclass(frozen=True, slots=True)
class SourceRef:
    """The identity of a source at one moment. Frozen, picklable; hand it to workers.

    Attributes:
        uri: canonical URI, with symlinks followed and without secrets.
        kind: ``"stat"``, ``"content"``, ``"sampled"``, ``"sha256"``, ``"etag"``, ``"source_id"``,
            ``"absent"``, ``"opaque"`` or ``"unreadable"`` (nothing is looked up or stored).
        size: bytes, None when the file was not looked at.
        mtime_ns: modification time, nanoseconds since the epoch, None likewise.
        etag: the caller's ``etag=``, else None.
        digest: of the content, for the kinds that have one: 16 bytes, 32 for ``sha256``.
        source_id: the caller's ``source_id=``, else None.
        captured_ns: when this was captured, nanoseconds since the epoch.
        fingerprint: the 16 bytes by which keys know this source.
    """

    uri: str
    kind: str
    size: int | None = None
    mtime_ns: int | None = None
    etag: str | None = None
    digest: bytes | None = None
    source_id: str | bytes | None = field(default=None, repr=False)
    captured_ns: int = field(default=0, compare=False, repr=False)
    path: bytes | None = field(default=None, compare=False, repr=False)
    ctime_ns: int | None = field(default=None, compare=False, repr=False)
    young_ns: int = field(default=0, compare=False, repr=False)
    young_digest: bytes | None = field(default=None, compare=False, repr=False)
    fingerprint: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        encoding = _core.encode_key_value(self.identity)
        if self.kind == "sha256":
            fingerprint = hashlib.sha256(encoding).digest()[:16]
        else:
            fingerprint = _core.hash128(encoding)
        object.__setattr__(self, "fingerprint", fingerprint)

    @property
    def identity(self) -> list[Any]:
        """What the fingerprint is made of; an entry keeps it in its metadata."""
        match self.kind:
            case "stat":
                return [self.kind, self.uri, self.size, self.mtime_ns]
            case "content":
                return [self.kind, self.digest, self.size]
            case "sampled":
                return [self.kind, self.size, self.digest]
            case "sha256":
                return [self.kind, self.digest]
            case "etag":
                return [self.kind, self.uri, self.etag]
            case "source_id":
                return [self.kind, self.source_id]
            case "absent" | "opaque":
                return [self.kind, self.uri]
            case "unreadable":  # with the time: it may be another file at the next look
                return [self.kind, self.uri, self.captured_ns]
        raise ValueError(f"unknown kind of identity {self.kind!r}")

    @classmethod
    def from_identity(cls, identity: Sequence[Any] | None, *, uri: str) -> SourceRef | None:
        """Return what an entry's metadata tells about its source, or None when it tells too little.

        Good for comparing and explaining; it does not know the path, so it never reports a change.
        """
        match identity:
            case ["stat", _, int(size), int(mtime_ns)]:
                return cls(uri, "stat", size, mtime_ns)
            case ["content", bytes(digest), int(size)] | ["sampled", int(size), bytes(digest)]:
                return cls(uri, identity[0], size, digest=digest)
            case ["sha256", bytes(digest)]:
                return cls(uri, "sha256", digest=digest)
            case ["etag", _, str(etag)]:
                return cls(uri, "etag", etag=etag)
            case ["source_id", str() | bytes() as source_id]:
                return cls(uri, "source_id", source_id=source_id)
            case ["absent" | "opaque" as kind, _]:
                return cls(uri, kind)
        return None

    @property
    def stem(self) -> str:
        """The file's name without its ending, for people; not unique."""
        path = self.uri.partition("://")[2].partition("?")[0].partition("#")[0]
        if self.uri.startswith("file://"):
            path = os.fsdecode(unquote_to_bytes(self.uri.removeprefix("file://")))
        return os.path.splitext(os.path.basename(path))[0]

    @property
    def may_block(self) -> bool:
        """Whether asking the file system about this source might wait for a server."""
        return self.path is not None and SYSTEM.may_block(self.path)

    @property
    def uri_hash(self) -> int:
        """XXH3-64 of the URI: how the filesystem tier finds entries of a source; never 0."""
        return _core.hash64(self.uri.encode()) or 1

    @property
    def settle_seconds(self) -> float:
        """How long until a change of the file is sure to show in its times; 0.0 when it is by
        now.
        """
        return self.settle_seconds_on(SYSTEM)

    def settle_seconds_on(self, system: System) -> float:
        """Return `settle_seconds` by the clock of ``system``."""
        if not self.young_ns:
            return 0.0
        # A time in the future (another clock, utime) must not be waited for.
        start = min(self.mtime_ns or 0, self.captured_ns)
        left = start + self.young_ns - system.now_ns()
        return min(max(left, 0), self.young_ns) / 1e9

    def changed(self, *, system: System = SYSTEM, beat: Beat = no_beat) -> bool:
        """Whether the source is by now another than the captured one; what is never opened never
        is.

        Stats the file; reads it only where its times cannot tell.

        Raises:
            SourceUnavailableError: the system cannot say.
        """
        if self.path is None or self.kind in ("etag", "source_id", "opaque", "unreadable"):
            return False
        real, found = probe(system, self.path)
        if found is None or self.kind == "absent":
            return (found is None) != (self.kind == "absent")
        if not stat.S_ISREG(found.st_mode) or found.st_size != self.size:
            return True
        same_time = found.st_mtime_ns == self.mtime_ns
        if self.kind == "stat":
            if not same_time or file_uri(real) != self.uri:
                return True
            reader: Digest = sample_digest
            known = self.young_digest
        else:
            same_time = same_time and found.st_ctime_ns == self.ctime_ns
            reader, known = DIGESTS[self.kind], self.digest
        if same_time and not self.young_ns:
            return False
        try:
            return reader(system, real, found, beat) != known
        except FileNotFoundError:
            return True
        except OSError as error:
            raise unavailable(error) from error

    def settle(
        self, *, system: System = SYSTEM, sleep: Callable[[float], None] = time.sleep
    ) -> bool:
        """Wait until the file's times can be trusted, then say whether a result may be filed here.

        Returns at once for all but very young files.

        Returns:
            False when the source changed since it was captured.
        """
        if not self.young_ns:
            return True
        sleep(self.settle_seconds_on(system))
        return not self.changed(system=system)

    def facts(self) -> dict[str, str]:
        """Return what is known, for people."""
        facts = {"kind": self.kind, "uri": self.uri}
        if self.size is not None:
            facts["size"] = f"{self.size:,} bytes"
        if self.mtime_ns is not None:
            moment = datetime.fromtimestamp(self.mtime_ns // 10**9, UTC)
            facts["mtime"] = f"{moment:%Y-%m-%d %H:%M:%S}.{self.mtime_ns % 10**9:09d} UTC"
        if self.etag is not None:
            facts["etag"] = self.etag
        if self.digest is not None:
            facts["digest"] = self.digest.hex()
        if self.source_id is not None:
            facts["source_id"] = repr(self.source_id)
        return facts
