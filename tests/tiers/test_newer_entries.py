"""Entries that a newer version wrote: read as far as they are understood, and never lost (M02,
Z03).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support import entrydecoder as plain
from support.entrydecoder import DOC, Draft, Format
from support_cache import DictTier, filesystem_manager, manager_over

from cogcache import CacheConfig, CacheManager, MemoryCacheConfig, _core
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.keys import key_bytes

KEY = key_bytes("key")
VALUE = {"segments": [{"start": 0.5, "text": "hello"}]}


@pytest.fixture(params=["memory", "filesystem"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> CacheManager:
    if request.param == "memory":
        return CacheManager(CacheConfig([MemoryCacheConfig()]))
    return filesystem_manager(tmp_path / "cache")


def rewritten(manager: CacheManager, form: Format | None = None, **how: Any) -> bytes:
    """An entry of ``VALUE`` as the specification has it, with something that is not in it yet."""
    draft = manager.backends[0].draft(KEY, VALUE, ttl_ms=None)
    known = plain.decode(draft.compose().tobytes())
    (part,) = known.parts
    document = Draft(DOC, b"", known.read(part), form or part.format)
    if form is not None:
        document.stored = [document.data]
    extra = [(40, 10), ("note", "from a newer one")]
    meta = _core.pack({**known.metadata, **dict(extra)})
    how = {"meta": meta, "slots": known.slots, **how}
    return plain.encode(KEY, [Draft(0x42, b"new kind", b"?"), document], **how)


async def put(manager: CacheManager, image: bytes) -> None:
    assert await manager.backends[0].write(_core.Entry.from_bytes(image).to_image()) is None


async def test_a_newer_minor_version_is_read_and_its_fields_are_kept(manager: CacheManager) -> None:
    image = rewritten(manager, version=(1, 9), extensions=[(7, b"an extension")])
    await put(manager, image)
    assert await manager.get("key") == VALUE
    about = await manager.get_metadata("key")
    assert about is not None
    assert about["extra"] == {40: 10, "note": "from a newer one"}
    assert about["parts"] == 2
    assert await manager.touch("key")
    assert (await manager.get_metadata("key") or {})["extra"] == about["extra"]
    await manager.aclose()


async def test_promotion_carries_over_what_it_does_not_understand() -> None:
    upper, lower = DictTier(), DictTier()
    manager = manager_over(upper, lower)
    image = rewritten(manager, version=(1, 9), extensions=[(7, b"an extension")])
    lower.images[KEY] = image
    assert await manager.get("key") == VALUE
    await asyncio.gather(*manager._tiers.promotions.tasks)
    assert upper.images == {KEY: image}


async def test_an_unknown_codec_is_a_miss_that_says_so_and_costs_nothing(
    manager: CacheManager,
) -> None:
    await put(manager, rewritten(manager, Format(codec=9)))
    assert await manager.get("key", "default") == "default"
    found = await manager.lookup("key")
    assert (found.hit, found.reason) == (False, "unsupported-part")
    assert [key for key, _ in await manager.list_keys()] == ["key"]  # it stays for who can read it
    stats = (await manager.get_stats())["backends"][manager.backends[0].name]
    assert stats["damaged"] == 0
    assert await manager.get_or_compute("key", lambda: VALUE) == VALUE
    assert await manager.get("key") == VALUE
    await manager.aclose()


@pytest.mark.parametrize("how", [{"version": (2, 0)}, {"features": 1}])
async def test_a_newer_major_version_is_a_plain_miss(tmp_path: Path, how: dict[str, Any]) -> None:
    manager = filesystem_manager(tmp_path / "cache")
    (tier,) = manager.backends
    assert isinstance(tier, FilesystemCacheBackend)
    assert await manager.set("key", VALUE)
    (file,) = (p for p in (tmp_path / "cache" / "v1" / "objects").rglob("*") if p.is_file())
    image = rewritten(manager, **how)
    file.write_bytes(image)
    await manager.aclose()
    manager = filesystem_manager(tmp_path / "cache")
    found = await manager.lookup("key")
    assert (found.hit, found.reason) == (False, "foreign")
    assert file.read_bytes() == image  # nor is it set aside
    assert await manager.set("key", VALUE)
    assert await manager.get("key") == VALUE
    await manager.aclose()
