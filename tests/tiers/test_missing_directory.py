"""``read_only="auto"`` where there is no directory and none can be made: misses, until there is."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support_pool import tier_at
from support_user import NOBODY, place_for_others

from cogcache import _core
from cogcache.backends import _missing
from cogcache.backends._missing import MissingStore
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.exceptions import ClosedError, ConfigError
from cogcache.manager import CacheManager


class Place:
    """A directory in which this user can make nothing, until he is allowed to."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self.path = parent / "cache"
        self._was_root = os.geteuid() == 0
        if self._was_root:
            os.seteuid(NOBODY)
        else:
            parent.chmod(0o555)

    def make(self) -> None:
        """What an administrator does, or a volume that is mounted at last."""
        self.give_up()
        self.path.mkdir()
        if self._was_root:
            os.chown(self.path, NOBODY, -1)
            os.seteuid(NOBODY)

    def give_up(self) -> None:
        if self._was_root:
            os.seteuid(0)
        else:
            self.parent.chmod(0o755)


@contextmanager
def forbidden_place() -> Iterator[Place]:
    with place_for_others() as parent:
        place = Place(parent)
        try:
            yield place
        finally:
            place.give_up()


@pytest.fixture
def place() -> Iterator[Place]:
    with forbidden_place() as made:
        yield made


def test_without_auto_it_is_an_error_that_names_the_remedy(place: Place) -> None:
    for read_only in (False, True):
        with pytest.raises(ConfigError, match=f'{place.path}.*read_only="auto"'):
            tier_at(place.path, read_only=read_only)


def test_a_file_in_its_place_stays_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a directory"):
        tier_at(tmp_path / "file", read_only="auto")


async def test_every_read_is_a_miss_and_every_write_says_why(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "cogcache"):
        tier = tier_at(place.path, read_only="auto", max_size_mb=100)
        assert await tier.get("key") is None
        assert tier.get_many_inline([_core.raw_key("key")] * 2, "miss", "slow") == ["miss"] * 2
        draft = tier.draft(_core.raw_key("key"), 1, ttl_ms=None)
        assert await tier.write(draft) == "read-only"
        assert await tier.write_many([draft, draft]) == ["read-only"] * 2
        assert not await tier.set("key", 1)
        assert not await tier.delete("key")
        assert not await tier.exists("key")
        assert await tier.list_keys() == []
        assert await tier.clear() == 0
        assert await tier.cleanup_expired() == 0
        assert not await tier.refresh(_core.raw_key("key"), 1000)
        await tier.invalidate_tags(["tag"])
        assert tier.tag_version("tag") == 0
    assert [r.getMessage().split(" (")[0] for r in caplog.records] == [
        f"{place.path} can be neither read nor made"
    ]
    stats = await tier.get_stats()
    assert stats["read_only"] and stats["entries"] == 0 and stats["errors"] == 0
    await tier.aclose()
    for call in (tier.get("key"), tier.set("key", 1), tier.usage()):
        with pytest.raises(ClosedError):
            await call


async def test_its_statistics_are_those_of_a_real_one(tmp_path: Path) -> None:
    with forbidden_place() as place:
        missing = tier_at(place.path, read_only="auto")
    real = tier_at(tmp_path)
    assert (await missing.get_stats()).keys() == (await real.get_stats()).keys()
    await real.aclose()
    await missing.aclose()


@pytest.mark.parametrize("first", ["get", "set", "sync"])
async def test_it_works_once_the_directory_is_there(
    place: Place, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    manager = CacheManager(
        {
            "backends": [
                {
                    "backend_type": "filesystem",
                    "base_path": str(place.path),
                    "read_only": "auto",
                    "max_size_mb": 100,
                }
            ]
        }
    )
    tier = manager.backends[0]
    assert isinstance(tier, FilesystemCacheBackend)
    assert not await manager.set("key", [1])
    place.make()
    assert not await manager.set("key", [1])  # it does not look at every call
    assert isinstance(tier._store, MissingStore)
    monkeypatch.setattr(_missing, "LOOK_AGAIN_SECONDS", 0.0)
    tier._store.put_off()
    if first == "get":
        assert await manager.get("key") is None
    elif first == "sync":
        assert manager.sync.get("key") is None
    assert await manager.set("key", [1])
    assert await manager.get("key") == [1]
    assert isinstance(tier._store, _core.Store)
    assert (await manager.get_stats())["backends"]
    await manager.aclose()
    again = tier_at(place.path)
    assert await again.get("key") == [1]
    await again.aclose()
