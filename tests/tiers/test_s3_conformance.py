"""The S3 tier keeps the contract of every tier, on every S3 server."""

from __future__ import annotations

import asyncio
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.servers.s3 import S3Place, S3Server
from support_s3 import config_at, tier_at

from cogcache import CacheConfig, CacheManager, ConfigError, FilesystemCacheConfig
from cogcache.backends.base import CacheBackend
from cogcache.backends.s3.tier import S3Backend
from cogcache.keys import key_bytes
from cogcache.puts import Context
from cogcache.testing import BackendConformance


class TestS3(BackendConformance):
    @pytest.fixture(autouse=True)
    def _place(self, s3_server: S3Server, s3_place: S3Place) -> None:
        self.misses_while_replaced = s3_server.misses_while_replaced
        numbers = iter(range(100))
        self.make: Callable[[], S3Backend] = lambda: tier_at(s3_place, f"/t{next(numbers)}")

    async def make_tier(self) -> CacheBackend:
        return self.make()


def test_importing_cogcache_does_not_import_boto3() -> None:
    code = (
        "import sys, cogcache\n"
        "cogcache.S3CacheConfig('bucket')\n"
        "sys.exit('botocore' in sys.modules or 'boto3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_without_boto3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match=r"pip install 'cogcache-video\[s3\]'"):
        CacheManager(CacheConfig([{"backend_type": "s3", "bucket": "b"}]))


async def test_a_manager_takes_s3_beside_other_tiers(s3_place: S3Place, tmp_path: Path) -> None:
    def manager(number: int) -> CacheManager:
        local = FilesystemCacheConfig(tmp_path / str(number))
        return CacheManager(CacheConfig([local, config_at(s3_place)]))

    async with manager(1) as first, manager(2) as second:
        await first.set("key", {"frames": [b"x" * 100_000]}, ttl=60)
        found = await second.lookup("key")
        assert found.hit and found.tier == "S3Backend"
        assert found.value == {"frames": [b"x" * 100_000]}
        assert await first.delete("key")
        assert not await first.exists("key")


@pytest.mark.s3("weed", "swift")
async def test_over_https_nothing_is_sent_in_chunks(
    tls_place: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tls_place.secure is not None
    monkeypatch.setenv("AWS_CA_BUNDLE", tls_place.secure)
    tier = tier_at(tls_place)
    for size in (10, 2_000_000, 17 << 20):
        value = random.Random(size).randbytes(size)
        assert await tier.set("key", value)
        assert await tier.get("key") == value
    assert await tier.clear() == 1


@pytest.mark.s3("weed")
async def test_an_untrusted_certificate_is_a_wrong_configuration(
    tls_place: S3Place, caplog: pytest.LogCaptureFixture
) -> None:
    tier = tier_at(tls_place)
    assert await tier.fetch(key_bytes("key")) == "unavailable"
    assert tier._client.small.breaker.state == "configuration"
    assert "AWS_CA_BUNDLE" in caplog.text


def _tagged(manager: CacheManager, tag: str) -> Context:
    return Context(tags=((tag, manager.capture_stamp([tag])),))


@pytest.mark.s3("weed")
async def test_an_invalidated_tag_stays_so_after_a_restart(
    s3_place: S3Place, tmp_path: Path
) -> None:
    def manager() -> CacheManager:
        return CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path), config_at(s3_place)]))

    async with manager() as first:
        assert (await first.store("key", "old", context=_tagged(first, "album"))).stored
        assert await first.set("other", "kept")
        await first.invalidate_tags("album")
    async with manager() as second:
        assert await second.get("key") is None
        assert (await second.lookup("key")).reason == "tag-invalidated"
        assert await second.get("other") == "kept"


@pytest.mark.s3("swift")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_NEW_RETRIES_2026", "true"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported"),
        ("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_supported"),
        ("AWS_MAX_ATTEMPTS", "20"),
        ("AWS_RETRY_MODE", "adaptive"),
    ],
)
async def test_settings_of_the_environment_do_not_change_ours(
    tls_place: S3Place, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    assert tls_place.secure is not None
    monkeypatch.setenv("AWS_CA_BUNDLE", tls_place.secure)
    monkeypatch.setenv(name, value)
    tier = tier_at(tls_place)
    assert await tier.set("key", b"x" * 100_000)
    assert await tier.get("key") == b"x" * 100_000
    config = tier._client._client("small").meta.config
    assert config.retries["total_max_attempts"] == 2 and config.retries["mode"] == "standard"


@pytest.mark.s3("weed")
async def test_endpoint_and_credentials_come_from_the_environment_or_a_profile(
    s3_place: S3Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain: dict[str, object] = {"endpoint_url": None, "access_key": None, "secret_key": None}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_place.endpoint_url)
    with monkeypatch.context() as keys:
        keys.setenv("AWS_ACCESS_KEY_ID", s3_place.access_key)
        keys.setenv("AWS_SECRET_ACCESS_KEY", s3_place.secret_key)
        tier = tier_at(s3_place, **plain)
        assert await tier.set("key", 1)
        assert tier._client.endpoint == s3_place.endpoint_url
    files = tmp_path / "credentials"
    files.write_text(
        f"[team]\naws_access_key_id={s3_place.access_key}\n"
        f"aws_secret_access_key={s3_place.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(files))
    assert await tier_at(s3_place, profile="team", **plain).get("key") == 1
    nobody = tier_at(s3_place, profile="nobody", **plain)
    assert await nobody.fetch(key_bytes("key")) == "unavailable"
    assert nobody._client.small.breaker.state == "configuration"


@pytest.mark.s3("weed")
def test_a_tier_is_pickled_by_its_configuration_and_works_in_several_loops(
    s3_place: S3Place,
) -> None:
    tier = tier_at(s3_place)
    assert asyncio.run(tier.set("key", "value"))
    assert asyncio.run(tier.get("key")) == "value"
    copy = pickle.loads(pickle.dumps(tier))
    assert asyncio.run(copy.get("key")) == "value"
    asyncio.run(tier.aclose())
    assert asyncio.run(tier.get("key")) == "value"


@pytest.mark.s3("weed")
@pytest.mark.parametrize("signed", [True, False])
async def test_payloads_may_go_unsigned(s3_place: S3Place, signed: bool) -> None:
    tier = tier_at(s3_place, sign_payloads=signed)
    for size in (10, 2_000_000, 17 << 20):
        value = random.Random(size).randbytes(size)
        assert await tier.set("key", value)
        assert await tier.get("key") == value
    config = tier._client._client("bulk").meta.config
    assert config.s3["payload_signing_enabled"] is signed
