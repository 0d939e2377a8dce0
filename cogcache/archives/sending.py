"""A container that is too large for memory, into every tier that takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from cogcache._inline import is_inline
from cogcache._types import StoreResult
from cogcache.backends.faults import NotAskedError
from cogcache.backends.receiving import Receiver, seal

if TYPE_CHECKING:
    from cogcache import _core
    from cogcache.archives.scratch import Scratch
    from cogcache.backends.base import CacheBackend
    from cogcache.tiering import Tiers
    from cogcache.writing import Writing

__all__ = ["send"]

# How long a tier may refuse to take the next megabyte; tiers have shorter deadlines of their own.
_STALLED_SECONDS: Final = 120.0


async def send(
    tiers: Tiers,
    writing: Writing,
    entry: _core.Entry,
    scratch: Scratch,
    *,
    source: int,
    kind: int,
) -> StoreResult:
    """Put a verified container into the tiers, one after the other, those with
    ``write_mode="behind"`` too.
    """
    key = entry.key
    words: list[str | None] = []
    with tiers.promotions.changes.of([key]):
        await writing.withdraw(key.__eq__)
        for tier in tiers.backends:
            word = tiers.guard(tier).policy.routed(entry.length)
            if word is None:
                word = await _send_to(tiers, tier, entry, scratch, source=source, kind=kind)
                tier.counters["sets" if word is None else "refused"] += 1
            words.append(word)
        if None in words:
            for tier, word in zip(tiers.backends, words, strict=True):
                if word not in (None, "off"):
                    await writing.drop_older(tier, key)
    return writing.judge(words, entry.length)


async def _send_to(
    tiers: Tiers, tier: CacheBackend, entry: _core.Entry, scratch: Scratch, **where: Any
) -> str | None:
    receiver: Receiver | None = None
    try:
        begun = await tiers.guard(tier).call(lambda: tier.receive(entry.key, entry.token, **where))
        if isinstance(begun, str):
            return begun
        receiver = begun
        for piece in scratch.pieces():
            word = await _in_time(receiver.feed(piece))
            if word is not None:
                receiver = None
                return word
        word = await _in_time(seal(receiver))
        if word is None:
            word = await _in_time(receiver.finish())
        receiver = None
    except NotAskedError:
        return "unavailable"
    except Exception as error:
        tiers.failed(tier, "write", error)
        return "unavailable" if isinstance(error, TimeoutError) else "io-error"
    finally:
        if receiver is not None:
            await receiver.abort()
    return word


async def _in_time(step: Awaitable[str | None]) -> str | None:
    if is_inline():
        return await step
    async with asyncio.timeout(_STALLED_SECONDS):
        return await step
