"""Entries that are not to be evicted, in every tier that evicts."""

from __future__ import annotations

from cogcache.backends.base import CacheBackend
from cogcache.exceptions import PinLimitError
from cogcache.keys import Key
from cogcache.tiering import Tiers

__all__ = ["pin", "pinned", "unpin"]


async def pin(tiers: Tiers, encoded: bytes) -> bool:
    """Pin the live entry of a key; whether any tier has.

    Raises:
        PinLimitError: More would be pinned than may be.
    """
    return any([await _pin_in(tiers, tier, encoded) for tier in tiers.backends])


async def _pin_in(tiers: Tiers, tier: CacheBackend, encoded: bytes) -> bool:
    try:
        live = not isinstance(await tiers.fetch(tier, encoded, index_only=True), str)
        return live and await tier.pin(encoded)
    except PinLimitError:
        raise
    except Exception as error:
        tiers.failed(tier, "pin", error)
        return False


async def unpin(tiers: Tiers, encoded: bytes) -> bool:
    """Let the entry of a key be evicted again; whether it was pinned."""
    return any(await tiers.each("pin", lambda tier: tier.unpin(encoded), failed=False))


async def pinned(tiers: Tiers) -> list[Key]:
    """The keys of the entries that are pinned, sorted as they print."""
    found = await tiers.each("pin", lambda tier: tier.pinned(), failed=[])
    keys = {Key.from_encoded(one) for some in found for one in some}
    return sorted(keys, key=str)
