"""Configuration: what is refused, and how it is said."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from cogcache import (
    CacheConfig,
    CacheManager,
    CogcacheWarning,
    ConfigError,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    PipelineArtifactCache,
    RedisCacheConfig,
    S3CacheConfig,
    StructuredFilesystemConfig,
)
from cogcache._types import duration_seconds
from cogcache.config import BackendConfig, PolicyOptions, known_options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bse_path": "x"}, "did you mean 'base_path'"),
        ({"eviction_policy": "lur"}, "did you mean 'lru'"),
        ({"eviction_policy": "random"}, "known: cost, fifo, lfu, lru"),
        ({"max_size_mb": -1}, "max_size_mb must be a finite number"),
        ({"max_size_mb": 3}, "max_size_mb must be at least 17"),
        ({"max_size_mb": float("nan")}, "max_size_mb"),
        ({"max_size_mb": 1e30}, "absurdly large"),
        ({"max_size_mb": "5"}, "must be a number, not str"),
        ({"max_size_mb": True}, "must be a number, not bool"),
        ({"min_free_mb": -5}, "min_free_mb"),
        ({"max_files": 0}, "max_files"),
        ({"durability": "ful"}, "did you mean 'full'"),
        ({"shared": True}, "shared must be False or 'group'"),
        ({"read_only": "yes"}, "read_only must be"),
        ({"priority": 1.5}, "priority must be a whole number"),
        ({"base_path": ""}, "base_path must be the path"),
        ({"base_path": 5}, "base_path must be the path"),
        ({"base_path": "a\0b"}, "NUL"),
        ({"base_path": "\ud800"}, "lone surrogate"),
        ({"base_path": "x" * 1_000_000}, "at most 4,000 bytes, not 1,000,000"),
        ({"enable_ttl": "no"}, "enable_ttl must be True or False"),
        ({"serialization_format": "yaml"}, "serialization_format"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FilesystemCacheConfig(**options)


def test_the_positional_form_of_upstream_is_kept() -> None:
    config = FilesystemCacheConfig("/cache", 50000, "lru", 3)
    assert (config.base_path, config.max_size_mb, config.eviction_policy, config.priority) == (
        "/cache",
        50000,
        "lru",
        3,
    )


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FilesystemCacheConfig("/cache").priority = 1  # type: ignore[misc]


def test_an_unknown_option_of_a_dict_is_dropped_and_named(tmp_path: Path) -> None:
    with pytest.warns(
        CogcacheWarning, match="'max_size_bm' is ignored; did you mean 'max_size_mb'"
    ):
        manager = CacheManager(
            CacheConfig(
                [{"backend_type": "filesystem", "base_path": str(tmp_path), "max_size_bm": 20}]
            )
        )
    assert len(manager.backends) == 1


def test_shared_names_never_break_a_tier(tmp_path: Path) -> None:
    tier = {
        "backend_type": "structured_filesystem",
        "base_path": str(tmp_path),
        "default_ttl": 604800,
        "enable_stats": True,
        "enable_ttl": True,
        "cleanup_on_startup": True,
        "metadata_format": "json",
        "enabled": True,
        "priority": 0,
    }
    before = dict(tier)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manager = CacheManager({"backends": [tier], "default_ttl": 604800})
    assert tier == before
    assert type(manager.backends[0]).__name__ == "StructuredFilesystemBackend"


def test_an_unknown_kind_of_tier_names_the_choices() -> None:
    with pytest.raises(ConfigError, match="did you mean 'filesystem'"):
        CacheManager(CacheConfig([{"backend_type": "filesytem"}]))
    with pytest.raises(ValueError, match="known: .*memory"):
        CacheManager(CacheConfig([{"backend_type": "zzz"}]))
    with pytest.raises(ConfigError, match="BackendConfig or a dict, not int"):
        CacheManager(CacheConfig([5]))  # type: ignore[list-item]


def test_a_disabled_tier_is_carried_along() -> None:
    disabled = S3CacheConfig(bucket="cogniverse-pipeline-cache", enabled=False)
    assert len(CacheManager(CacheConfig([disabled, MemoryCacheConfig()])).backends) == 1


def test_secrets_are_not_shown() -> None:
    config = S3CacheConfig(
        bucket="b",
        access_key="AKIA-visible",
        secret_key="secret-visible",
        session_token="token-visible",
    )
    assert "visible" not in repr(config)
    as_dict = {"backend_type": "s3", "bucket": "b", "secret_key": "visible", "url": "s3://visible"}
    for tiers in ([config], [as_dict], (as_dict, config)):
        assert "visible" not in repr(CacheConfig(tiers)), tiers
    for wrong in ({"secret_key": None}, {"profile": "p"}, {"secret_key": 5}):
        with pytest.raises(ConfigError) as raised:
            dataclasses.replace(config, **wrong)  # type: ignore[arg-type]
        assert "visible" not in str(raised.value)
    with pytest.raises(ConfigError, match="must not hold credentials") as raised:
        S3CacheConfig(bucket="b", endpoint_url="https://key:visible@host")
    assert "visible" not in str(raised.value)


def test_a_configuration_shows_what_differs_from_the_defaults() -> None:
    assert repr(S3CacheConfig("b", write_mode="behind")) == (
        "S3CacheConfig(write_mode='behind', bucket='b')"
    )
    assert repr(RedisCacheConfig("redis://u:p@h:1/2")) == "RedisCacheConfig(url='redis://h:1/2')"
    tiers = [MemoryCacheConfig(), {"backend_type": "s3", "bucket": "b"}]
    assert repr(CacheConfig(tiers, default_ttl=None)) == (
        "CacheConfig(backends=[MemoryCacheConfig(), {'backend_type': 's3', '...': '...'}], "
        "default_ttl=None)"
    )


def test_s3_has_the_pinned_names_and_defaults() -> None:
    config = S3CacheConfig("b")
    assert (config.backend_type, config.prefix, config.priority) == ("s3", "artifacts", 1)
    given = S3CacheConfig(
        bucket="b",
        key_prefix="pipeline/",
        endpoint="http://127.0.0.1:9000",
        access_key="k",
        secret_key="s",
        region="us-east-1",
        lifecycle_expiration_days=7,
    )
    assert (given.prefix, given.endpoint_url) == ("pipeline/", "http://127.0.0.1:9000")
    assert given.clean_prefix == "pipeline"


def test_s3_says_what_is_wrong() -> None:
    for options, words in (
        ({"bucket": ""}, "bucket must be"),
        ({"bucket": "a/b"}, "bucket must be"),
        ({"bucket": "my bucket!"}, "letters, digits"),
        ({"prefix": "a//b"}, "segments"),
        ({"prefix": "a/../b"}, "segments"),
        ({"prefix": "p" * 256}, "255"),
        ({"prefix": "a\0"}, "characters"),
        ({"prefix": None}, "prefix must be a text"),
        ({"endpoint_url": "localhost:9000"}, "http://host"),
        ({"endpoint_url": "http://host:port"}, "http://host"),
        ({"endpoint": "ftp://host"}, "http://host"),
        ({"endpoint_url": "http://host/?x=1"}, "query"),
        ({"endpoint": "http://a", "endpoint_url": "http://b"}, "the same option"),
        ({"access_key": "k"}, "belong together"),
        ({"session_token": "t"}, "needs access_key"),
        ({"region": ""}, "region must be"),
        ({"lifecycle_expiration_days": 0}, "at least 1"),
        ({"lifecycle_expiration_days": 1.5}, "whole number"),
        ({"key_prefx": "a"}, "did you mean 'key_prefix'"),
        ({"buckett": "a"}, "did you mean 'bucket'"),
    ):
        with pytest.raises(ConfigError, match=words):
            S3CacheConfig(**{"bucket": "b", **options})  # type: ignore[arg-type]


def test_s3_has_a_url_form() -> None:
    cache = PipelineArtifactCache.open(
        "s3://bucket/team/a%20b/?endpoint=http://h:1&region=eu", identity="content"
    )
    config = cache.cache.backends[0].config
    assert isinstance(config, S3CacheConfig)
    assert (config.bucket, config.clean_prefix, config.region) == ("bucket", "team/a b", "eu")
    assert (config.endpoint_url, config.priority) == ("http://h:1", 0)
    assert S3CacheConfig.from_url("s3://bucket").prefix == "artifacts"
    for url, words in (
        ("s3://", "bucket"),
        ("http://bucket", "s3://bucket"),
        ("s3://key:secret@bucket", "without credentials"),
        ("s3://bucket?secret_key=x", "unknown option"),
        ("s3://bucket?regoin=x", "did you mean 'region'"),
    ):
        with pytest.raises(ConfigError, match=words):
            S3CacheConfig.from_url(url)


def test_every_tier_takes_the_policy_names() -> None:
    policy: dict[str, Any] = {
        "write_mode": "behind",
        "required": True,
        "timeout_seconds": 2.5,
        "min_value_size": 10,
        "max_value_size": 10_000,
    }
    for kind, options in (
        (MemoryCacheConfig, {}),
        (FilesystemCacheConfig, {}),
        (StructuredFilesystemConfig, {}),
        (S3CacheConfig, {"bucket": "b"}),
    ):
        plain = kind(**options)
        assert (plain.write_mode, plain.required, plain.timeout_seconds) == ("through", False, None)
        assert (plain.min_value_size, plain.max_value_size) == (0, None)
        assert kind(**options, **policy).to_dict().items() >= policy.items()
        for wrong, words in (
            ({"write_mode": "behnd"}, "did you mean 'behind'"),
            ({"required": 1}, "True or False"),
            ({"timeout_seconds": 0}, "at least 0.001"),
            ({"timeout_seconds": "5"}, "must be a number"),
            ({"min_value_size": -1}, "at least 0"),
            ({"min_value_size": None}, "whole number"),
            ({"max_value_size": 1.5}, "whole number"),
            ({"min_value_size": 2, "max_value_size": 1}, "would keep nothing"),
        ):
            with pytest.raises(ConfigError, match=words):
                kind(**options, **wrong)


def test_a_dict_takes_the_other_names_too() -> None:
    options = {"bucket": "b", "key_prefix": "p", "endpoint": "http://h"}
    assert known_options(S3CacheConfig, options) == {
        "bucket": "b",
        "prefix": "p",
        "endpoint_url": "http://h",
    }
    with pytest.raises(ConfigError, match="the same option"):
        known_options(S3CacheConfig, {**options, "prefix": "q"})


def test_a_cache_without_tiers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no enabled tier"):
        CacheManager(CacheConfig([]))
    with pytest.raises(ConfigError, match="no enabled tier"):
        CacheManager(CacheConfig([MemoryCacheConfig(enabled=False)]))


def test_backends_must_be_a_list() -> None:
    with pytest.raises(ConfigError, match="backends must be a list"):
        CacheConfig({"backend_type": "memory"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("7d", 604800),
        ("1d12h", 129600),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("60", 60),
    ],
)
def test_durations_can_be_written(text: str, seconds: float) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "7 days or so", "d7", "-1d", "1y"])
def test_a_duration_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="ttl"):
        duration_seconds(text)


def test_a_negative_life_is_an_error() -> None:
    with pytest.raises(ValueError, match="must not be negative.*use 0"):
        CacheConfig([MemoryCacheConfig()], default_ttl=-1)
    with pytest.raises(TypeError, match="ttl must be seconds"):
        duration_seconds(None)  # type: ignore[arg-type]


def test_serialization_format_is_noted_once() -> None:
    program = (
        "import warnings; warnings.simplefilter('always')\n"
        "from cogcache import CacheConfig, MemoryCacheConfig\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    for name in ('pickle', 'json', 'msgpack'):\n"
        "        tier = MemoryCacheConfig(serialization_format=name)\n"
        "        CacheConfig([tier], serialization_format=name)\n"
        "print(len(seen), seen[0].message)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.startswith("1 serialization_format='pickle' has no effect")


def test_tiers_are_asked_in_order_of_priority(tmp_path: Path) -> None:
    tiers = [
        FilesystemCacheConfig(tmp_path / "c", priority=2),
        MemoryCacheConfig(priority=0),
        StructuredFilesystemConfig(tmp_path / "b", priority=1),
        MemoryCacheConfig(priority=1),
    ]
    names = [tier.name for tier in CacheManager(CacheConfig(tiers)).backends]
    assert names == [
        "MemoryCacheBackend",
        "StructuredFilesystemBackend",
        "MemoryCacheBackend#2",
        "FilesystemCacheBackend",
    ]


def test_compression_is_the_managers_unless_a_tier_says_otherwise() -> None:
    def flags(manager_flag: bool, *tier_flags: bool | None) -> list[bool]:
        tiers: list[Any] = [MemoryCacheConfig(enable_compression=flag) for flag in tier_flags]
        manager = CacheManager(CacheConfig(tiers, enable_compression=manager_flag))
        return [tier.enable_compression for tier in manager.backends]

    assert flags(True, None, False, True) == [True, False, True]
    assert flags(False, None, False, True) == [False, False, True]
    as_dicts = CacheManager(
        {
            "backends": [
                {"backend_type": "memory"},
                {"backend_type": "memory", "enable_compression": True},
            ],
            "enable_compression": False,
        }
    )
    assert [tier.enable_compression for tier in as_dicts.backends] == [False, True]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"eviction_policy": "LRU"}, "did you mean 'lru'"),
        ({"durability": "Full"}, "did you mean 'full'"),
        ({"read_only": 1}, "read_only must be True, False or 'auto', not 1"),
    ],
)
def test_a_slip_in_a_setting_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FilesystemCacheConfig(**options)


def test_a_life_of_an_unknown_artifact_names_the_setting() -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    with pytest.raises(ConfigError, match="ttl: unknown artifact 'transcrpt'.*'transcript'"):
        PipelineArtifactCache(manager, ttl={"transcrpt": "7d"})


def test_a_time_to_wait_is_no_life() -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    with pytest.raises(ConfigError, match=r"timeout must not be negative \(got -1\)$"):
        manager.sync.aclose(-1)


def test_a_warning_names_the_line_that_called() -> None:
    for call in (
        lambda: CacheManager({"backends": [{"backend_type": "memory", "max_size": 5}]}),
        lambda: CacheManager(CacheConfig([MemoryCacheConfig()])).sync.get("a\0b"),
    ):
        with pytest.warns(CogcacheWarning) as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]


def test_redis_never_shows_its_password() -> None:
    config = RedisCacheConfig("rediss://user:s3cret%40x@cache.internal:7000/2?", password=None)
    assert "s3cret" not in repr(config) and "user" not in repr(config)
    assert "rediss://cache.internal:7000/2" in repr(config)
    assert config.connection["password"] == "s3cret@x"
    assert config.connection["db"] == 2
    assert "other" not in repr(RedisCacheConfig("redis://h", password="other"))
    assert RedisCacheConfig("redis://u:a@h", password="b").connection["password"] == "b"
    assert RedisCacheConfig("unix:///run/redis.sock?db=3").connection == {
        "path": "/run/redis.sock",
        "db": 3,
    }
    for wrong in ("http://u:s3cret@h", "redis://u:s3cret@:bad", "redis://u:s3cret@h/x", "unix://"):
        with pytest.raises(ConfigError, match="url") as caught:
            RedisCacheConfig(wrong)
        assert "s3cret" not in str(caught.value)


def test_the_tiers_of_a_cache_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "my files"
    monkeypatch.setenv(
        "COGCACHE_TIERS", f"'{files}' redis://:s3cret@h:7/1 s3://bucket/prefix?region=eu-west-1"
    )
    cache = PipelineArtifactCache.open(identity="content")
    local, redis, s3 = (tier.config for tier in cache.cache.backends)
    assert local == FilesystemCacheConfig(str(files), priority=0)
    assert redis == RedisCacheConfig("redis://:s3cret@h:7/1", priority=1)
    assert (s3.bucket, s3.clean_prefix, s3.region) == ("bucket", "prefix", "eu-west-1")
    assert "s3cret" not in repr(cache.cache.config)
    cache.sync.aclose()
    given = PipelineArtifactCache.open(tmp_path / "given")
    assert len(given.cache.backends) == 1  # what is said in the code counts
    given.sync.aclose()
    for wrong, words in (
        ("s3://bucket?reigon=x", "did you mean 'region'"),
        ("'open", "No closing quotation"),
        ("gs://bucket", "does not exist yet"),
    ):
        monkeypatch.setenv("COGCACHE_TIERS", wrong)
        with pytest.raises(ConfigError, match="COGCACHE_TIERS: ") as caught:
            PipelineArtifactCache.open()
        assert words in str(caught.value)
    monkeypatch.setenv("COGCACHE_TIERS", " ")
    monkeypatch.setenv("COGCACHE_DIR", str(tmp_path / "dir"))
    plain = PipelineArtifactCache.open()
    assert plain.cache.backends[0].config == FilesystemCacheConfig(str(tmp_path / "dir"))
    plain.sync.aclose()


def test_redis_takes_its_address_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(ConfigError, match="REDIS_URL"):
        RedisCacheConfig()
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:1/4")
    config = RedisCacheConfig()
    assert config.connection == {"host": "elsewhere", "port": 1, "db": 4}
    assert (config.max_value_size, config.slice_size) == (4 << 20, 5 << 20)
    cache = PipelineArtifactCache.open("redis://h:7/1", identity="content")
    assert cache.cache.backends[0].config == RedisCacheConfig("redis://h:7/1", priority=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prefix": "a{b"}, "prefix"),
        ({"prefix": ""}, "prefix"),
        ({"slice_size": 100}, "slice_size"),
        ({"slice_size": None}, "slice_size"),
        ({"password": b"x"}, "password"),
        ({"ca_file": "/x.pem"}, "rediss"),
        ({"url": "redis://h?socket_timeout=1"}, "fields of their own"),
        ({"url": 7}, "url"),
        ({"chunk_sise": 1}, "chunk_size"),
    ],
)
def test_a_wrong_redis_configuration_names_its_field(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RedisCacheConfig(**{"url": "redis://h", **options})


def test_the_options_of_a_policy_are_what_every_configuration_has() -> None:
    for option in dataclasses.fields(PolicyOptions):
        assert getattr(BackendConfig, option.name) == option.default
