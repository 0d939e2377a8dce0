"""From site to site: artifacts of videos that lie elsewhere, and were changed at another time."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cogcache import (
    CacheConfig,
    CacheManager,
    FilesystemCacheConfig,
    Keyframes,
    MemoryCacheConfig,
    PipelineArtifactCache,
    _core,
)
from cogcache.archives.layout import entry_name
from cogcache.archives.scratch import IN_MEMORY
from cogcache.backends.base import META_SOURCE

FRAMES = [{"frame_id": number, "timestamp": float(number)} for number in range(3)]
OTHER = Keyframes(strategy="fps", fps=2.0)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A video there, and a copy here with another time."""
    for place in ("there", "here"):
        (tmp_path / place / "videos").mkdir(parents=True)
        (tmp_path / place / "videos" / "talk.mp4").write_bytes(b"video" * 100)
    os.utime(tmp_path / "here" / "videos" / "talk.mp4", (1e9, 1e9))
    return tmp_path


def cache_of(**options: Any) -> PipelineArtifactCache:
    config = CacheConfig([MemoryCacheConfig(max_size_mb=256)])
    return PipelineArtifactCache(CacheManager(config), **options)


def moves(site: Path) -> dict[str, str]:
    return {f"{site}/there/videos": f"{site}/here/videos"}


async def archive_of(cache: PipelineArtifactCache, site: Path, **filters: Any) -> Path:
    plan = await cache.cache.select(**filters)
    await cache.cache.export_archive(site / "some.tar", plan)
    return site / "some.tar"


async def test_every_artifact_is_found_at_its_new_place(site: Path) -> None:
    there, here = cache_of(profile="team"), cache_of(profile="team")
    for cache in (there, here):
        cache.register_artifact("faces", {"of": None})
    old, new = site / "there/videos/talk.mp4", site / "here/videos/talk.mp4"
    prompt = "Describe the picture in one sentence, and name every text that is to be read in it."

    async def asked(cache: PipelineArtifactCache, path: Path, put: bool) -> list[Any]:
        keys = {
            "keyframes": await cache.key("keyframes", path, strategy="fps", fps=2.0),
            "transcript": await cache.key("transcript", path),
            "more": await cache.key("descriptions", path, model_name="llava", keyframes=OTHER),
        }
        named: list[tuple[str, Any, dict[str, Any]]] = [
            ("transcript", {"text": "hello"}, {}),
            ("keyframes", (FRAMES, None), {"strategy": "fps", "fps": 2.0}),
            ("descriptions", {"by": "default"}, {"model_name": "llava", "prompt": prompt}),
            ("descriptions", {"by": "fps"}, {"model_name": "llava", "keyframes": OTHER}),
            ("embeddings", {"dim": 7}, {"model_name": "clip", "inputs": keys}),
            ("faces", {"found": 2}, {"of": keys["keyframes"]}),
        ]
        if put:
            for name, value, arguments in named:
                assert await cache.store(name, path, value, ttl="7d", tags=["x"], **arguments)
        return [(await cache.lookup(name, path, **arguments)).value for name, _, arguments in named]

    values = await asked(there, old, put=True)
    assert None not in values
    source = await archive_of(there, site)
    assert (await here.cache.import_archive(source)).entries == 6
    assert await asked(here, new, put=False) == [None] * 6
    report = await here.cache.import_archive(source, rekey=moves(site))
    assert (report.entries, report.refused) == (6, {})
    assert await asked(here, new, put=False) == values
    before = {e.token: e async for e in there.cache.backends[0].scan()}
    moved = [
        e async for e in here.cache.backends[0].scan() if f"file://{new}" in e.meta[META_SOURCE]
    ]
    assert len(moved) == 6
    for entry in moved:
        other = before[entry.token]
        assert (entry.expires_ms, entry.created_ms) == (other.expires_ms, other.created_ms)
        entry.verify()
    assert (await here.cache.select(source=new, tags=["x"])).count == 6
    assert await here.invalidate_video(new) == 6
    assert await asked(here, new, put=False) == [None] * 6


async def test_a_video_of_another_size_gets_nothing(site: Path) -> None:
    there, here = cache_of(), cache_of()
    await there.set_transcript(site / "there/videos/talk.mp4", {"text": "hello"})
    (site / "here/videos/talk.mp4").write_bytes(b"another")
    source = await archive_of(there, site)
    report = await here.cache.import_archive(source, rekey=moves(site))
    assert (report.entries, report.refused) == (0, {"other-source": 1})


async def test_a_video_that_comes_later_with_its_time_finds_its_artifacts(site: Path) -> None:
    there, here = cache_of(), cache_of()
    old, new = site / "there/videos/talk.mp4", site / "here/videos/talk.mp4"
    await there.set_transcript(old, {"text": "hello"})
    new.unlink()
    source = await archive_of(there, site)
    report = await here.cache.import_archive(source, rekey={str(old): str(new)})
    assert report.entries == 1
    assert await here.get_transcript(new) is None
    shutil.copy2(old, new)
    assert await here.get_transcript(new) == {"text": "hello"}


async def test_what_was_made_from_something_unknown_is_refused(site: Path) -> None:
    there, here = cache_of(), cache_of()
    video = site / "there/videos/talk.mp4"
    await there.set_keyframes(video, FRAMES, strategy="fps", fps=2.0)
    await there.set_descriptions(video, {"by": "fps"}, model_name="llava", keyframes=OTHER)
    source = await archive_of(there, site, artifact="descriptions")
    report = await here.cache.import_archive(source, rekey=moves(site))
    assert (report.entries, report.refused) == (0, {"unknown-input": 1})
    source = await archive_of(there, site)
    assert (await here.cache.import_archive(source, rekey=moves(site))).entries == 2


async def test_under_content_identity_the_key_stays_and_the_place_moves(site: Path) -> None:
    there, here = cache_of(identity="content"), cache_of(identity="content")
    old, new = site / "there/videos/talk.mp4", site / "here/videos/talk.mp4"
    await there.set_transcript(old, {"text": "hello"})
    source = await archive_of(there, site)
    assert (await here.cache.import_archive(source, rekey=moves(site))).entries == 1
    assert await here.get_transcript(new) == {"text": "hello"}
    plan = await here.cache.select(source=new)
    assert [one.source_uri for one in plan.entries] == [f"file://{new}"]
    assert await here.invalidate_video(new) == 1


@pytest.mark.parametrize("name", ["etag", "opaque"])
async def test_uris_move_too(name: str, site: Path) -> None:
    there, here = cache_of(), cache_of()
    options: dict[str, Any] = {"etag": '"abc"'} if name == "etag" else {}
    video = await there.video("s3://raw/2024/talk.mp4", **options)
    await video.set_transcript({"text": "hello"})
    source = await archive_of(there, site)
    report = await here.cache.import_archive(source, rekey={"s3://raw/": "s3://copies/raw/"})
    assert report.entries == 1
    video = await here.video("s3://copies/raw/2024/talk.mp4", **options)
    assert await video.get_transcript() == {"text": "hello"}


async def test_a_large_entry_with_many_parts_moves_as_it_is(site: Path, tmp_path: Path) -> None:
    files = FilesystemCacheConfig(tmp_path / "cache")
    there = cache_of()
    here = PipelineArtifactCache(CacheManager(CacheConfig([files])))
    old, new = site / "there/videos/talk.mp4", site / "here/videos/talk.mp4"
    frames = {number: os.urandom(6000) for number in range(3000)}
    metadata = [{"frame_id": number, "note": "x" * 40} for number in frames]
    assert await there.set_keyframes(old, metadata, keyframe_images=frames)
    source = await archive_of(there, site)
    report = await here.cache.import_archive(source, rekey=moves(site))
    assert report.entries == 1 and report.stored_bytes > IN_MEMORY
    found = await here.get_keyframes(new, load_images=True)
    assert found is not None
    assert {one: found[1].encoded(one) for one in (0, 1777, 2999)} == {
        one: frames[one] for one in (0, 1777, 2999)
    }
    await here.aclose()


async def test_keys_of_ones_own_and_other_places_stay_as_they_are(site: Path) -> None:
    there, here = cache_of(), cache_of()
    await there.cache.set("mine", 1)
    await there.set_transcript(site / "there/videos/talk.mp4", {"text": "hello"})
    source = await archive_of(there, site)
    rekey = {"/elsewhere/": "/here", f"{site}/there/vid": "/here", f"{site}/nowhere": "/here"}
    report = await here.cache.import_archive(source, rekey=rekey)
    assert (report.entries, await here.cache.get("mine")) == (2, 1)
    assert report.unmatched == tuple(rekey)
    assert "rekey: nothing is from '/elsewhere/', " in str(report)
    assert await here.get_transcript(site / "there/videos/talk.mp4") == {"text": "hello"}


@pytest.mark.parametrize("ends", [("", ""), ("/", ""), ("", "/"), ("/", "/")])
async def test_the_longest_place_counts_with_or_without_a_slash(
    ends: tuple[str, str], site: Path
) -> None:
    there, here = cache_of(), cache_of()
    await there.set_transcript(site / "there/videos/talk.mp4", {"text": "hello"})
    source = await archive_of(there, site)
    rekey = {f"{site}/there": "/elsewhere", "/": "/nowhere"}
    rekey[f"{site}/there/videos{ends[0]}"] = f"{site}/here/videos{ends[1]}"
    report = await here.cache.import_archive(source, rekey=rekey)
    assert (report.entries, len(report.unmatched)) == (1, 2)
    assert await here.get_transcript(site / "here/videos/talk.mp4") == {"text": "hello"}


async def test_an_invalidation_of_the_new_place_holds(site: Path) -> None:
    there, here = cache_of(), cache_of()
    await there.set_transcript(site / "there/videos/talk.mp4", {"text": "hello"})
    source = await archive_of(there, site)
    here.cache.backends[0].set_clock_offset(1000)
    await here.invalidate_video(site / "here/videos/talk.mp4")
    report = await here.cache.import_archive(source, rekey=moves(site))
    assert report.skipped == {"tag-invalidated": 1}


@pytest.mark.parametrize(
    ("rekey", "error", "message"),
    [
        ([("/a", "/b")], TypeError, "rekey must map places to places, not list"),
        ({"/a": Path("/b")}, TypeError, "paths or URIs to paths or URIs, not '/a' to Po"),
        ({"": "/b"}, ValueError, "the path of a source is empty"),
    ],
)
async def test_places_that_cannot_be_are_told(
    rekey: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await cache_of().cache.import_archive("none.tar", rekey=rekey)


def test_another_address_keeps_everything_else() -> None:
    """In the core: parts, sums, life and version, whatever the length of key and metadata."""
    value = {"a": b"x" * 5000, "b": [b"y" * 9000] * 40}
    draft = _core.Draft(value, b"k", meta={1: 5}, refreshed_ms=7, ttl_ms=9, compress=True)
    old = _core.Entry.from_bytes(draft.compose().tobytes())
    for key, meta in ((b"another key" * 9, {1: 5, 4: "x" * 3000}), (b"", {})):
        head, data_end, tail = old.readdressed(key, _core.pack(meta))
        data = head + old.tobytes()[32:data_end] + tail
        new = _core.Entry.from_bytes(data, key)
        new.verify()
        assert (new.key, new.meta, new.value()) == (key, meta, value)
        assert (new.token, new.refreshed_ms, new.ttl_ms) == (old.token, 7, 9)
        assert new.parts() == old.parts()
    with pytest.raises(ValueError, match="metadata"):
        old.readdressed(b"k", _core.pack({1: "no number"}))
    with pytest.raises(ValueError, match="limit"):
        old.readdressed(bytes(65537), b"")


@pytest.mark.parametrize("moved", [False, True])
async def test_an_entry_whose_life_is_lost_is_not_brought_to_one_without_end(
    site: Path, moved: bool
) -> None:
    there, here = cache_of(), cache_of()
    await there.set_transcript(site / "there/videos/talk.mp4", {"text": "hello"}, ttl="1h")
    path = await archive_of(there, site)
    with tarfile.open(path) as opened:
        manifest, (info, data) = ((one, opened.extractfile(one).read()) for one in opened)  # type: ignore[union-attr]
    data = data[:-112] + bytes(64) + data[-48:]  # both slots, which say how long it lives
    info.name = entry_name(bytes.fromhex(info.name[-69:-37]), _core.hash128(data).hex())
    with tarfile.open(path, "w") as opened:
        for one, content in (manifest, (info, data)):
            opened.addfile(one, io.BytesIO(content))
    report = await here.cache.import_archive(path, rekey=moves(site) if moved else None)
    assert report.entries == 0
    assert (report.refused, report.skipped) == (
        ({"damaged": 1}, {}) if moved else ({}, {"expired": 1})
    )
