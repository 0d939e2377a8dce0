"""What entries say of what they were made from: the source, and artifacts of the same source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cogcache._identity import KINDS_WITH_URI, SourceRef
from cogcache._keytext import LongValue, decode_value
from cogcache.artifacts import ARTIFACTS, key_params
from cogcache.backends.base import META_SOURCE, META_SOURCE_URI
from cogcache.keys import Key

if TYPE_CHECKING:
    from cogcache import _core

__all__ = ["default_keyframes", "expanded", "source_of"]


def source_of(entry: _core.Entry) -> SourceRef | None:
    """The source that an entry says it was made from, if it says it in a way that is known."""
    identity = entry.meta.get(META_SOURCE)
    if not isinstance(identity, list | tuple) or not identity:
        return None
    uri = entry.meta.get(META_SOURCE_URI)
    if identity[0] in KINDS_WITH_URI or not isinstance(uri, str):
        uri = identity[1] if len(identity) > 1 and isinstance(identity[1], str) else ""
    try:
        return SourceRef.from_identity(list(identity), uri=uri)
    except (TypeError, ValueError, OverflowError):
        return None


def default_keyframes(profile: str, ref: SourceRef) -> Key:
    """The keyframes of a source that artifacts are made from unless they are told other ones."""

    def no_parent(arguments: Mapping[str, Any]) -> Key:
        raise AssertionError(arguments)

    return Key(profile, ref, "keyframes", key_params(ARTIFACTS["keyframes"], {}, no_parent))


def expanded(held: LongValue, stored: Any) -> Any:
    """A long list or map in full, if what is stored beside the key is that one."""
    try:
        if isinstance(stored, bytes) and LongValue.of(stored) == held:
            return decode_value(stored)
    except ValueError:
        pass
    return held
