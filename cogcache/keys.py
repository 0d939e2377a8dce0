"""Keys: which artifact, of which source, made with which parameters.

Two keys are equal when their canonical encodings are, and those are written by the C core alone
(``docs/keys.md``). A key prints as ``[profile:]video:<32 hex>:<artifact>:name=value:...`` and
parses back to
itself; any other text is a raw key. So a manager takes ``key`` and ``str(key)`` for the same entry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, cast

from cogcache import _core
from cogcache._keytext import (
    LongValue,
    decode_value,
    escape,
    parse_value,
    print_value,
    refuse,
    unescape,
)

if TYPE_CHECKING:
    from cogcache.sources import SourceRef

__all__ = [
    "Difference",
    "Key",
    "KeyParts",
    "Keyframes",
    "LongValue",
    "key_bytes",
    "refuse",
]

KIND: Final = "video"
_PRINTED: Final = f"{KIND}:"
"""What keys of pipelines are about; the word that a printed key starts with, after its profile."""

_SOURCE = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Difference:
    """One part in which two keys differ; ``mine`` and ``theirs`` are None where the part is
    absent.
    """

    part: str
    mine: str | None
    theirs: str | None

    def __str__(self) -> str:
        def shown(value: str | None) -> str:
            return "absent" if value is None else value

        return f"{self.part}: {shown(self.mine)} here, {shown(self.theirs)} there"


@dataclass(frozen=True, slots=True)
class KeyParts:
    """What a key says, taken apart for people.

    Attributes:
        kind: ``"video"``, or ``"raw"`` for a key that is just a text.
        version: version of the encoding.
        profile: ``""`` when there is none.
        source: fingerprint of the source, 32 hex digits; ``""`` for a raw key.
        source_kind: how the source was identified, when the key still knows (``"stat"``,
        ``"content"`` ...).
        uri: canonical URI of the source, when the key still knows; an entry's metadata always does.
        artifact: its name; ``""`` for a raw key.
        params: every parameter by name, printed.
        text: the text of a raw key, else None.
        digest: XXH3-128 of the encoding, 32 hex digits: the name of the entry.
        size: bytes of the encoding.
    """

    kind: str
    version: int
    profile: str
    source: str
    source_kind: str | None
    uri: str | None
    artifact: str
    params: Mapping[str, str]
    text: str | None
    digest: str
    size: int

    def __str__(self) -> str:
        lines = [("kind", self.kind)]
        if self.text is not None:
            lines.append(("text", self.text))
        else:
            lines += [("profile", self.profile or "(none)"), ("source", self.source)]
            lines += [("  identity", self.source_kind)] if self.source_kind else []
            lines += [("  uri", self.uri)] if self.uri else []
            lines.append(("artifact", self.artifact))
            lines += [(f"  {name}", value) for name, value in self.params.items()]
        lines.append(("entry", f"{self.digest} (key version {self.version}, {self.size} bytes)"))
        width = max(len(label) for label, _ in lines)
        return "\n".join(f"{label:<{width}}  {text}" for label, text in lines)


class Key(_core.KeyBase):
    """The name of one artifact of one source, made with certain parameters. Frozen, hashable,
    picklable.

    Attributes:
        profile: the namespace, ``""`` for none.
        source: the fingerprint of the source, 16 bytes (empty for a raw key).
        artifact: such as ``"transcript"`` (``""`` for a raw key).
        text: the text of a raw key, None for all others.
        encoded: the canonical encoding; what stores compare and name entries by.
        origin: the `SourceRef` that the key was made from, if it was; never part of the comparison.

    Args:
        profile: any text; None is the same as ``""``.
        source: a `SourceRef`, or the fingerprint of one.
        artifact: any text but the empty one.
        params: parameters by name. None, bool, numbers, text, bytes, and lists and maps of these.
        Values over 64
            bytes enter the key as a digest; `long_values` has them in full.

    Raises:
        KeyTypeError: a parameter of a type that keys cannot hold.
        ValueError: NUL characters, empty names, nesting over 32, or more than keys hold.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __new__(
            cls,
            profile: str | None,
            source: bytes | SourceRef,
            artifact: str,
            params: Mapping[str, Any] | None = None,
        ) -> Self: ...

    @classmethod
    def parse(cls, text: str) -> Key:
        """Return the key that prints as ``text``: a printed key, or else the raw key of this text.

        Raises:
            ValueError: an empty text, NUL, lone surrogates, or a raw key over 65,000 UTF-8 bytes.
        """
        if not isinstance(text, str):
            raise TypeError(f"a key is parsed from a str, not from {type(text).__name__}")
        printed = _parse_printed(text)
        if printed is not None:
            return printed
        return cls._of("", b"", "", str(text), _core.raw_key(text), None, {})

    @classmethod
    def from_encoded(cls, encoded: bytes) -> Key:
        """Return the key with this canonical encoding, such as an entry holds.

        Raises:
            ValueError: it is not the encoding of a key of this version.
        """
        fields = decode_value(encoded)
        match fields:
            case (_core.KEY_VERSION, "raw", str(text)):
                key = cls._of("", b"", "", text, _core.raw_key(text), None, {})
            case (
                _core.KEY_VERSION,
                str(profile),
                bytes(source),
                str(artifact),
                dict(params),
            ) if len(source) == 16:
                try:
                    key = cls(profile, source, artifact, params)
                except TypeError as error:  # a folded value where none can be
                    raise ValueError("not a canonical encoding of a key") from error
            case _:
                raise ValueError("not the encoding of a key of this version")
        if key.encoded != encoded:
            raise ValueError("not a canonical encoding of a key")
        return key

    @property
    def params(self) -> dict[str, Any]:
        """The parameters as the key holds them: lists as tuples, values over 64 bytes as
        `LongValue`. A fresh dict.
        """
        return cast("dict[str, Any]", decode_value(self.encoded)[4]) if self.text is None else {}

    @property
    def digest(self) -> bytes:
        """XXH3-128 of the encoding, 16 bytes: the name of the entry."""
        return _core.hash128(self.encoded)

    @property
    def long_values(self) -> dict[str, Any]:
        """The values over 64 bytes in full, as the metadata of an entry keeps them; {} after
        parsing.

        By name, those of the sub-map in a map ``params``. Text is itself; bytes, lists and maps are
        their encoded items, which hold every type of value exactly.
        """
        values: dict[str, Any] = {}
        for steps, encoding in self._folded.items():
            at = values
            for step in steps[:-1]:
                at = at.setdefault(cast("str", step), {})
            is_text = encoding[:1] == b"s"
            at[cast("str", steps[-1])] = decode_value(encoding) if is_text else encoding
        return values

    def matches_long_values(self, stored: Mapping[str, Any]) -> bool:
        """Whether `long_values`, as an entry holds them, are those of this key where both know."""
        for steps, encoding in self._folded.items():
            at: Any = stored
            for step in steps:
                if not isinstance(at, Mapping) or step not in at:
                    break
                at = at[step]
            else:
                if (_core.encode_key_value(at) if isinstance(at, str) else at) != encoding:
                    return False
        return True

    def explain(self) -> KeyParts:
        """Return what the key says, taken apart. Asks nothing but the key itself."""
        origin = self.origin
        return KeyParts(
            kind=KIND if self.text is None else "raw",
            version=_core.KEY_VERSION,
            profile=self.profile,
            source=self.source.hex(),
            source_kind=origin.kind if origin is not None else None,
            uri=origin.uri if origin is not None else None,
            artifact=self.artifact,
            params={name: print_value(value) for name, value in self.params.items()},
            text=self.text,
            digest=self.digest.hex(),
            size=len(self.encoded),
        )

    def diff(self, other: Key) -> list[Difference]:
        """Return in which parts the two keys differ; empty when they are equal."""
        if self == other:
            return []
        if self.text is not None or other.text is not None:
            return [Difference("key", str(self), str(other))]
        found = []
        if self.profile != other.profile:
            found.append(Difference("profile", repr(self.profile), repr(other.profile)))
        if self.source != other.source:
            found += _source_differences(self, other)
        if self.artifact != other.artifact:
            found.append(Difference("artifact", self.artifact, other.artifact))
        return found + _param_differences("", self.params, other.params)

    def __str__(self) -> str:
        if self.text is not None:
            return self.text
        head = [escape(self.profile)] if self.profile else []
        head += [KIND, self.source.hex(), escape(self.artifact)]
        tail = [f"{escape(name)}={print_value(value)}" for name, value in self.params.items()]
        return ":".join(head + tail)

    def __repr__(self) -> str:
        return f"Key({str(self)!r})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Key is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Key is frozen: {name} cannot be deleted")

    def __copy__(self) -> Key:
        return self

    def __deepcopy__(self, memo: object) -> Key:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.encoded, self.origin, self._folded)


def _restore(
    encoded: bytes, origin: SourceRef | None, folded: dict[tuple[str | int, ...], bytes]
) -> Key:
    """Rebuild a pickled key: its encoding is checked again, the rest travels along."""
    key = Key.from_encoded(encoded)
    fields = (key.profile, key.source, key.artifact, key.text, key.encoded)
    return Key._of(*fields, origin, folded)


def _source_differences(mine: Key, theirs: Key) -> list[Difference]:
    """Say what differs in the identities when both keys still know them, else that they differ."""
    if mine.origin is None or theirs.origin is None:
        return [Difference("source", mine.source.hex(), theirs.source.hex())]
    left, right = _facts_that_count(mine.origin), _facts_that_count(theirs.origin)
    if left["kind"] != right["kind"]:  # then nothing else can be compared
        return [Difference("source.kind", left["kind"], right["kind"])]
    return [
        Difference(f"source.{name}", left.get(name), right.get(name))
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name)
    ]


def _facts_that_count(source: SourceRef) -> dict[str, str]:
    """What is known of a source, without what its identity is not made of: a source that is the
    same by its content may have another time.
    """
    identity = source.identity
    bare = source.from_identity(identity, uri=source.uri if source.uri in identity else "")
    return (source if bare is None else bare).facts()


def _param_differences(
    prefix: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]
) -> list[Difference]:
    found = []
    for name in sorted({*mine, *theirs}):
        left = print_value(mine[name]) if name in mine else None
        right = print_value(theirs[name]) if name in theirs else None
        if left == right:
            continue
        if (
            not prefix
            and name == "params"
            and (left is None or right is None or left[0] == right[0])
        ):
            found += _param_differences("params.", mine.get(name, {}), theirs.get(name, {}))
        else:
            found.append(Difference(prefix + name, left, right))
    return found


# --- parsing -------------------------------------------------------------------------------------


def _parse_printed(text: str) -> Key | None:
    """Return the key that prints as exactly ``text``, or None when no key does."""
    parts = text.split(":")
    if len(parts) >= 3 and parts[0] == KIND and _SOURCE.fullmatch(parts[1]):
        profile = ""
    elif len(parts) >= 4 and parts[1] == KIND and parts[0] and _SOURCE.fullmatch(parts[2]):
        profile = parts.pop(0)
    else:
        return None
    try:
        params = {}
        for part in parts[3:]:
            name, _, value = part.partition("=")
            params[unescape(name)] = parse_value(value)
        source = bytes.fromhex(parts[1])
        key = Key(unescape(profile), source, unescape(parts[2]), params)
    except (ValueError, TypeError):
        return None
    # One text, one key: forms that read alike but print differently are raw keys of their own.
    return key if str(key) == text else None


@lru_cache(maxsize=1024)
def _parsed_bytes(text: str) -> bytes:
    return Key.parse(text).encoded


def key_bytes(key: str | Key) -> bytes:
    """Return the canonical encoding of what a caller gave as a key.

    Raises:
        TypeError: neither a str nor a Key.
        ValueError: an empty text, NUL, lone surrogates, over 65,000 UTF-8 bytes.
    """
    if type(key) is Key:
        return key.encoded
    if isinstance(key, str):
        # Whatever prints a key has this in it; the usual own keys of callers do not.
        return _parsed_bytes(key) if _PRINTED in key else _core.raw_key(key)
    if isinstance(key, Key):
        return key.encoded
    raise TypeError(f"a key is a str or a Key, not {type(key).__name__}")


@dataclass(frozen=True, slots=True)
class Keyframes:
    """Which keyframes: the arguments that `get_keyframes` takes, for artifacts that are made from
    keyframes.

    None means the default of the strategy: threshold 0.999 for ``"similarity"``, fps 1.0 for
    ``"fps"``.
    Other strategies take their settings in ``params``.
    """

    strategy: str = "similarity"
    threshold: float | None = None
    fps: float | Fraction | None = None
    max_frames: int = 3000
    image_codec: str = "jpeg:95"
    revision: str | None = None
    params: Mapping[str, Any] | None = field(default=None, hash=False)

    def arguments(self) -> dict[str, Any]:
        """The same as arguments of ``get_keyframes``."""
        return {one.name: getattr(self, one.name) for one in fields(self)}
