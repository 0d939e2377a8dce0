"""Canonical URIs of sources: one spelling for one source, and never a secret in it.

Pure text work; whether a file is there, and where its symlinks lead, is asked in
`cogcache.sources`.
The rules are those of ``docs/keys.md``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

__all__ = ["Place", "SourcePath", "file_uri", "opaque_uri", "place_of"]

SourcePath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

LONGEST_NAME = 65_000  # bytes of a path or URI, and of a caller's own identity of a source
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_UPPER: Final = {point: point + 32 for point in range(ord("A"), ord("Z") + 1)}

# What terminals, logs and other people's parsers should never see raw: control characters, and
# bytes that are no UTF-8, which `surrogateescape` decoding shows as U+DC80 to U+DCFF.
_UNSEEN: Final = {
    **{
        point: "".join(f"%{byte:02X}" for byte in chr(point).encode())
        for point in (*range(0x20), *range(0x7F, 0xA0))
    },
    **{0xDC00 + byte: f"%{byte:02X}" for byte in range(0x80, 0x100)},
}
_UNSEEN_AND_PERCENT: Final = {**_UNSEEN, ord("%"): "%25"}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A signed URI changes every hour although what it names does not. Each family of parameters
# leaves when its signature is there: a lone `expires` may well select content.
_FAMILIES: Final[dict[str, frozenset[str]]] = {
    "signature": _words(
        "signature expires policy key-pair-id awsaccesskeyid googleaccessid ossaccesskeyid"
    ),
    "sig": _words(
        "sig se st sp sv sr ss srt sip spr skoid sktid skt ske sks skv saoid suoid scid sdd"
    ),
}
_SIGNED_PREFIXES: Final = ("x-amz-", "x-goog-")
# These may select what is served, so they stay in the identity, but as a digest.
_CREDENTIALS: Final = _words(
    "access_token id_token token api_key apikey password passwd secret client_secret auth "
    "authorization jwt"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source is: either something that is never opened, or a path.

    Attributes:
        uri: canonical URI of a source that is never opened, else None.
        path: absolute path, symlinks not yet followed, else None.
        literal: for a ``file://`` source with percent signs, the path as it stands undecoded.
    """

    uri: str | None
    path: bytes | None = None
    literal: bytes | None = None


def file_uri(path: bytes) -> str:
    """Return the URI of an absolute path: UTF-8 as it is; ``%``, controls and other bytes as
    %XX.
    """
    text = path.decode("utf-8", "surrogateescape")
    if not (text.isascii() and text.isprintable() and "%" not in text):
        text = text.translate(_UNSEEN_AND_PERCENT)
    return "file://" + text


def _mask(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if equals and unquote(name).lower() in _CREDENTIALS:
        digest = sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return f"{name}=~{digest}"
    return parameter


def _clean_query(query: str) -> str:
    """Return the query without signatures, and with credentials as digests; the rest verbatim."""
    parameters = query.split("&")
    names = [unquote(parameter.partition("=")[0]).lower() for parameter in parameters]
    dropped: set[str] = set()
    for signature, family in _FAMILIES.items():
        if signature in names:
            dropped |= family
    kept = [
        _mask(parameter)
        for parameter, name in zip(parameters, names, strict=True)
        if name not in dropped and not name.startswith(_SIGNED_PREFIXES)
    ]
    return "&".join(kept)


def opaque_uri(scheme: str, authority: str, rest: str) -> str:
    """Return the canonical URI of a source that is never opened.

    Scheme and host in lower case, no userinfo, no signature parameters; the rest verbatim.
    """
    host = authority.rpartition("@")[2].translate(_UPPER)
    before, hash_mark, fragment = rest.partition("#")
    path, question, query = before.partition("?")
    if question and query:
        query = _clean_query(query)
        question = "?" if query else ""
    uri = f"{scheme.translate(_UPPER)}://{host}{path}{question}{query}{hash_mark}{fragment}"
    return uri.translate(_UNSEEN)


def _check_length(length: int) -> None:
    if length > LONGEST_NAME:
        raise ValueError(f"the name of a source has at most {LONGEST_NAME:,} bytes, not {length:,}")


def _absolute(path: bytes) -> bytes:
    """Anchor a path to the directory of this moment; `..` stays, for symlinks may precede it."""
    if not path:
        raise ValueError("the path of a source is empty")
    if b"\0" in path:
        raise ValueError("the path of a source holds a NUL character")
    _check_length(len(path))
    return path if path.startswith(b"/") else os.path.join(os.getcwdb(), path)


def _can_be_encoded(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def place_of(source: SourcePath) -> Place:
    """Tell what kind of place a source names.

    A `pathlib.Path` is always a path. Text and bytes are a URI when they start like one. Then
    ``file://`` with an empty host or ``localhost`` is a path, percent-decoded; all others are never
    opened.

    Raises:
        TypeError: neither text, bytes nor a path.
        ValueError: empty, longer than ``LONGEST_NAME`` bytes, or NUL in it.
        FileNotFoundError: a relative path, and the working directory is gone.
    """
    if isinstance(source, str):
        if not _can_be_encoded(source):
            raise ValueError("the name of a source holds a lone surrogate that stands for no byte")
        if "://" not in source:
            return Place(None, _absolute(os.fsencode(source)))
        text = source
    elif isinstance(source, bytes):
        text = os.fsdecode(source)
    else:
        given: object = source
        if not isinstance(given, os.PathLike):
            name = type(given).__name__
            raise TypeError(f"a source is a str, bytes, a path or a SourceRef, not {name}")
        path = os.fspath(given)
        if isinstance(path, str) and not _can_be_encoded(path):
            raise ValueError("the path of a source holds a lone surrogate that stands for no byte")
        return Place(None, _absolute(os.fsencode(path)))
    match = _SCHEME.match(text)
    if match is None:
        return Place(None, _absolute(os.fsencode(source)))
    scheme, authority, rest = match.groups()
    if scheme.lower() != "file" or authority.lower() not in ("", "localhost"):
        if "\0" in text:
            raise ValueError("the URI of a source holds a NUL character")
        _check_length(len(text))
        return Place(opaque_uri(scheme, authority, rest))
    literal = os.fsencode(rest)
    decoded = unquote_to_bytes(literal)
    return Place(None, _absolute(decoded), _absolute(literal) if literal != decoded else None)
