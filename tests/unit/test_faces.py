"""What results look like: as text and as HTML, without reading anything."""

from __future__ import annotations

import dataclasses
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support_cache import BrokenTier, manager_over

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    PipelineArtifactCache,
)
from cogcache.faces import (
    Face,
    Picture,
    Shown,
    Table,
    moment_text,
    seconds_text,
    share_text,
    size_text,
)
from cogcache.keys import key_bytes

EVIL = '<script>alert("1")</script>&\x1b[31m\n\udc80'


class Page(HTMLParser):
    """Checks that every element is closed in its turn, and collects what is seen."""

    VOID = ("img",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.texts: dict[str, list[str]] = {}
        self.sources: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "onclick")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


def seen(result: Any) -> Page:
    """The HTML of a result, which needs nothing from outside."""
    text = result._repr_html_()
    text.encode("utf-8")
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "url(" not in text and "@import" not in text
    assert page.texts["pre"] == [str(result.face().text())]
    bundle = result._repr_mimebundle_()
    assert bundle == {"text/plain": result.face().text(), "text/html": text}
    assert set(result._repr_mimebundle_(include=["text/html"])) == {"text/html"}
    assert set(result._repr_mimebundle_(exclude=["text/html"])) == {"text/plain"}
    return page


def test_everything_is_escaped() -> None:
    class Evil(Shown):
        def face(self) -> Face:
            table = Table(EVIL, (EVIL, "n>"), ((EVIL, "1"), (Picture(b"x", "image/png", EVIL), "")))
            return Face(EVIL, True, ((EVIL, EVIL),), (table,), (EVIL,))

    page = seen(Evil())
    shown = '<script>alert("1")</script>&\\x1b[31m\\x0a\\xdc80'
    assert page.texts["h4"] == [shown] and shown in page.texts["td"] and shown in page.texts["p"]
    text = str(Evil())
    assert "\x1b" not in text and text.count(shown) == 8
    text.encode("utf-8")


def test_light_and_dark_are_both_there_and_come_from_the_notebook_first() -> None:
    text = Face("x").html()
    assert "prefers-color-scheme:dark" in text
    assert "var(--jp-content-font-color1,var(--cc-fg))" in text
    assert "[data-jp-theme-light=false] .cogcache" in text


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (size_text(0), "0 B"),
        (size_text(999), "999 B"),
        (size_text(999_499), "999 kB"),
        (size_text(999_500), "1 MB"),
        (size_text(96_420_864), "96.4 MB"),
        (size_text(5e15), "5000 TB"),
        (seconds_text(0), "0 s"),
        (seconds_text(12.54), "12.5 s"),
        (seconds_text(3600), "1 h"),
        (seconds_text(7509), "2 h 5 min"),
        (seconds_text(90_000_000), "1041 d 16 h"),
        (moment_text(None), "never"),
        (moment_text(1e15), "beyond the calendar"),
        (moment_text(1_795_310_645), "2026-11-22 01:24"),
        (share_text(1, 3), "33.3 %"),
        (share_text(303, 1), "> 999 %"),
        (share_text(0, 0), "-"),
    ],
)
def test_numbers_are_for_people(made: str, text: str) -> None:
    assert made == text


@pytest.fixture
async def cache(tmp_path: Path) -> Any:
    tiers = [MemoryCacheConfig(), FilesystemCacheConfig(tmp_path / "cache", max_size_mb=200)]
    async with PipelineArtifactCache(CacheManager(CacheConfig(tiers))) as cache:
        yield cache


async def fill(cache: PipelineArtifactCache, path: Path) -> Path:
    numpy = pytest.importorskip("numpy")
    video = path / "video.mp4"
    video.write_bytes(os.urandom(1000))
    frames = {n: numpy.full((360, 640, 3), (0, 0, 50 * n), numpy.uint8) for n in range(3)}
    metadata = [{"frame_id": n} for n in frames]
    await cache.set_keyframes(video, metadata, frames, cost_seconds=900)
    await cache.set_transcript(video, {"text": "words"}, cost_seconds=12.5, tags=["nightly"])
    return video


async def test_saved_seconds_are_the_costs_of_all_hits(
    cache: PipelineArtifactCache, tmp_path: Path
) -> None:
    """X10"""
    video = await fill(cache, tmp_path)
    for _ in range(3):
        assert await cache.get_transcript(video) is not None
    assert await cache.get_keyframes(video) is not None
    assert await cache.get_transcript(video, model_size="large") is None
    stats = await cache.get_cache_stats()
    counts = stats["artifacts"]["transcript"]
    assert (counts["hits"], counts["misses"], counts["seconds_saved"]) == (3, 1, 37.5)
    assert isinstance(stats, dict) and json.loads(json.dumps(stats)) == stats
    assert repr(stats).startswith("{'overall': {")
    page = seen(stats)
    assert page.texts["h4"] == ["4 hits of 5 look-ups (80.0 %)"]
    assert page.texts["span"][:2] == ["time saved", "15 min 38 s"]
    assert "transcript" in page.texts["td"] and "embeddings" not in page.texts["td"]
    inner = await cache.cache.get_stats()
    assert {"MemoryCacheBackend", "FilesystemCacheBackend"} <= set(seen(inner).texts["td"])
    usage = await cache.cache.usage()
    assert {"keyframes", "transcript", "nightly"} <= set(seen(usage).texts["td"])


async def test_a_list_has_small_pictures_that_were_read_when_it_was_made(
    cache: PipelineArtifactCache, tmp_path: Path
) -> None:
    pytest.importorskip("PIL")
    await fill(cache, tmp_path)
    listing = await cache.cache.ls()
    await cache.aclose()
    assert [one.key.artifact for one in listing.entries] == ["keyframes", "transcript"]
    [picture] = listing.pictures.values()
    assert picture.data.startswith(b"\xff\xd8\xff") and len(picture.data) <= 10_000
    page = seen(listing)
    assert len(page.sources) == 1 and listing.entries[0].frames == 3
    assert "frame 0" in str(listing) and "video:" in str(listing)
    with pytest.raises(dataclasses.FrozenInstanceError):
        listing.count = 3  # type: ignore[misc]


async def test_a_list_is_as_long_as_it_was_asked_to_be(cache: PipelineArtifactCache) -> None:
    for number in range(7):
        await cache.cache.set(f"key:{number}", b"x" * number)
    listing = await cache.cache.ls(limit=3, pictures=0, pattern="key:*")
    assert (len(listing.entries), listing.count, listing.pictures) == (3, 7, {})
    assert str(listing).endswith("and 4 more")
    assert len((await cache.cache.ls(limit=None)).entries) == 7
    with pytest.raises(ValueError, match="limit"):
        await cache.cache.ls(limit=-1)
    with pytest.raises(TypeError, match="did you mean 'profile'"):
        await cache.cache.ls(profil="x")  # type: ignore[call-arg]


async def test_plans_explanations_and_reports_have_faces(
    cache: PipelineArtifactCache, tmp_path: Path
) -> None:
    video = await fill(cache, tmp_path)
    plan = seen(await cache.cache.select())
    assert "nightly" in plan.texts["td"]
    explanation = await cache.explain("transcript", video, model_size="large")
    page = seen(explanation)
    assert str(explanation) == page.texts["h4"][0]
    assert "model: 'large' here, 'base' there" in page.texts["td"]
    assert "has it" in seen(await cache.explain("transcript", video)).texts["td"]
    report = await cache.cache.verify()
    assert seen(report).texts["h4"] == ["4 entries are as they were written"]
    assert "as they were written" in str(report)
    broken = await manager_over(BrokenTier()).verify()
    assert "cc-bad" in broken._repr_html_() and "no route" in str(broken)


async def test_six_causes_of_a_miss_are_named(tmp_path: Path) -> None:
    """M03"""
    files = FilesystemCacheConfig(tmp_path / "cache", max_size_mb=200)
    manager = CacheManager(CacheConfig([files]))
    tier = manager.backends[0]
    async with PipelineArtifactCache(manager) as cache:
        video = tmp_path / "video.mp4"
        video.write_bytes(b"one" * 1000)
        causes: dict[str, str] = {}

        async def why(name: str) -> None:
            explanation = await cache.explain("transcript", video)
            assert not explanation.hit and not await cache.get_transcript(video)
            assert explanation.reason in str(explanation)
            causes[name] = explanation.reason

        await cache.set_transcript(video, {"text": "a"}, model_size="large")
        await why("other parameters")
        await cache.set_transcript(video, {"text": "a"}, ttl=10, tags=["t"])
        tier.set_clock_offset(20_000)
        await why("too old")
        tier.set_clock_offset(0)
        await cache.cache.invalidate_tags("t")
        await why("invalidated")
        await cache.set_transcript(video, {"text": "a"})
        [entry] = [
            one
            for one in (await cache.cache.select(artifact="transcript")).entries
            if one.key.params["model"] == "base"
        ]
        from cogcache import _core

        digest = _core.hash128(key_bytes(entry.key)).hex()
        path = tmp_path / "cache" / "v1" / "objects" / digest[:2] / digest[2:]
        path.write_bytes(path.read_bytes()[:-20])
        await why("damaged")
        await cache.set_transcript(video, {"text": "a"})
        video.write_bytes(b"another" * 1000)
        await why("changed")
        video.unlink()
        await why("gone")
        assert causes == {
            "other parameters": "absent",
            "too old": "expired",
            "invalidated": "tag-invalidated",
            "damaged": "damaged",
            "changed": "source-changed",
            "gone": "source-missing",
        }
