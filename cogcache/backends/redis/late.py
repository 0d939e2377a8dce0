"""Changes of entries that nobody waits for any more, and that the server may still make.

What was sent before a deadline, or before the connection was lost, may reach the server long after:
the network delivers it again, or a proxy held it. Behind a later change of the same entry it would
bring back an older value, or remove a newer one. So the changes of a process are numbered; the next
one after such a late one tells the server its number, in the same step, and the server makes none
up to that number any more.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from typing import Final

from cogcache._fork import renew_after_fork
from cogcache.backends.faults import MisconfiguredError, NotAskedError, RefusedError
from cogcache.backends.redis.client import RedisClient, WrongKindError
from cogcache.backends.redis.layout import Names
from cogcache.backends.redis.scripts import REMOVE, Script

__all__ = ["LateChanges"]

FENCE_MS: Final = 3_600_000  # far longer than any network keeps what it was given
MOST_LATE: Final = 16_384  # entries; of more the oldest are forgotten
_DECIDED: Final = (NotAskedError, RefusedError, MisconfiguredError, WrongKindError)
_NOTHING: Final = "-"  # no write is named so


class LateChanges:
    """Changes of single entries by this process. Usable from any thread.

    Args:
        client: Of the tier.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """What the parent has sent is the parent's."""
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._fence = b":f:" + secrets.token_hex(8).encode()
        self._late: dict[bytes, int] = {}  # by base, the highest number

    async def change(self, script: Script, base: bytes, *args: bytes | str | int) -> int:
        """Make a change, and none of this entry later that was given up before.

        Args:
            script: ``COMMIT`` or ``REMOVE``.
            base: What the names of the entry begin with.
            args: Of the script, behind ``base``.
        """
        number = next(self._numbers)
        past = self._late.get(base, 0)
        keys = [Names.manifest(base), base + self._fence]
        broken: list[Exception] = []
        decided = fenced = False
        try:
            done, fenced = await self._client.script(
                script, keys, number, past, FENCE_MS, base, *args, broken=broken
            )
            decided = True
        except _DECIDED:
            decided = True
            raise
        finally:
            if broken or not decided:
                self._note(base, number)
            elif fenced:
                self._settled(base, past)
        return int(done)

    async def settle(self) -> None:
        """Have no change made later that was given up before."""
        for base in list(self._late):
            await self.change(REMOVE, base, _NOTHING)

    def _note(self, base: bytes, number: int) -> None:
        with self._lock:
            highest = max(number, self._late.pop(base, 0))
            self._late[base] = highest
            while len(self._late) > MOST_LATE:
                del self._late[next(iter(self._late))]

    def _settled(self, base: bytes, past: int) -> None:
        with self._lock:
            if self._late.get(base, 0) <= past:
                self._late.pop(base, None)
