"""Two tiers of one configuration that turn out to be the same directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogcache import CacheConfig, CacheManager, ConfigError, FilesystemCacheConfig


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("again", ["cache", "cache/", "other/../cache", "link"])
def test_one_directory_is_not_two_tiers(tmp_path: Path, again: str, read_only: bool) -> None:
    for name in ("cache", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("cache")
    first, second = str(tmp_path / "cache"), f"{tmp_path}/{again}"
    tiers = [FilesystemCacheConfig(first), FilesystemCacheConfig(second, read_only=read_only)]
    with pytest.raises(ConfigError) as refused:
        CacheManager(CacheConfig(tiers))
    assert str(refused.value) == (
        f"backends: {first} and {second} are the same directory; name it in one tier only"
    )


def test_a_tier_that_is_not_enabled_may_name_the_directory_of_another(tmp_path: Path) -> None:
    path = str(tmp_path / "cache")
    off = {"backend_type": "filesystem", "base_path": path, "enabled": False}
    manager = CacheManager(CacheConfig([FilesystemCacheConfig(path), off]))
    assert len(manager.backends) == 1
    manager.sync.aclose()


def test_directories_beside_and_inside_each_other_are_two_tiers(tmp_path: Path) -> None:
    tiers = [FilesystemCacheConfig(str(tmp_path / name)) for name in ("a", "b", "a/inner")]
    manager = CacheManager(CacheConfig(tiers))
    assert len(manager.backends) == 3
    manager.sync.aclose()
