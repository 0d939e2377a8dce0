"""The S3 tier keeps the contract of every tier, on every S3 server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.servers.s3 import S3Place

from cogcache import CacheConfig, CacheManager, ConfigError, FilesystemCacheConfig
from cogcache.backends.base import CacheBackend
from cogcache.backends.s3.tier import S3Backend
from cogcache.config import S3CacheConfig
from cogcache.testing import BackendConformance


def tier_at(place: S3Place, prefix: str = "", **options: Any) -> S3Backend:
    """A tier in a place of a server."""
    return S3Backend(
        S3CacheConfig(
            bucket=place.bucket,
            prefix=f"{place.prefix}{prefix}",
            endpoint_url=place.endpoint_url,
            access_key=place.access_key,
            secret_key=place.secret_key,
            region=place.region,
            **options,
        )
    )


class TestS3(BackendConformance):
    @pytest.fixture(autouse=True)
    def _place(self, s3_place: S3Place) -> None:
        numbers = iter(range(100))
        self.make: Callable[[], S3Backend] = lambda: tier_at(s3_place, f"/t{next(numbers)}")

    async def make_tier(self) -> CacheBackend:
        return self.make()


def test_importing_cogcache_does_not_import_boto3() -> None:
    code = (
        "import sys, cogcache\n"
        "cogcache.CacheManager(cogcache.CacheConfig([cogcache.S3CacheConfig('bucket')]))\n"
        "sys.exit('botocore' in sys.modules or 'boto3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_without_boto3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'cogcache-video\[s3\]'"):
        CacheManager(CacheConfig([{"backend_type": "s3", "bucket": "b"}]))


async def test_a_manager_takes_s3_beside_other_tiers(s3_place: S3Place, tmp_path: Path) -> None:
    def manager(number: int) -> CacheManager:
        s3 = tier_at(s3_place).config
        return CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path / str(number)), s3]))

    async with manager(1) as first, manager(2) as second:
        await first.set("key", {"frames": [b"x" * 100_000]}, ttl=60)
        found = await second.lookup("key")
        assert found.hit and found.tier == "S3Backend"
        assert found.value == {"frames": [b"x" * 100_000]}
        assert await first.delete("key")
        assert not await first.exists("key")
