"""What is asked for: one artifact of one source, with the parameters that are in its key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from cogcache import _core
from cogcache.artifacts import ARTIFACTS, Artifact, key_params
from cogcache.keys import Key, Keyframes
from cogcache.sources import SourceRef

__all__ = ["REQUESTS_KEPT", "Request", "RequestMemo", "make_request"]

REQUESTS_KEPT: Final = 1024
_PLAIN: Final = frozenset((str, int, bool, type(None)))
_KEYFRAMES: Final = ARTIFACTS["keyframes"]
_FIELDS: Final = tuple(field.name for field in fields(Keyframes))


@dataclass(frozen=True, slots=True)
class Request:
    """One artifact of one source, as asked for: what every verb works on.

    Attributes:
        artifact: Which.
        params: What its key holds, by printed name.
        key: Of the entry.
        source: As captured.
        pinned: The caller gave a SourceRef: its identity stands, whatever is at the path now.
    """

    artifact: Artifact
    params: Mapping[str, Any]
    key: Key
    source: SourceRef
    pinned: bool

    @property
    def scope(self) -> tuple[str, bytes]:
        """What was asked for, whatever the source is by now."""
        return self.artifact.name, _core.encode_key_value(self.params)

    @property
    def is_readable(self) -> bool:
        """Whether the source could be looked at; else nothing of it is looked up or stored."""
        return self.source.kind != "unreadable"


def make_request(
    profile: str, artifact: Artifact, source: SourceRef, named: Mapping[str, Any], *, pinned: bool
) -> Request:
    """The request for an artifact by the arguments of a call; raises as ``key_params`` does."""

    def parent(arguments: Mapping[str, Any]) -> Key:
        return Key(profile, source, "keyframes", key_params(_KEYFRAMES, arguments, parent))

    params = key_params(artifact, named, parent)
    return Request(artifact, params, Key(profile, source, artifact.name, params), source, pinned)


class RequestMemo:
    """Requests for sources that were captured once, at most ``REQUESTS_KEPT``; then it begins anew.

    A pipeline asks for few artifacts of a video, and often; making a key takes longer than finding
    its entry. A source is known by its object, which the memo keeps, and a request only by
    arguments that cannot change and that are equal exactly when what they put into a key is: see
    ``_token``.
    """

    def __init__(self) -> None:
        self._requests: dict[tuple[Any, ...], Request] = {}

    def get(
        self, profile: str, artifact: Artifact, source: SourceRef, named: Mapping[str, Any]
    ) -> Request:
        """``make_request`` for a captured source."""
        values = _token(named.values())
        if values is None:
            return make_request(profile, artifact, source, named, pinned=True)
        token = (id(source), profile, artifact.name, *named, *values)
        request = self._requests.get(token)
        if request is None:
            request = make_request(profile, artifact, source, named, pinned=True)
            if len(self._requests) >= REQUESTS_KEPT:
                self._requests.clear()
            self._requests[token] = request
        return request


def _token(values: Iterable[Any]) -> list[Any] | None:
    """What stands for arguments: each with its type, as 1 == 1.0 == True; ``None`` if there is one
    that may change, or may equal another of its type without being the same (0.0 and -0.0).
    """
    token: list[Any] = []
    for value in values:
        kind = type(value)
        if kind is Keyframes:
            inside = _token([getattr(value, field) for field in _FIELDS])
            if inside is None:
                return None
            token.append((kind, *inside))
        elif kind in _PLAIN or (kind is float and value != 0):
            token += (kind, value)
        else:
            return None
    return token
