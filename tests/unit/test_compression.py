"""What is compressed when it is stored: `enable_compression`, and how small descriptions become."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from support.framedescriptions import frame_descriptions
from support_cache import DictTier, filesystem_manager

from cogcache import (
    CacheBackendRegistry,
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    MemoryCacheConfig,
)
from cogcache.backends.base import AUTO_COMPRESS_FROM, CacheBackend
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.config import Compression
from cogcache.exceptions import ConfigError
from cogcache.keys import key_bytes

STORED, ZSTD = 0, 1
TEXT = "the same words again and again, as if nobody had ever said them "


class RemoteTier(DictTier):
    is_remote: ClassVar[bool] = True


def document(size: int) -> list[str]:
    """A document of a little more than ``size`` bytes in one part."""
    return [TEXT * 8] * (size // len(TEXT * 8) + 1)


async def codecs(tier: CacheBackend, value: Any) -> dict[str, int]:
    """The codec of every part of ``value`` after it was stored in ``tier``."""
    assert await tier.set("key", value)
    entry = await tier.read(key_bytes("key"))
    assert entry is not None
    return {f"{part.kind}/{part.name}": part.codec for part in entry.parts()}


def tiers_of(setting: Compression, *tiers: Any) -> list[CacheBackend]:
    return CacheManager(CacheConfig(list(tiers), enable_compression=setting)).backends


# --- how small ------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [530, 2150], ids=["mean", "largest"])
async def test_compressed_descriptions_take_two_sevenths_of_their_json(
    frames: int, tmp_path: Path
) -> None:
    value = frame_descriptions(frames)
    text = json.dumps(value, separators=(",", ":")).encode()
    assert 620 < len(text) / frames < 690
    assert len(text) < 3.65 * len(gzip.compress(text, 9))  # as hard as real ones are, see there
    manager = filesystem_manager(tmp_path / "c", enable_compression=True)
    stored = await manager.store("key", value)
    assert stored.stored_bytes * 3.5 <= len(text)
    assert await manager.get("key") == value
    await manager.aclose()


# --- what is compressed ---------------------------------------------------------------------------


async def test_a_local_cache_stores_documents_below_two_mebibytes_as_they_are(
    tmp_path: Path,
) -> None:
    local = (MemoryCacheConfig(), FilesystemCacheConfig(tmp_path))
    for tier in tiers_of("auto", *local):
        assert await codecs(tier, document(AUTO_COMPRESS_FROM * 9 // 10)) == {"doc/": STORED}
        assert await codecs(tier, document(AUTO_COMPRESS_FROM)) == {"doc/": ZSTD}
        text = TEXT * (AUTO_COMPRESS_FROM // len(TEXT) - 1)
        assert await codecs(tier, text) == {"blob/0": STORED, "doc/": STORED}
        assert await codecs(tier, text + TEXT * 2) == {"blob/0": ZSTD, "doc/": STORED}
        await tier.aclose()


async def test_beside_a_remote_tier_every_tier_compresses_documents(tmp_path: Path) -> None:
    remote = {"backend_type": "remote_for_test"}
    CacheBackendRegistry.register("remote_for_test", RemoteTier)
    tiers = tiers_of("auto", MemoryCacheConfig(), FilesystemCacheConfig(tmp_path), remote)
    assert len({tier.draft_kind for tier in tiers}) == 1  # one draft for all
    for tier in tiers:
        assert await codecs(tier, document(5000)) == {"doc/": ZSTD}
        await tier.aclose()


async def test_true_and_false_hold_whatever_the_size() -> None:
    for setting, codec in ((True, ZSTD), (False, STORED)):
        (tier,) = tiers_of(setting, MemoryCacheConfig())
        for size in (5000, AUTO_COMPRESS_FROM):
            assert await codecs(tier, document(size)) == {"doc/": codec}


@pytest.mark.parametrize("setting", [True, False, "auto"])
async def test_arrays_are_stored_as_they_are(setting: Compression) -> None:
    (tier,) = tiers_of(setting, MemoryCacheConfig())
    assert (await codecs(tier, np.zeros(1 << 20, np.float32)))["array/0"] == STORED


async def test_a_tier_of_its_own_is_as_remote_as_it_says() -> None:
    assert await codecs(DictTier(), document(5000)) == {"doc/": STORED}
    assert await codecs(RemoteTier(), document(5000)) == {"doc/": ZSTD}


async def test_a_copied_tier_compresses_what_the_first_one_does(tmp_path: Path) -> None:
    tier = FilesystemCacheBackend(FilesystemCacheConfig(tmp_path))
    tier.beside_remote = True
    copy = pickle.loads(pickle.dumps(tier))
    assert copy.draft_kind == tier.draft_kind
    assert copy.compress_from == 0
    for one in (tier, copy):
        await one.aclose()


# --- every entry stays readable, bad settings do not pass ----------------------------------------


async def test_entries_of_every_setting_are_read_under_every_setting(tmp_path: Path) -> None:
    settings: tuple[Compression, ...] = (True, False, "auto")
    value = {"text": document(50_000), "more": TEXT * 1000}
    for setting in settings:
        manager = filesystem_manager(tmp_path / "c", enable_compression=setting)
        assert await manager.set(f"by {setting}", value)
        await manager.aclose()
    for setting in settings:
        manager = filesystem_manager(tmp_path / "c", enable_compression=setting)
        for by in settings:
            assert await manager.get(f"by {by}") == value
        await manager.aclose()


@pytest.mark.parametrize("bad", ["yes", "zstd", "Auto", 1, 0, 3.0, [True]])
def test_a_bad_setting_is_named_with_what_is_possible(bad: Any, tmp_path: Path) -> None:
    words = "enable_compression must be True, False or 'auto', not "
    for make in (
        lambda: CacheConfig([MemoryCacheConfig()], enable_compression=bad),
        lambda: MemoryCacheConfig(enable_compression=bad),
        lambda: FilesystemCacheConfig(tmp_path, enable_compression=bad),
        lambda: CacheManager({"backends": [{"backend_type": "memory", "enable_compression": bad}]}),
    ):
        with pytest.raises(ConfigError, match=words):
            make()
    with pytest.raises(ConfigError, match=words):
        CacheConfig([MemoryCacheConfig()], enable_compression=None)  # type: ignore[arg-type]
