"""Between event loops and the thread pool of the C core.

Each loop that ever waits for the pool gets one ``Channel``: a descriptor that the loop watches,
through which finished work comes back in batches. Nothing here is made before the first such wait.
A result whose awaiter was cancelled is dropped where it arrives; work that had not begun then never
does.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from cogcache import _core
from cogcache._inline import is_inline

EXIT_SECONDS = 5.0  # how long an exiting process waits for reads and writes under way


class Submits(Protocol):
    """What has operations for the pool, such as ``_core.Store``: each is also a blocking method."""

    @property
    def submit(self) -> Callable[..., None]:
        """``submit(channel, future, operation, *args, **named)``."""
        ...


class _Channels:
    """The channels of all loops of this process, in whatever thread they run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: WeakKeyDictionary[asyncio.AbstractEventLoop, _core.Channel]
        self._known = WeakKeyDictionary()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def of(self, loop: asyncio.AbstractEventLoop) -> _core.Channel:
        channel = self._known.get(loop)
        return channel if channel is not None and not channel.closed else self._connect(loop)

    def known(self, loop: asyncio.AbstractEventLoop) -> _core.Channel | None:
        return self._known.get(loop)

    def _connect(self, loop: asyncio.AbstractEventLoop) -> _core.Channel:
        with self._lock:
            # What is still on the channel of a closed loop refers to that loop and keeps it alive.
            for gone in [known for known in self._known if known.is_closed()]:
                self._known.pop(gone).close()
            channel = _core.Channel()
            loop.add_reader(channel.fileno(), channel.drain)
            self._known[loop] = channel
        return channel

    def _forget(self) -> None:
        """In the child of a fork: the parent's loops do not run here."""
        self._lock = threading.Lock()
        self._known = WeakKeyDictionary()


_channels = _Channels()


async def run(target: Submits, operation: str, *args: Any, **named: Any) -> Any:
    """Run a blocking method of ``target`` in the pool and wait for it; inline, in this thread.

    Cancelling the wait leaves nothing half done: a write is either whole or was never made, and
    none becomes visible after that, so what is written or deleted next is not overtaken by it.

    Raises:
        OSError: There is no descriptor or no thread for it; and whatever the method raises.
    """
    if is_inline():
        return getattr(target, operation)(*args, **named)
    loop = asyncio.get_running_loop()
    channel = _channels.of(loop)
    future = loop.create_future()
    target.submit(channel, future, operation, *args, **named)
    try:
        return await future
    except BaseException:
        channel.cancel(future)  # does nothing if the exception is the method's own
        raise


INLINE_BYTES = 256 * 1024  # what may be hashed, compressed or copied on the loop's thread


async def compose(draft: _core.Draft) -> _core.Image:
    """Make the container of a draft, off the loop when there is much of it."""
    if draft.raw_bytes < INLINE_BYTES:
        return draft.compose()
    image: _core.Image = await run(draft, "compose")
    return image


async def to_bytes(image: _core.Image) -> bytes:
    """The container of an image as one piece, copied off the loop when it is large."""
    if len(image) < INLINE_BYTES:
        return image.tobytes()
    data: bytes = await run(image, "tobytes")
    return data


async def deliver() -> None:
    """Hand out what the pool has finished for this loop, until nothing is left."""
    channel = _channels.known(asyncio.get_running_loop())
    if channel is None:
        return
    while True:
        if channel.closed or not channel.drain():
            return
        await asyncio.sleep(0)


def start(target: Submits, operation: str, *args: Any, **named: Any) -> None:
    """Run a method of ``target`` in the pool; nobody waits for it, whatever comes of it."""
    target.submit(None, None, operation, *args, **named)


@atexit.register
def _drain_at_exit() -> None:
    with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C ends the wait at once
        _core.drain_pool(EXIT_SECONDS)
