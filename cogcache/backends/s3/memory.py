"""What a process remembers of objects for a while: bounded, and usable from any thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from cogcache._fork import renew_after_fork

__all__ = ["Remembered"]

V = TypeVar("V")

FORGOTTEN: Final = 4096  # names of which is known when they were forgotten


class Remembered(Generic[V]):
    """Values by name, each until a moment; the least recently used go first.

    What was asked for before a name was forgotten, and answered after, may be what was: whoever
    asks takes ``moment`` before, and ``keep`` then keeps nothing older.

    Args:
        limit: How many, or how much with ``weigh``.
        clock: Monotonic seconds.
        weigh: What a value counts for; 1 without.

    Attributes:
        moment: Grows whenever a name is forgotten.
    """

    def __init__(
        self,
        limit: int,
        clock: Callable[[], float],
        weigh: Callable[[V], int] = lambda value: 1,
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._weigh = weigh
        self._kept: OrderedDict[str, tuple[float, V]] = OrderedDict()
        self._weight = 0
        self.moment = 0
        self._forgotten: OrderedDict[str, int] = OrderedDict()  # the moment when
        self._before = 0  # the last moment of those that are not in there
        self._lock = threading.Lock()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Another thread of the parent may have been inside."""
        self._lock = threading.Lock()
        self._weight = sum(self._weigh(value) for _, value in self._kept.values())

    def keep(self, name: str, value: V, seconds: float, since: int | None = None) -> bool:
        """Remember a value for so long, unless it is over the limit alone, or may have been asked
        for (at the moment ``since``) before the name was forgotten; whether it is remembered.
        """
        with self._lock:
            if since is not None and self._forgotten.get(name, self._before) > since:
                return False
            self._drop(name)
            weight = self._weigh(value)
            if weight > self._limit:
                return False
            self._kept[name] = (self._clock() + seconds, value)
            self._weight += weight
            while self._weight > self._limit:
                self._drop(next(iter(self._kept)))
            return True

    def get(self, name: str) -> V | None:
        """What is remembered and has not passed."""
        with self._lock:
            found = self._kept.get(name)
            if found is None:
                return None
            if found[0] <= self._clock():
                self._drop(name)
                return None
            self._kept.move_to_end(name)
            return found[1]

    def forget(self, name: str) -> None:
        """Remember it no longer."""
        with self._lock:
            self._drop(name)
            self.moment += 1
            self._forgotten[name] = self.moment
            self._forgotten.move_to_end(name)
            if len(self._forgotten) > FORGOTTEN:
                _, self._before = self._forgotten.popitem(last=False)

    def clear(self) -> None:
        """Remember nothing."""
        with self._lock:
            self._kept.clear()
            self._forgotten.clear()
            self._weight = 0
            self.moment += 1
            self._before = self.moment

    def __len__(self) -> int:
        return len(self._kept)

    def _drop(self, name: str) -> None:
        found = self._kept.pop(name, None)
        if found is not None:
            self._weight -= self._weigh(found[1])
