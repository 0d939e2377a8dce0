"""Programs that look after a cache which others use: what is the others' stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, PinLimitError


def test_a_guest_leaves_the_bounds_as_they_are_and_keeps_to_them(tmp_path: Path) -> None:
    def tier(limit: Any) -> CacheManager:
        config = FilesystemCacheConfig(str(tmp_path), limit, min_free_mb=0)
        return CacheManager(CacheConfig([config], enable_compression=False))

    def bounds(manager: CacheManager) -> tuple[int, int]:
        stats = manager.sync.get_stats()["backends"]["FilesystemCacheBackend"]
        assert stats["used_bytes"] <= 30_000_000
        return stats["limit_bytes"], stats["fixed_bytes"]

    owner = tier(30)
    before = bounds(owner)
    guest = tier("keep")
    assert bounds(guest) == bounds(owner) == before == (30_000_000, before[1])
    for number in range(10):
        assert guest.sync.set(f"guest:{number}", bytes(2_000_000))
        assert owner.sync.set(f"owner:{number}", bytes(2_000_000))
    assert bounds(guest) == bounds(owner) == before
    assert not guest.sync.set("large", bytes(10_000_000))
    for number in range(7):
        assert guest.sync.set(f"pinned:{number}", bytes(2_500_000))
    with pytest.raises(PinLimitError):
        for number in range(7):  # half of the owner's limit is pinned before
            guest.sync.pin(f"pinned:{number}")
    newer = tier(40)
    assert bounds(newer)[0] == bounds(guest)[0] == 40_000_000
    for manager in (owner, guest, newer):
        manager.sync.aclose()
    alone = CacheManager(CacheConfig([FilesystemCacheConfig(str(tmp_path / "new"), "keep")]))
    assert alone.sync.set("k", 1)  # a new directory has no bounds to keep
    alone.sync.aclose()
