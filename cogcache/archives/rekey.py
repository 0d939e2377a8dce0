"""Entries of sources that lie elsewhere here: their keys say where a video was and when it was
changed, so that the keys are made anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from cogcache import _core
from cogcache._identity import URI_TAG, SourceRef, SourceUnavailableError
from cogcache._keytext import LongValue
from cogcache.archives.manifest import Manifest
from cogcache.artifacts import ARTIFACTS
from cogcache.backends.base import META_FULL_PARAMS, META_SOURCE, META_SOURCE_URI, META_TAGS
from cogcache.exceptions import shown
from cogcache.keys import Key
from cogcache.origins import default_keyframes, expanded, source_of
from cogcache.sources import capture
from cogcache.uris import file_uri, place_of

__all__ = ["RefusedError", "Rekey"]

_DIGEST: Final = re.compile(r"[0-9a-f]{32}")
_INPUTS: Final = ("keyframes", "transcript", "inputs")  # of ours: digests of other keys
_DEPTH: Final = 16  # of artifacts that are made from artifacts
_REMEMBERED: Final = 4096


class RefusedError(Exception):
    """An entry is not taken; the argument is the word for why."""


class Rekey:
    """Which sources lie elsewhere; see ``CacheManager.import_archive``. Its methods block.

    Args:
        mapping: As given.

    Raises:
        TypeError: It is no mapping of text to text.
        ValueError: A place that cannot be.
    """

    def __init__(self, mapping: Mapping[str, str]) -> None:
        if not isinstance(mapping, Mapping):
            raise TypeError(f"rekey must map places to places, not {type(mapping).__name__}")
        self._moves: dict[str, tuple[str, str]] = {}  # there: as given, here
        self._used: set[str] = set()
        for there, here in mapping.items():
            if not isinstance(there, str) or not isinstance(here, str):
                raise TypeError(
                    f"rekey maps paths or URIs to paths or URIs, not {shown(there)} to "
                    f"{shown(here)}"
                )
            self._moves[_uri(there)] = there, _uri(here)
        self._refs: dict[SourceRef, SourceRef] = {}

    def uri_of(self, uri: str) -> str:
        """Where the source is here that was at ``uri`` there; the same where nothing is said."""
        above = uri
        while above and above not in self._moves:
            above = above.rpartition("/")[0]
        if not above:
            return uri
        given, here = self._moves[above]
        self._used.add(given)
        return here + uri[len(above) :]

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The places there, as given, from which nothing came."""
        return tuple(given for given, _ in self._moves.values() if given not in self._used)

    def readdressed(
        self, entry: _core.Entry, manifest: Manifest
    ) -> tuple[bytes, dict[int | str, Any]] | None:
        """Key and metadata of an entry for this place; ``None`` for one that is right as it is.

        Raises:
            RefusedError: What lies here is another source, or what the entry was made from is not
                known.
        """
        there = source_of(entry)
        if there is None or self.uri_of(there.uri) == there.uri:
            return None
        here = self._moved(there)
        old = Key.from_encoded(entry.key)
        stored = entry.meta.get(META_FULL_PARAMS)
        full: dict[str, Any] = dict(stored) if isinstance(stored, Mapping) else {}
        key = self._key(old, there, here, manifest, full)
        meta: dict[int | str, Any] = dict(entry.meta)
        meta[META_SOURCE] = list(here.identity)
        meta.pop(META_SOURCE_URI, None)
        if here.uri not in meta[META_SOURCE]:
            meta[META_SOURCE_URI] = here.uri
        if full or key.long_values:
            meta[META_FULL_PARAMS] = {**full, **key.long_values}
        tags = entry.meta.get(META_TAGS) or ()
        moved = {_tag(old.profile, there.uri): _tag(old.profile, here.uri)}
        meta[META_TAGS] = [[moved.get(name, name), version] for name, version in tags]
        return key.encoded, meta

    # --- sources ----------------------------------------------------------------------------------

    def _moved(self, there: SourceRef) -> SourceRef:
        here = self._refs.get(there)
        if here is None:
            here = self._look(there, self.uri_of(there.uri))
            if len(self._refs) >= _REMEMBERED:
                self._refs.clear()
            self._refs[there] = here
        return here

    def _look(self, there: SourceRef, uri: str) -> SourceRef:
        """The same source in its place here."""
        if not uri.startswith("file://"):
            if there.kind == "stat":
                raise RefusedError("other-source")  # what is never looked at has another identity
            return _at(there, uri)
        path = unquote_to_bytes(uri.removeprefix("file://"))
        if there.kind in ("etag", "source_id"):
            return _at(there, file_uri(os.path.realpath(path)))
        try:
            found = capture(os.fsdecode(path))
        except SourceUnavailableError:
            raise RefusedError("source-unreadable") from None
        except ValueError:  # a directory or a device
            raise RefusedError("other-source") from None
        if there.size is not None and found.size not in (None, there.size):
            raise RefusedError("other-source")
        if there.kind in ("content", "sampled", "sha256"):
            return _at(there, found.uri)
        if found.kind == "absent":  # it will be the same one if it comes with its time
            return _at(there, found.uri) if there.kind in ("stat", "absent") else found
        return found

    # --- keys -------------------------------------------------------------------------------------

    def _key(
        self,
        old: Key,
        there: SourceRef,
        here: SourceRef,
        manifest: Manifest,
        full: dict[str, Any],
        depth: int = 0,
    ) -> Key:
        """The key of the same artifact here; ``full`` loses what is not as it was."""
        if depth > _DEPTH:
            raise RefusedError("unknown-input")

        def parent(value: str, is_ours: bool) -> str:
            return self._input(value, is_ours, old, there, here, manifest, depth)

        params: dict[str, Any] = {}
        for name, held in old.params.items():
            value = held
            if isinstance(held, LongValue) and name in full and held.tag in ("l", "m"):
                value = expanded(held, full[name])
            is_ours = name in _INPUTS and old.artifact in ARTIFACTS
            moved = _replaced(value, lambda text, ours=is_ours: parent(text, ours))
            if moved == value:
                params[name] = held
            else:
                params[name] = moved
                full.pop(name, None)
        return Key(old.profile, here, old.artifact, params)

    def _input(
        self,
        digest: str,
        is_ours: bool,
        child: Key,
        there: SourceRef,
        here: SourceRef,
        manifest: Manifest,
        depth: int,
    ) -> str:
        """The digest here of the key that had ``digest`` there, which an artifact was made from."""
        known = manifest.keys.get(bytes.fromhex(digest))
        if known is not None:
            key = Key.parse(known)
            if key.source == child.source:
                return self._key(key, there, here, manifest, {}, depth + 1).digest.hex()
            if is_ours or key.artifact:
                return self._input_of_another(digest, manifest)
        default = default_keyframes(child.profile, there)
        if digest == default.digest.hex():
            return default_keyframes(child.profile, here).digest.hex()
        if is_ours and there.fingerprint != here.fingerprint:
            raise RefusedError("unknown-input")
        return digest

    def _input_of_another(self, digest: str, manifest: Manifest) -> str:
        """The same for the key of another source: it stands where that one stays where it was."""
        uri = manifest.uris.get(bytes.fromhex(digest), "")
        if self.uri_of(uri) != uri:
            raise RefusedError("unknown-input")
        return digest


def _uri(place: str) -> str:
    """The canonical URI of what is perhaps not there, a source or a directory."""
    named = place_of(place)
    uri = named.uri if named.path is None else file_uri(os.path.normpath(named.path))
    return (uri or "").rstrip("/")


def _at(ref: SourceRef, uri: str) -> SourceRef:
    return SourceRef(uri, ref.kind, ref.size, ref.mtime_ns, ref.etag, ref.digest, ref.source_id)


def _tag(profile: str, uri: str) -> str:
    return URI_TAG + _core.hash128(_core.encode_key_value([profile, uri])).hex()


def _replaced(value: Any, parent: Any) -> Any:
    """A parameter with every digest of a key in it replaced."""
    if isinstance(value, str):
        return parent(value) if _DIGEST.fullmatch(value) else value
    if isinstance(value, Mapping):
        return {name: _replaced(one, parent) for name, one in value.items()}
    if isinstance(value, tuple):
        return tuple(_replaced(one, parent) for one in value)
    return value
