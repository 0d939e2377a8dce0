"""Every tier keeps the contract, a third party's in thirty lines too."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_cache import DictTier

from cogcache import CacheBackendRegistry, CacheManager, ConfigError
from cogcache.backends.base import CacheBackend
from cogcache.backends.filesystem import FilesystemCacheBackend, StructuredFilesystemBackend
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.config import FilesystemCacheConfig, MemoryCacheConfig, StructuredFilesystemConfig
from cogcache.testing import BackendConformance


class TestMemory(BackendConformance):
    async def make_tier(self) -> CacheBackend:
        return MemoryCacheBackend(MemoryCacheConfig())


class TestFilesystem(BackendConformance):
    @pytest.fixture(autouse=True)
    def _paths(self, tmp_path: Path) -> None:
        self.paths = (tmp_path / str(number) for number in range(100))

    async def make_tier(self) -> CacheBackend:
        return FilesystemCacheBackend(
            FilesystemCacheConfig(next(self.paths), cleanup_on_startup=False)
        )


class TestStructuredFilesystem(TestFilesystem):
    async def make_tier(self) -> CacheBackend:
        return StructuredFilesystemBackend(
            StructuredFilesystemConfig(next(self.paths), cleanup_on_startup=False)
        )


class TestThirdParty(BackendConformance):
    async def make_tier(self) -> CacheBackend:
        return DictTier()


async def test_a_registered_tier_can_be_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheBackendRegistry, "_classes", dict(CacheBackendRegistry._classes))
    CacheBackendRegistry.register("dict", DictTier)
    assert "dict" in CacheBackendRegistry.list_backends()
    manager = CacheManager({"backends": [{"backend_type": "dict", "priority": 5}]})
    assert await manager.set("key", [1])
    assert await manager.get("key") == [1]
    assert manager.backends[0].priority == 5


def test_a_tier_must_name_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nameless(DictTier):
        CONFIG_CLASS = None

    monkeypatch.setattr(CacheBackendRegistry, "_classes", dict(CacheBackendRegistry._classes))
    CacheBackendRegistry.register("nameless", Nameless)
    with pytest.raises(ConfigError, match="CONFIG_CLASS"):
        CacheManager({"backends": [{"backend_type": "nameless"}]})
    with pytest.raises(TypeError, match="subclass of CacheBackend"):
        CacheBackendRegistry.register("wrong", dict)  # type: ignore[arg-type]
