"""Tasks in the background that are each about one key: called off when that key is forgotten, and
waited for when the cache is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cogcache._fork import renew_after_fork
from cogcache._inline import is_inline

__all__ = ["Background"]


class Background:
    """Tasks under way, of any event loops of this process.

    Attributes:
        tasks: Each with its key.
        size: Bytes that they hold, as they were said to.
    """

    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The tasks of the parent's loops are not this process' own."""
        self.tasks: dict[asyncio.Task[Any], bytes] = {}
        self.size = 0

    def add(self, task: asyncio.Task[Any], key: bytes, size: int = 0) -> None:
        """Keep a task until it ends."""

        def ended(task: asyncio.Task[Any]) -> None:
            if self.tasks.pop(task, None) is not None:
                self.size -= size

        self.tasks[task] = key
        self.size += size
        task.add_done_callback(ended)

    def call_off(self, meant: Callable[[bytes], bool]) -> list[asyncio.Task[Any]]:
        """Cancel what is about keys that are ``meant``, the calling task apart; those of this
        loop.
        """
        under_way = list(self.tasks.items())  # other loops may begin and end some meanwhile
        here = None if is_inline() else asyncio.get_running_loop()
        this = None if here is None else asyncio.current_task()
        mine = []
        for task, key in under_way:
            if task is this or not meant(key):
                continue
            loop = task.get_loop()
            if loop is here:
                task.cancel()
                mine.append(task)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
        return mine

    async def withdraw(self, meant: Callable[[bytes], bool]) -> None:
        """``call_off``, and let those of this loop end."""
        mine = self.call_off(meant)
        if mine:
            await asyncio.gather(*mine, return_exceptions=True)

    async def wait(self, seconds: float) -> list[asyncio.Task[Any]]:
        """Let the tasks of this loop end, for at most so long; those that have not."""
        if is_inline():
            return []
        here = asyncio.get_running_loop()
        mine = [task for task in list(self.tasks) if task.get_loop() is here]
        if not mine:
            return []
        _, late = await asyncio.wait(mine, timeout=seconds)
        return list(late)

    async def aclose(self, seconds: float) -> None:
        """``wait``, and cancel those that are late."""
        late = await self.wait(seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.gather(*late, return_exceptions=True)
