"""Names of objects: a pure function of the key, so that reading needs no index, and readable enough
that listing, selecting and clearing by profile, video and artifact need not read any object.

::

    <prefix>/v1/<profile>/<source>/<artifact>-<digest>      of an artifact of a video
    <prefix>/v1/-/raw/<text>-<digest>                       of a key that is just a text
    <prefix>/.sources/<uri hash>/<profile>/<source>         empty: this URI had this fingerprint
    <prefix>/.probe/<random>                                for a moment, to learn what a store can

``<source>`` is the fingerprint of the source (32 hex digits), ``<digest>`` that of the whole key:
it alone tells keys apart, the rest is for people and listings. ``-`` is the profile of keys without
one. Bytes other than ``A-Z a-z 0-9 _ . = -`` are written as ``!`` and two hex digits, and so is
what would make a segment ``-``, or begin with a dot. A segment has at most 255 bytes; a text that
does not fit is cut, which ``!~`` at its end says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cogcache import _core
from cogcache._keytext import escape as escape_printed
from cogcache._keytext import unescape as unescape_printed
from cogcache.backends.base import KeyPattern
from cogcache.keys import KIND, Key

__all__ = ["Name", "Names", "judge"]

LAYOUT: Final = "v1"
RAW: Final = "raw"
NO_PROFILE: Final = "-"
TEXT_LIMIT: Final = 222  # bytes; with "-" and a digest of 32 digits a segment has 255
_CUT: Final = "!~"
_SHORT_KEY: Final = 1024  # bytes; the paths of longer ones are not remembered
_SAFE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.=-")
_ESCAPED: Final = [chr(byte) if byte in _SAFE else f"!{byte:02X}" for byte in range(256)]
_SEGMENT: Final = re.compile(r"(?:[A-Za-z0-9_.=-]|![0-9A-F]{2})*")
_LAST: Final = re.compile(r"(.*)-([0-9a-f]{32})", re.DOTALL)
_SOURCE: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Name:
    """What the name of an object says.

    Attributes:
        profile: ``""`` for none; ``None`` where it was cut.
        source: The fingerprint, 16 bytes; ``None`` for a key that is just a text.
        text: The artifact's name, or the key's text where ``source`` is ``None``; ``None`` where it
            was cut.
        digest: XXH3-128 of the key's encoding.
    """

    profile: str | None
    source: bytes | None
    text: str | None
    digest: bytes


class Names:
    """The names under one prefix (without slashes at its ends; may be empty)."""

    def __init__(self, prefix: str) -> None:
        self.base = f"{prefix}/" if prefix else ""
        self.root = f"{self.base}{LAYOUT}/"
        self.sources = f"{self.base}.sources/"
        self.probes = f"{self.base}.probe/"

    def of_key(self, encoded: bytes) -> str:
        """The object of the key with this canonical encoding."""
        short = len(encoded) <= _SHORT_KEY
        return self.root + (_path_of_key(encoded) if short else _path_of_key.__wrapped__(encoded))

    def parse(self, name: str) -> Name | None:
        """What an object of the listing is; ``None`` for one that is not ours."""
        if not name.startswith(self.root):
            return None
        return _parse(name[len(self.root) :])

    def of_marker(self, uri_hash: int, encoded: bytes) -> str | None:
        """The marker that says that a URI had the source of this key; ``None`` for a key without
        source.
        """
        profile, source, _ = _segments(encoded)
        return None if source == RAW else f"{self.markers(uri_hash)}{profile}/{source}"

    def markers(self, uri_hash: int) -> str:
        """What the names of all markers of one URI begin with; 0 is for those of unknown URI."""
        return f"{self.sources}{uri_hash:016x}/"

    def of_marked(self, marker: str) -> str | None:
        """What the names of the objects begin with that a marker leads to; ``None`` if it is
        none of ours.
        """
        parts = marker.removeprefix(self.sources).split("/")
        if len(parts) != 3 or not _SOURCE.fullmatch(parts[2]):
            return None
        try:
            if parts[1] != NO_PROFILE:
                _text(parts[1])
        except ValueError:
            return None
        return f"{self.root}{parts[1]}/{parts[2]}/"

    def list_prefixes(self, pattern: KeyPattern) -> list[str]:
        """What the names of all objects begin with that a pattern can mean: as few and as long as
        names allow.
        """
        fixed = pattern.fixed_segments()
        if not fixed:
            return [self.root]
        found = {f"{self.root}{NO_PROFILE}/{RAW}/{_beginning(':'.join(fixed))}"}
        kinds = [("", fixed)] if fixed[0] == KIND else []
        if len(fixed) == 1 or fixed[1] == KIND:
            kinds.append((fixed[0], fixed[1:]))
        for printed, rest in kinds:
            try:
                profile = _segment(unescape_printed(printed)) if printed else NO_PROFILE
            except ValueError:
                continue  # no key prints so
            path = f"{self.root}{profile}/"
            if len(rest) > 1:
                if not _SOURCE.fullmatch(rest[1]):
                    continue
                path += f"{rest[1]}/"
            found.add(path)
        return [one for one in found if not any(one != o and one.startswith(o) for o in found)]


def judge(pattern: KeyPattern, name: Name) -> bool | None:
    """Whether a pattern means the object of this name; ``None`` where only its key can tell."""
    if pattern.everything:
        return True
    if name.source is None:
        return None if name.text is None else pattern.matches(name.text)
    if name.profile is None:
        return None
    known = [escape_printed(name.profile)] if name.profile else []
    known += [KIND, name.source.hex()]
    if name.text is not None:
        known.append(escape_printed(name.text))
    return pattern.judge_start(known)


@lru_cache(maxsize=4096)
def _path_of_key(encoded: bytes) -> str:
    profile, source, text = _segments(encoded)
    return f"{profile}/{source}/{text}-{_core.hash128(encoded).hex()}"


def _segments(encoded: bytes) -> tuple[str, str, str]:
    key = Key.from_encoded(encoded)
    if key.text is not None:
        return NO_PROFILE, RAW, _segment(key.text)
    profile = _segment(key.profile) if key.profile else NO_PROFILE
    return profile, key.source.hex(), _segment(key.artifact)


def _segment(text: str) -> str:
    """A text as a segment: escaped, and cut if it is too long."""
    escaped = _escape(text)
    if escaped == NO_PROFILE:
        return "!2D"
    if len(escaped) <= TEXT_LIMIT:
        return escaped
    return _beginning(text, TEXT_LIMIT - len(_CUT)) + _CUT


def _escape(text: str) -> str:
    escaped = "".join(_ESCAPED[byte] for byte in text.encode("utf-8", "surrogatepass"))
    return f"!2E{escaped[1:]}" if escaped.startswith(".") else escaped


def _beginning(text: str, limit: int = TEXT_LIMIT - len(_CUT)) -> str:
    """As much of the escaped text as fits, whole escapes only; every segment of a text that begins
    so begins so too.
    """
    escaped = _escape(text)[:limit]
    broken = escaped.rfind("!")
    return escaped[:broken] if broken >= 0 and broken + 3 > len(escaped) else escaped


def _text(segment: str) -> str | None:
    """The text of a segment; ``None`` if it was cut.

    Raises:
        ValueError: No text is written so.
    """
    if segment.endswith(_CUT) and _SEGMENT.fullmatch(segment.removesuffix(_CUT)):
        return None
    if not _SEGMENT.fullmatch(segment):
        raise ValueError("not a segment")
    head, *rest = segment.split("!")
    data = head.encode() + b"".join(bytes([int(r[:2], 16)]) + r[2:].encode() for r in rest)
    text = data.decode("utf-8")
    if _segment(text) != segment:
        raise ValueError("not as we write it")
    return text


def _parse(path: str) -> Name | None:
    parts: Sequence[str] = path.split("/")
    last = _LAST.fullmatch(parts[-1])
    if len(parts) != 3 or last is None:
        return None
    digest = bytes.fromhex(last[2])
    try:
        if parts[1] == RAW:
            text = _text(last[1]) if parts[0] == NO_PROFILE else ""
            if text is not None and (not text or _core.hash128(_core.raw_key(text)) != digest):
                return None
            return Name("", None, text, digest)
        if not _SOURCE.fullmatch(parts[1]):
            return None
        profile = "" if parts[0] == NO_PROFILE else _text(parts[0])
        if (profile == "" and parts[0] != NO_PROFILE) or last[1] == "":
            return None
        return Name(profile, bytes.fromhex(parts[1]), _text(last[1]), digest)
    except ValueError:
        return None
