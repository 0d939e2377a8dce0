"""Which entries were made from a version of a file whose place a newer one has taken.

An entry is *superseded* when another one of the same file (its canonical URI), profile, artifact
and parameters is there that surely belongs to a newer version. Nothing is guessed: what is named
here can be deleted without anybody having to compute it again. So all of these must hold:

* Both are known by path, size and time (identity ``stat``). Content, an ETag or a name of the
  caller's own has no order: the older video may come back, or lie elsewhere as well.
* The newer file has the later time and *another size*. The same size with another time may be the
  same video copied without its time, by another host that goes on using its own entry.
* The newer entry was stored after the last sign that the older one is in use: when it was stored,
  had its life begun anew, or was read, as far as the tier knows that.
* The file is not, here and now, what the older entry was made from: a backup may have come back.

Keys of artifacts that are made from other artifacts name those by digest, which differs between
generations: it is compared as what it stands for, where that is there or is the default. Where it
is not, the entry is left alone.
"""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from cogcache._identity import SourceRef
from cogcache._keytext import LongValue, print_value
from cogcache._offload import beside
from cogcache.backends.base import META_FULL_PARAMS
from cogcache.keys import Key
from cogcache.origins import default_keyframes, expanded, source_of

if TYPE_CHECKING:
    from cogcache import _core

__all__ = ["Generations"]

_DIGEST: Final = re.compile(r"[0-9a-f]{32}")
_DIGEST_BYTES: Final = 16
_DEPTH: Final = 16  # of artifacts that are made from artifacts
_FILE: Final = "file://"


@dataclass(slots=True)
class _Known:
    """An entry of a file; of several copies what makes it least likely to be superseded.

    Attributes:
        key: Its key.
        ref: The version of the file.
        stored_ms: When the newest copy was stored.
        in_use_ms: The last sign that somebody uses it.
        full: Long parameters, as the entry has them.
    """

    key: Key
    ref: SourceRef
    stored_ms: int
    in_use_ms: int
    full: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.ref.size or 0

    @property
    def mtime_ns(self) -> int:
        return self.ref.mtime_ns or 0


class Generations:
    """What entries say of the versions of files that they were made from; see the module."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}  # by the digest of the key
        self._meanings: dict[bytes, Any] = {}
        self._defaults: dict[tuple[str, bytes], Key] = {}

    def add(self, entry: _core.Entry, key: Key, *, used_ms: int = 0) -> None:
        """Take a live entry into account.

        Args:
            entry: Of any tier; its metadata is read.
            key: Its key.
            used_ms: When it was last read, in Unix milliseconds; 0 where nobody knows.
        """
        ref = source_of(entry)
        # An entry that says something else than its key is not believed.
        if ref is None or ref.kind != "stat" or ref.fingerprint != key.source:
            return
        in_use = max(entry.created_ms, entry.refreshed_ms, used_ms)
        known = self._known.get(key.digest)
        if known is None:
            full = entry.meta.get(META_FULL_PARAMS)
            self._known[key.digest] = _Known(
                key, ref, entry.created_ms, in_use, full if isinstance(full, Mapping) else {}
            )
        else:
            known.stored_ms = min(known.stored_ms, entry.created_ms)
            known.in_use_ms = max(known.in_use_ms, in_use)

    async def superseded(self) -> set[bytes]:
        """The encoded keys of the superseded ones; looks at their files, beside the event loop."""
        groups: defaultdict[Any, list[_Known]] = defaultdict(list)
        for one in self._known.values():
            groups[one.key.profile, one.ref.uri, self._meaning(one.key, one.full)].append(one)
        found = [one for some in groups.values() if len(some) > 1 for one in _outdated(some)]
        if not found:
            return set()
        return await beside(lambda beat: {one.key.encoded for one in found if not _is_here(one)})

    def _meaning(self, key: Key, full: Mapping[str, Any], depth: int = 0) -> Any:
        """Artifact and parameters, without what only says of which generation they are."""
        known = self._meanings.get(key.digest)
        if known is None:
            params = tuple(
                (name, self._value(key, _in_full(held, full.get(name)), depth))
                for name, held in sorted(key.params.items())
            )
            known = self._meanings[key.digest] = (key.artifact, params)
        return known

    def _value(self, key: Key, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            items = sorted(value.items(), key=str)
            return "map", tuple((name, self._value(key, one, depth)) for name, one in items)
        if isinstance(value, tuple):
            return "list", tuple(self._value(key, one, depth) for one in value)
        digest = _as_digest(value)
        if digest is not None and depth < _DEPTH:
            made_from = self._input(key, digest)
            if made_from is not None:
                return "made from", self._meaning(*made_from, depth + 1)
        return print_value(value)

    def _input(self, key: Key, digest: bytes) -> tuple[Key, Mapping[str, Any]] | None:
        """What a key was made from, if it is of the same version of the file and known."""
        known = self._known.get(digest)
        if known is not None:
            return (known.key, known.full) if known.key.source == key.source else None
        of_key = self._known.get(key.digest)
        if of_key is None:
            return None
        place = key.profile, key.source
        default = self._defaults.get(place)
        if default is None:
            default = self._defaults[place] = default_keyframes(key.profile, of_key.ref)
        return (default, {}) if default.digest == digest else None


def _as_digest(value: Any) -> bytes | None:
    """The digest that a parameter is, in one of the ways of writing it, if it may be one."""
    if isinstance(value, str):
        return bytes.fromhex(value) if _DIGEST.fullmatch(value) else None
    return value if isinstance(value, bytes) and len(value) == _DIGEST_BYTES else None


def _in_full(held: Any, stored: Any) -> Any:
    return expanded(held, stored) if isinstance(held, LongValue) and held.tag in "lm" else held


def _outdated(some: Iterable[_Known]) -> list[_Known]:
    """Those of one artifact of one file that a newer one of another size was stored after."""
    later: dict[int, int] = {}  # by size: when the last one of a later time was stored
    found: list[_Known] = []
    by_time: defaultdict[int, list[_Known]] = defaultdict(list)
    for one in some:
        by_time[one.mtime_ns].append(one)
    for mtime_ns in sorted(by_time, reverse=True):
        # Of the two sizes that were stored last, one is another than any given one.
        last = sorted(later, key=lambda size: -later[size])[:2]
        later = {size: later[size] for size in last}
        found += [
            one
            for one in by_time[mtime_ns]
            if any(size != one.size and later[size] > one.in_use_ms for size in last)
        ]
        for one in by_time[mtime_ns]:
            later[one.size] = max(later.get(one.size, 0), one.stored_ms)
    return found


def _is_here(one: _Known) -> bool:
    """Whether the file is what an entry was made from, or cannot be looked at."""
    path = unquote_to_bytes(one.ref.uri.removeprefix(_FILE))
    if not one.ref.uri.startswith(_FILE) or not path.startswith(b"/"):
        return True
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    if not stat.S_ISREG(found.st_mode):
        return True
    return (found.st_size, found.st_mtime_ns) == (one.size, one.mtime_ns)
