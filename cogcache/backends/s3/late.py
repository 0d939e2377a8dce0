"""Writes that nobody waits for any more, and that may still arrive."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from cogcache._fork import renew_after_fork
from cogcache.backends.faults import UnavailableError
from cogcache.backends.lanes import Call

__all__ = ["LateWrites"]


class LateWrites:
    """The writes under way, by name. A thread that sends one does not end when its waiter is
    cancelled or its deadline passes; whoever changes the object next waits for it, since it would
    overtake the newer one.
    """

    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The threads are the parent's."""
        self._lock = threading.Lock()
        self._under_way: dict[str, dict[Call, Future[None]]] = {}

    @contextlib.contextmanager
    def of(self, name: str, call: Call) -> Iterator[None]:
        """In its thread: an object is being written meanwhile."""
        future: Future[None] = Future()
        with self._lock:
            self._under_way.setdefault(name, {})[call] = future
        try:
            yield
        finally:
            with self._lock:
                calls = self._under_way[name]
                del calls[call]
                if not calls:
                    del self._under_way[name]
            future.set_running_or_notify_cancel()
            future.set_result(None)

    async def settled(self, name: str, seconds: float) -> None:
        """Wait for the writes of an object that were given up.

        Raises:
            UnavailableError: One is still under way after so many seconds.
        """
        if name in self._under_way:
            await self.all_settled(name.__eq__, seconds)

    async def all_settled(self, meant: Callable[[str], bool], seconds: float) -> None:
        """The same for the objects whose names are ``meant``."""
        with self._lock:
            late = [
                future
                for name, calls in self._under_way.items()
                if meant(name)
                for call, future in calls.items()
                if call.abandoned
            ]
        if late:
            _, left = await asyncio.wait(
                [asyncio.wrap_future(_follow(future)) for future in late], timeout=seconds
            )
            if left:
                raise UnavailableError("an earlier write of it may still arrive")


def _follow(future: Future[None]) -> Future[None]:
    """One of our own, which may be cancelled."""
    follower: Future[None] = Future()

    def ended(_: Future[None]) -> None:
        if follower.set_running_or_notify_cancel():
            follower.set_result(None)

    future.add_done_callback(ended)
    return follower
