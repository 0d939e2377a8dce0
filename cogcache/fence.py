"""The fence against filing old results under a new file.

A pipeline misses, computes for minutes, and sets with a plain path. If the file was replaced in
between, its new identity is captured at the set, and the result of the old file would become the
artifact of the new one. So a set by path is compared with what the path was when this process last
missed it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cogcache._fork import renew_after_fork

if TYPE_CHECKING:
    from cogcache._identity import SourceRef

__all__ = ["MissFence"]

_SCOPES_MAX: Final = 64


@dataclass(slots=True)
class _Missed:
    last: SourceRef
    scopes: OrderedDict[Hashable, SourceRef] = field(default_factory=OrderedDict)
    forgiven: set[Hashable] = field(default_factory=set)


class MissFence:
    """What sources were when this process last missed them. Safe from many threads.

    Args:
        max_uris: least recently missed URIs beyond this are forgotten.
    """

    def __init__(self, max_uris: int = 4096) -> None:
        if max_uris < 1:
            raise ValueError(f"max_uris is at least 1, not {max_uris}")
        self.max_uris = max_uris
        self._missed: OrderedDict[str, _Missed] = OrderedDict()
        self._lock = threading.Lock()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Another thread of the parent may have been inside."""
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        # What was missed is of this process alone.
        return MissFence, (self.max_uris,)

    def note_miss(self, ref: SourceRef, scope: Hashable = None) -> None:
        """Remember that something of ``ref`` was missed; ``scope`` says what, such as artifact and
        parameters.
        """
        with self._lock:
            missed = self._missed.get(ref.uri)
            if missed is None:
                missed = self._missed[ref.uri] = _Missed(ref)
            missed.last = ref
            missed.scopes[scope] = ref
            missed.scopes.move_to_end(scope)
            missed.forgiven.discard(scope)
            self._missed.move_to_end(ref.uri)
            if len(missed.scopes) > _SCOPES_MAX:
                missed.scopes.popitem(last=False)
            if len(self._missed) > self.max_uris:
                self._missed.popitem(last=False)

    def check(self, ref: SourceRef, scope: Hashable = None) -> SourceRef | None:
        """Say under which identity a set by path may be filed, given what the path is now.

        Returns:
            The `SourceRef` to use: that of the miss, which remembers more, or ``ref`` itself when
            nothing was missed. None when the source is another than the missed one: the answer is
            ``source-changed``, and the next set of this scope passes.
        """
        with self._lock:
            missed = self._missed.get(ref.uri)
            if missed is None or scope in missed.forgiven:
                return ref
            expected = missed.scopes.get(scope, missed.last)
            if expected.fingerprint == ref.fingerprint:
                return expected
            # Forgotten for this scope alone: what else was computed from the old file is not yet
            # set.
            if len(missed.forgiven) >= _SCOPES_MAX:
                missed.forgiven.clear()
            missed.forgiven.add(scope)
            return None
