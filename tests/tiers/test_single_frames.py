"""One frame of a bundle of hundreds: only that one is built, and only its part is read. The remote
tiers have the same tests beside those of their requests.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support_cache import manager_over
from support_frames import (
    BUNDLE,
    COUNT,
    METADATA,
    PICTURES,
    frames_built,
    look_up_one_frame,
    open_one_frame,
)

from cogcache import CacheManager, FilesystemCacheConfig, MemoryCacheConfig, _core
from cogcache.backends.base import CacheBackend
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.frames import make_bundle


@pytest.fixture(params=["memory", "filesystem"])
async def manager(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CacheManager]:
    files = FilesystemCacheConfig(tmp_path, cleanup_on_startup=False)
    tier: CacheBackend = (
        MemoryCacheBackend(MemoryCacheConfig())
        if request.param == "memory"
        else FilesystemCacheBackend(files)
    )
    manager = manager_over(tier)
    assert await manager.set("bundle", BUNDLE)
    yield manager
    await manager.aclose()


async def test_one_frame_of_hundreds_is_built_alone(
    manager: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = frames_built(monkeypatch)
    for number, frame_id in ((0, 0), (17, "17"), (COUNT - 1, COUNT - 1)):
        await look_up_one_frame(manager, built, number, frame_id)
    built.clear()
    assert (await manager.lookup("bundle", frames=False)).value == METADATA
    assert built == {}
    _, frames = (await manager.lookup("bundle", frames=[3, "4", 5, 9999, "none"])).value
    assert dict(frames) == {str(n): PICTURES[n] for n in (3, 4, 5)}
    assert built == {"3": 1, "4": 1, "5": 1}
    _, frames = (await manager.lookup("bundle", frames=[])).value
    assert dict(frames) == {}
    assert built.total() == 3
    _, frames = (await manager.lookup("bundle")).value
    assert built.total() == 3 + COUNT == 3 + len(frames)


async def test_one_frame_is_opened_without_the_others(
    manager: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = frames_built(monkeypatch)
    for number in (0, 17, COUNT - 1):
        await open_one_frame(manager, built, number)


@pytest.mark.parametrize(
    "part", ["frame/400", "frame/", "frame", "frame/\ud800", "x\0/1", "film/1"]
)
async def test_a_part_that_is_not_there_is_said_with_some_that_are(
    manager: CacheManager, part: str
) -> None:
    some = "frame/0, frame/1, frame/2, frame/3, frame/4, frame/5, frame/6, frame/7, ..."
    with pytest.raises(ValueError, match=f"it has: {re.escape(some)}$"):
        async with manager.open("bundle", part):
            pass


IDS: list[Any] = [
    0,
    7,
    -7,
    2**31,
    2**63 - 1,
    -(2**63),
    2**63,
    2**64 - 1,
    2**64,
    10**30,
    -(10**30),
    "007",
    "x",
    "-0",
    "+7",
    "1_0",
    "\u0667",
    "ü" * 100,
    "7.0",
    "frame",
]


@pytest.mark.parametrize("as_text", [True, False])
def test_every_kind_of_id_is_found_alone(as_text: bool) -> None:
    bundle = make_bundle({"a": 1}, {one: b"of %r" % str(one).encode() for one in IDS})
    draft = _core.Draft(bundle, b"key", meta={}, refreshed_ms=1, ttl_ms=None)
    entry = _core.Entry.from_bytes(draft.compose().tobytes())
    for one in IDS:
        _, frames = entry.value(frames=[str(one) if as_text else one, ""])
        assert dict(frames) == {str(one): b"of %r" % str(one).encode()}
    _, frames = entry.value(frames=[str(one) for one in IDS])
    assert list(frames) == [str(one) for one in IDS]  # in their order
