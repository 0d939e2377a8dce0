"""The guard of a tier, which keeps a slow one from holding up its callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from cogcache import _core
from cogcache._inline import is_inline
from cogcache.backends.base import CacheBackend
from cogcache.backends.faults import NotAskedError
from cogcache.backends.policy import Policy
from cogcache.breaker import Breaker
from cogcache.latency import Latency

__all__ = ["Guard"]

T = TypeVar("T")


class LateError(OSError):
    """The tier did not answer within its ``timeout_seconds``."""


class Guard:
    """The calls of one tier, each with the deadline of its policy.

    A tier that keeps deadlines of its own (``keeps_deadlines``), or has none to keep, is called as
    it is. For any other, a call that takes longer than ``timeout_seconds`` is cancelled and counts
    as a failure for the breaker, so that a tier that hangs costs its time-out a few times and then
    nothing. What a local tier answers inline, ahead of this, is free.

    Args:
        tier: Whose.
        most: Stored bytes of a value, beside its ``max_value_size``.

    Attributes:
        policy: Of the tier.
        breaker: ``None`` where the tier is called as it is.
        reads: How long it took to find entries, those that were at hand apart.
    """

    def __init__(self, tier: CacheBackend, most: int | None = None) -> None:
        self.policy = Policy.of(tier)
        if most is not None:
            least = min(most, self.policy.max_value_size or most)
            self.policy = replace(self.policy, max_value_size=least)
        seconds = self.policy.timeout_seconds
        self._seconds = None if tier.keeps_deadlines else seconds
        self.breaker = None if self._seconds is None else Breaker()
        self.reads = Latency()

    async def call(self, work: Callable[[], Awaitable[T]], *, times: int = 1) -> T:
        """``await work()``; ``times`` lengthens the deadline, for a batch of so many entries.

        Raises:
            NotAskedError: The breaker is open, and nothing was called.
            LateError: It took too long and was cancelled.
        """
        if self._seconds is None or self.breaker is None or is_inline():
            return await work()
        attempt = self.breaker.enter()
        if attempt is None:
            raise NotAskedError("not asked: it failed too often just now")
        seconds = self._seconds * max(1, times)
        clock = asyncio.timeout(seconds)
        try:
            async with clock:
                answer = await work()
        except (_core.DamagedError, _core.UnsupportedError):
            attempt.succeeded()
            raise
        except TimeoutError as error:
            attempt.failed(unreachable=True)
            if not clock.expired():
                raise
            raise LateError(f"no answer within timeout_seconds = {seconds:g}") from error
        except Exception:
            attempt.failed()
            raise
        finally:
            attempt.dropped()  # nothing if it has been reported
        if answer == "unavailable":
            attempt.failed()
        else:
            attempt.succeeded()
        return answer

    def describe(self, tier: CacheBackend, now: float) -> dict[str, Any]:
        """The health of the tier, for ``get_stats``.

        Args:
            tier: Whose guard this is.
            now: Unix seconds.
        """
        state = "closed" if self.breaker is None else self.breaker.state
        fault = tier.last_fault
        described: dict[str, Any] = {
            "state": "works" if tier.down_since is None and state == "closed" else "degraded",
            "degraded_seconds": None if tier.down_since is None else max(0, now - tier.down_since),
            "last_fault": None if fault is None else fault.describe(),
            "write_mode": self.policy.write_mode,
            "required": self.policy.required,
            "reads": self.reads.describe(),
        }
        if self.breaker is not None:
            described["breaker"] = {
                "state": state,
                "opened": self.breaker.opened,
                "rejected": self.breaker.rejected,
            }
        return described
