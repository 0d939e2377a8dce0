"""What real stores say to requests that are wrong, and what comes of it beside a directory."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from support.servers.s3 import S3Place
from support_s3 import config_at, tier_at

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig
from cogcache.backends.s3.tier import S3Backend
from cogcache.keys import key_bytes


async def refused(tier: S3Backend, caplog: pytest.LogCaptureFixture) -> str:
    """What is said, once, by a tier that nothing helps but another configuration."""
    for number in range(5):
        assert await tier.fetch(key_bytes(f"k{number}")) == "unavailable"
        assert not await tier.set(f"k{number}", 1)
    assert tier._client.small.breaker.state == "configuration"
    assert tier._client.small.breaker.retry_seconds > 40
    assert not tier._gone._kept  # a refusal is no absence
    said = [record.getMessage() for record in caplog.records if record.name == "cogcache"]
    assert len(said) == 1, said
    return said[0]


@pytest.mark.s3("weed", "swift")
async def test_a_clock_that_is_an_hour_off(
    s3_place: S3Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import botocore.auth

    now = botocore.auth.get_current_datetime

    def late(*args: Any) -> datetime.datetime:
        then: datetime.datetime = now(*args)
        return then - datetime.timedelta(hours=1)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", late)
    assert "clock" in await refused(tier_at(s3_place), caplog)


@pytest.mark.s3("weed", "swift")
async def test_credentials_that_nobody_knows(
    s3_place: S3Place, caplog: pytest.LogCaptureFixture
) -> None:
    said = await refused(tier_at(s3_place, access_key="unknown", secret_key="hidden"), caplog)
    assert "access_key" in said or "secret_key" in said
    assert "hidden" not in said


async def test_a_bucket_that_is_not_there(
    s3_place: S3Place, caplog: pytest.LogCaptureFixture
) -> None:
    tier = tier_at(s3_place, bucket="there-is-no-such-bucket")
    assert "create the bucket" in await refused(tier, caplog)


@pytest.mark.s3("weed", "swift")
async def test_beside_a_directory_a_wrong_configuration_is_seen_in_statistics_only(
    s3_place: S3Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = config_at(s3_place, secret_key="wrong")
    async with CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path), wrong])) as manager:
        for number in range(20):
            assert await manager.set(f"k{number}", number)
            assert await manager.get(f"k{number}") == number
            assert await manager.get(f"absent{number}") is None
        backends = (await manager.get_stats())["backends"]
        assert backends["S3Backend"]["state"] == "degraded"
        assert "secret_key" in backends["S3Backend"]["last_fault"]["error"]
        assert backends["FilesystemCacheBackend"]["state"] == "works"
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
