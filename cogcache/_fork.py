"""After a fork the child has the memory of its parent, but none of its other threads: locks that
they held stay locked, and what they were about to finish never ends.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """What has locks or waits for threads."""

    def after_fork(self) -> None:
        """Begin anew, in the child; no other thread runs."""


_known: WeakSet[Renewable] = WeakSet()


def renew_after_fork(thing: Renewable) -> None:
    """Call ``thing.after_fork()`` in every child of this process, as long as it is alive."""
    _known.add(thing)


def _renew() -> None:
    for thing in list(_known):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
