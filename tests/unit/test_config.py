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
    S3CacheConfig,
    StructuredFilesystemConfig,
)
from cogcache._types import duration_seconds


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


def test_s3_is_importable_and_says_that_it_does_not_exist_yet() -> None:
    config = S3CacheConfig(bucket="cogniverse-pipeline-cache", prefix="artifacts", priority=1)
    with pytest.raises(ConfigError, match="does not exist yet"):
        CacheManager(CacheConfig([config]))
    disabled = dataclasses.replace(config, enabled=False)
    assert len(CacheManager(CacheConfig([disabled, MemoryCacheConfig()])).backends) == 1


def test_secrets_are_not_shown() -> None:
    shown = repr(S3CacheConfig(bucket="b", access_key="AKIA-visible", secret_key="secret-visible"))
    assert "visible" not in shown


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
