"""Slips of callers are errors that name the argument; they cost nothing that is stored."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import a_video, filesystem_cache
from support_user import place_for_others, stop_being_root

from cogcache import (
    CacheBackendRegistry,
    CacheConfig,
    CacheManager,
    CogcacheWarning,
    ConfigError,
    FilesystemCacheBackend,
    FilesystemCacheConfig,
    Key,
    MemoryCacheConfig,
    PipelineArtifactCache,
    file_digest,
    register_type,
)
from cogcache.testing import memory_cache


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return a_video(tmp_path / "video.mp4")


@pytest.mark.parametrize("frames", [5, "1", b"1", [1.5], [None], [True], {1: 2}])
async def test_frames_that_are_no_ids_never_cost_the_entry(
    tmp_path: Path, video: Path, frames: Any
) -> None:
    cache = filesystem_cache(tmp_path / "cache")
    await cache.set_keyframes(video, {"keyframes": [{"frame_id": 1}]}, {1: b"\xff\xd8picture"})
    key = await cache.key("keyframes", video)
    with pytest.raises(TypeError, match="frame"):
        await cache.get_keyframes(video, load_images=True, frames=frames)
    with pytest.raises(TypeError, match="frame"):
        await cache.cache.lookup(key, frames=frames)
    _, images = await cache.get_keyframes(video, load_images=True, frames=[np.int64(1)])
    assert images.encoded(1) == b"\xff\xd8picture"
    await cache.aclose()


async def test_a_frame_that_was_not_stored_is_a_miss(video: Path) -> None:
    cache = memory_cache()
    await cache.set_keyframes(video, {"keyframes": [{"frame_id": 1}]}, {1: b"\xff\xd8picture"})
    assert await cache.get_keyframes(video, load_images=True, frames=[1, 2]) is None


@pytest.mark.parametrize(
    ("artifact", "named", "said"),
    [
        ("transcript", {"model_size": None}, "model_size"),
        ("transcript", {"model_size": ""}, "model_size"),
        ("transcript", {"language": ""}, "language"),
        ("descriptions", {"model_name": ""}, "model_name"),
        ("descriptions", {"model_name": "m", "batch_size": None}, "batch_size"),
        ("descriptions", {"model_name": "m", "batch_size": -1}, "batch_size"),
        ("embeddings", {"model_name": 5}, "model_name"),
        ("keyframes", {"max_frames": None}, "max_frames"),
        ("keyframes", {"max_frames": float("inf")}, "max_frames"),
        ("keyframes", {"max_frames": 2.5}, "max_frames"),
        ("keyframes", {"max_frames": [1]}, "max_frames"),
        ("keyframes", {"threshold": float("inf")}, "threshold"),
        ("keyframes", {"threshold": "0.9"}, "threshold"),
        ("keyframes", {"treshold": 0.9}, "'threshold'"),
        ("keyframes", {"mode": "view"}, "mode"),
        ("transcript", {"load_images": True}, "load_images"),
        ("embeddings", {"model_name": "m", "mode": "veiw"}, "mode"),
        ("embeddings", {"model_name": "m", "names": "abc"}, "names"),
        ("keyframes", {"load_images": "no"}, "load_images"),
        ("keyframes", {"image_codec": "jpg:90"}, "image_codec"),
        ("keyframes", {"image_codec": None}, "image_codec"),
        ("keyframes", {"strategy": np.zeros(3)}, "strategy"),
        ("keyframes", {"strategy": "s" * 1_000_000, "threshold": 1}, "strategy"),
        (
            "segment_frames",
            {"segment_id": 1, "start_time": 0, "end_time": 1, "image_codec": 5},
            "image_codec",
        ),
        ("transcipt", {}, "'transcript'"),
        ("transcript", {"params": {"a": object()}}, r"\$\.params\.a"),
    ],
)
async def test_a_wrong_argument_of_an_artifact_is_named(
    video: Path, artifact: str, named: dict[str, Any], said: str
) -> None:
    cache = memory_cache()
    with pytest.raises((TypeError, ValueError), match=said):
        await cache.lookup(artifact, video, **named)


async def test_channels_belong_to_pictures(video: Path) -> None:
    cache = memory_cache()
    with pytest.raises(TypeError, match="channels"):
        await cache.store("transcript", video, {}, channels="rgb")
    with pytest.raises(TypeError, match="channels"):
        await cache.get_or_compute("transcript", video, dict, channels="rgb")


async def test_a_wrong_argument_of_the_manager_is_named() -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    wrong: list[tuple[str, Any]] = [
        ("mode", lambda: manager.lookup("key", mode="veiw")),  # type: ignore[arg-type]
        ("keys", lambda: manager.get_many("abc")),
        ("items", lambda: manager.set_many([("a", 1)])),  # type: ignore[arg-type]
        ("metadata", lambda: manager.store("key", 1, metadata="text")),  # type: ignore[arg-type]
        ("content_type", lambda: manager.store("key", 1, content_type=5)),  # type: ignore[arg-type]
        ("tags", lambda: manager.store("key", 1, tags="one")),
        ("cost_seconds", lambda: manager.store("key", 1, cost_seconds=-1)),
        ("ttl", lambda: manager.set("key", 1, ttl=10**400)),
        ("ttl", lambda: manager.touch("absent", ttl=-1)),
        ("timeout", lambda: manager.aclose(-1)),
    ]
    for said, call in wrong:
        with pytest.raises((TypeError, ValueError), match=said):
            await call()
    with pytest.raises(TypeError, match="mod"):
        await manager.lookup("key", mod="view")  # type: ignore[call-arg]
    with pytest.warns(UserWarning, match="NUL"):
        assert await manager.clear("a\0b") == 0


async def test_closed_means_closed() -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    await manager.aclose()
    for call in (
        manager.list_keys,
        manager.clear,
        manager.cleanup_expired,
        lambda: manager.invalidate_tags("a"),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            await call()


@pytest.mark.parametrize(
    "options",
    [
        {"max_size_mb": 1e13},
        {"max_size_mb": 10**400},
        {"min_free_mb": 1 << 50},
        {"max_files": 2.5},
        {"max_files": 10**14},
        {"touch_seconds": 0.5},
        {"touch_seconds": 10**14},
    ],
)
def test_absurd_sizes_are_configuration_errors(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=name):
        FilesystemCacheConfig("cache", **options)


def test_a_missing_option_and_a_mixed_up_kind_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="backends"):
        CacheConfig.from_dict({})
    wrong = FilesystemCacheConfig(tmp_path, backend_type="memory")
    with pytest.raises(ConfigError, match="MemoryCacheConfig"):
        CacheManager(CacheConfig([wrong]))


def test_open_takes_urls_of_directories_and_keeps_the_order(tmp_path: Path) -> None:
    cache = PipelineArtifactCache.open(
        f"file://{tmp_path}/a%20b", tmp_path / "second", {"backend_type": "memory"}
    )
    assert (tmp_path / "a b" / "v1").is_dir()
    assert [tier.name for tier in cache.cache.backends] == [
        "FilesystemCacheBackend",
        "FilesystemCacheBackend#2",
        "MemoryCacheBackend",
    ]
    cache.sync.aclose()
    with pytest.raises(ConfigError, match="s3"):
        PipelineArtifactCache.open("gcs://bucket/prefix")
    with pytest.raises(ConfigError, match="int"):
        PipelineArtifactCache.open(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    ["x" * 1_000_000, 10**400, 10**5000, [0] * 100_000, np.zeros(9)],
    ids=lambda value: type(value).__name__,
)
def test_a_long_argument_is_not_repeated_in_full(value: Any, tmp_path: Path) -> None:
    calls: list[Any] = [
        lambda: FilesystemCacheConfig(tmp_path, eviction_policy=value),
        lambda: FilesystemCacheConfig(tmp_path, shared=value),
        lambda: FilesystemCacheConfig(tmp_path, max_size_mb=value),
        lambda: CacheConfig([MemoryCacheConfig()], enable_compression=value),
        lambda: CacheConfig([MemoryCacheConfig()], serialization_format=value),
        lambda: memory_cache().cache.sync.set("key", 1, ttl="1 " + str(type(value)) * 100_000),
        lambda: memory_cache().cache.sync.lookup("key", mode=value),
        lambda: memory_cache().sync.video("v.mp4", missing=value),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError)) as raised:
            call()
        assert len(str(raised.value)) < 400
        assert "ambiguous" not in str(raised.value)


async def test_the_name_of_a_source_and_an_own_identity_are_checked(video: Path) -> None:
    cache = memory_cache()
    for name in ("v" * 65_001, b"v" * 65_001, "s3://b/" + "v" * 65_000, Path("v" * 65_001)):
        with pytest.raises(ValueError, match="name of a source has at most 65,000 bytes"):
            await cache.get_transcript(name)
    assert await cache.set_transcript("s3://b/" + "v" * 64_000, {"segments": []})
    for own in ("source_id", "etag"):
        for wrong, said in (
            ("", "1 to"),
            ("x" * 65_001, "65,001"),
            ("a\0b", "NUL"),
            ("\ud800", ""),
        ):
            with pytest.raises(ValueError, match=f"{own}.*{said}"):
                await cache.video(video, **{own: wrong})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pipeline_config must be a mapping, not NoneType"):
        await cache.get_all_artifacts(video, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path must be the path of a file, not int"):
        file_digest(5)  # type: ignore[arg-type]


def test_a_text_that_alone_is_too_long_for_a_key_is_named() -> None:
    with pytest.raises(ConfigError, match="its profile alone has 70,000"):
        memory_cache(profile="p" * 70_000)
    with pytest.raises(ValueError, match="its artifact alone has 140,000"):
        Key("", bytes(16), "ä" * 70_000, {})
    with pytest.raises(ValueError, match="its parameters make more"):
        Key("p" * 100, bytes(16), "a", {f"name{n}": n for n in range(9000)})


@pytest.mark.parametrize("profile", ["a\0b", "\ud800", "x" * 1_000_000, 5])
def test_a_profile_that_no_key_can_hold_is_refused_at_once(profile: Any) -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    with pytest.raises(ConfigError, match="profile"):
        PipelineArtifactCache(manager, profile=profile)


async def test_a_video_takes_its_arguments_by_position_as_the_cache_does(video: Path) -> None:
    cache = memory_cache()
    bound = await cache.video(video, {"whisper_model": "large", "keyframe_threshold": 0.5})
    assert await bound.set_transcript({"text": "a"}, "small", "en")
    assert await bound.get_transcript("small", "en") == {"text": "a"}
    assert await cache.get_transcript(video, "small", "en") == {"text": "a"}
    assert await bound.get_transcript() is None  # large
    assert await bound.set_descriptions({"1": "text"}, "model", 100)
    assert await bound.get_descriptions("model", 100) == {"1": "text"}
    assert await bound.key("keyframes", max_frames=7) == await cache.key(
        "keyframes", video, threshold=0.5, max_frames=7
    )
    assert await bound.key("keyframes", strategy="fps", fps=2) == await cache.key(
        "keyframes", video, strategy="fps", fps=2
    )
    with pytest.raises(ValueError, match="SourceRef"):
        await cache.video(bound.source, source_id="other")
    with pytest.raises(TypeError, match="config"):
        await cache.video(video, [1])  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.12: fork beside threads
def test_a_directory_that_this_user_cannot_write_is_a_configuration_error() -> None:
    with place_for_others() as place:
        root = place / "theirs"
        root.mkdir()
        root.chmod(0o555)
        child = os.fork()
        if child == 0:
            said = ""
            with contextlib.suppress(BaseException):
                stop_being_root()
                try:
                    PipelineArtifactCache.open(root)
                except ConfigError as error:
                    said = str(error)
            os._exit(0 if "base_path" in said and "choose another directory" in said else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("tags", [["\ud800"], [["a"]], [5], "a", None, 5])
async def test_wrong_tags_are_named_before_anything_is_stored(tags: Any) -> None:
    manager = memory_cache().cache
    with pytest.raises((TypeError, ValueError), match="tag"):
        await manager.store("key", 1, tags=tags)
    if isinstance(tags, list):
        with pytest.raises((TypeError, ValueError), match="tag"):
            await manager.invalidate_tags(*tags)
    assert not await manager.exists("key")


async def test_what_is_no_several_keys_is_named() -> None:
    manager = memory_cache().cache
    for keys in (None, 5, "abc", b"abc", [["a"]], [5], {"a", 5}):
        with pytest.raises(TypeError, match="key"):
            await manager.get_many(keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("content_type", ["a\r\nSet-Cookie: x", "", "x" * 256, "text/\xe4", "a\0"])
async def test_a_content_type_is_fit_for_a_header(content_type: str) -> None:
    manager = memory_cache().cache
    with pytest.raises(ValueError, match="content_type"):
        await manager.store("key", b"x", content_type=content_type)
    assert await manager.store("key", b"x", content_type="text/plain; charset=utf-8")


@pytest.mark.parametrize("option", ["refresh", "strict"])
async def test_text_is_no_flag(option: str) -> None:
    manager = memory_cache().cache
    wrong: dict[str, Any] = {option: "no"}
    with pytest.raises(TypeError, match=option):
        await manager.get_or_compute("key", lambda: 1, **wrong)


async def test_a_class_is_no_gate() -> None:
    manager = memory_cache().cache
    with pytest.raises(TypeError, match="gate.*Semaphore$"):
        await manager.get_or_compute("key", lambda: 1, gate=asyncio.Semaphore)  # type: ignore[call-overload]


@pytest.mark.parametrize("pattern", ["**", "ab**", "a:**", "a*b:c", "*a:*"])
async def test_a_star_within_a_segment_is_refused(pattern: str) -> None:
    manager = memory_cache().cache
    assert await manager.set("ab", 1)
    with pytest.raises(ValueError, match="whole segments"):
        await manager.clear(pattern)
    assert await manager.exists("ab")


async def test_wrong_ranges_of_a_reader_are_named() -> None:
    manager = memory_cache().cache
    assert await manager.set("key", bytes(range(100)))
    async with manager.open("key") as reader:
        assert reader is not None
        start: Any
        for start in ("0", 0.5, None, True):
            with pytest.raises(TypeError, match="start must be a number of bytes"):
                await reader.read(start, 5)
            with pytest.raises(TypeError, match="start must be a number of bytes"):
                await anext(reader.stream(start, 5))
        assert await reader.read(np.int64(1), np.int64(3)) == b"\1\2"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path", ["~nobody-of-this-name/cache", "$COGCACHE_NOT_SET/cache", "caches/${COGCACHE_NOT_SET}"]
)
def test_a_home_or_variable_that_is_not_there_makes_no_directory(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COGCACHE_NOT_SET", raising=False)
    with pytest.raises(ConfigError, match=r"base_path.*there is no"):
        PipelineArtifactCache.open(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "url", ["file://host/cache", "file://", "file:///cache#part", "file:cache://x"]
)
def test_only_a_plain_file_url_is_a_directory(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="file:///directory"):
        PipelineArtifactCache.open(url)
    assert os.listdir(tmp_path) == []


def test_lives_of_unknown_artifacts_are_configuration_errors() -> None:
    with pytest.raises(ConfigError, match="'transcript'"):
        PipelineArtifactCache(memory_cache().cache, ttl={"transcipt": 5})


@pytest.mark.parametrize("load", [5, "keyframes", ["keyfram"], [["a"]], [5]])
async def test_what_is_to_be_loaded_is_checked(video: Path, load: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="load"):
        await memory_cache().get_all_artifacts(video, {"transcribe_audio": True}, load=load)


async def test_segments_name_what_is_wrong_with_frames_and_times(video: Path) -> None:
    cache = memory_cache()
    picture = b"\xff\xd8picture"
    wrong: list[tuple[Any, Any, str]] = [
        (None, [0.1], "frames"),
        ("a", [0.1], "frames"),
        ([picture], None, "timestamps"),
        ([picture], "a", "timestamps"),
        ([picture], ["0.1"], "timestamps"),
        ([picture], [0.1, 0.2], "timestamps"),
    ]
    for frames, times, said in wrong:
        with pytest.raises((TypeError, ValueError), match=said):
            await cache.set_segment_frames(video, 1, 0, 1, frames, times)
    assert await cache.set_segment_frames(video, 1, 0, 1, [picture], np.array([0.5]))  # type: ignore[arg-type]


async def test_a_segment_does_not_end_before_it_begins(video: Path) -> None:
    cache = memory_cache()
    for call in (
        cache.set_segment_frames(video, 1, 6.0, 5.0, [b"\xff\xd8picture"], [5.5]),
        cache.get_segment_frames(video, 1, 6.0, 5.0),
        cache.get_or_compute_segment_frames(
            video, lambda: 1 / 0, segment_id=1, start_time=6.0, end_time=5.0
        ),
        (await cache.video(video)).get_segment_frames(1, 6.0, 5.0),
    ):
        with pytest.raises(ValueError, match=r"end_time 5\.0 is before start_time 6\.0"):
            await call
    assert await cache.set_segment_frames(video, 1, 6.0, 6.0, [], [])


@pytest.mark.parametrize("metadata", [5, 0.5, "a", b"\xff\xd8", np.zeros(3), Path("a"), {1}, True])
async def test_metadata_of_frames_is_a_mapping_or_a_list(video: Path, metadata: Any) -> None:
    cache = memory_cache()
    picture = b"\xff\xd8picture"
    for images in ([picture], None):
        with pytest.raises(TypeError, match="keyframes: the metadata must be a mapping or a list"):
            await cache.set_keyframes(video, metadata, images)
    with pytest.raises(TypeError, match="metadata"):
        await cache.store("keyframes", video, metadata)
    with pytest.raises(TypeError, match="segment_frames: the metadata"):
        await cache.store(
            "segment_frames", video, (metadata, [picture]), segment_id=1, start_time=0, end_time=1
        )
    assert (await cache.get_cache_stats())["artifacts"]["keyframes"]["sets"] == 0
    with pytest.warns(CogcacheWarning, match="not kept.*the metadata must be"):
        got = await cache.get_or_compute_keyframes(video, lambda: (metadata, [picture]))
    assert got is not None  # a slip of the computation never costs its result


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("transcribe_audoi", "transcribe_audio"),
        ("extract_keyframe", "extract_keyframes"),
        ("extract-keyframes", "extract_keyframes"),
        ("extract_frames", "extract_keyframes"),
        ("Generate_Descriptions", "generate_descriptions"),
        ("keyframe_treshold", "keyframe_threshold"),
        ("embeding_model", "embedding_model"),
    ],
)
async def test_a_misspelt_name_of_a_pipeline_is_warned_about(
    video: Path, wrong: str, meant: str
) -> None:
    cache = memory_cache()
    for call in (
        lambda: cache.video(video, {wrong: True}),
        lambda: cache.get_all_artifacts(video, {wrong: True}),
    ):
        with pytest.warns(CogcacheWarning, match=f"'{wrong}' is not read.*'{meant}'") as seen:
            await call()
        assert seen[0].filename == __file__


async def test_names_of_other_programs_may_stand_in_a_pipeline(video: Path) -> None:
    foreign: dict[Any, Any] = {
        "output_dir": "out",
        "embedding_model_path": "m",
        "embedding_dim": 768,
        "vlm_model_id": "m",
        "whisper_model_size": "base",
        "fps": 2,
        "max_frames": 5,
        "clip_model": "c",
        7: "seven",
    }
    video_cache = await memory_cache().video(video, foreign)  # warnings are errors here
    assert video_cache.config == foreign
    both = {"language": "en", "languages": ["en", "fr"]}
    assert (await memory_cache().video(video, both)).config == both


async def test_a_plain_list_of_keyframes_gives_its_ids_too(video: Path) -> None:
    cache = memory_cache()
    metadata = [{"frame_id": 30}, {"frame_id": 60}]
    pictures = [b"\xff\xd8one", b"\xff\xd8two"]
    assert await cache.set_keyframes(video, metadata, pictures)
    _, frames = await cache.get_keyframes(video, load_images=True)
    assert frames.encoded(60) == pictures[1]
    for wrong in ({30: pictures[0], 61: pictures[1]}, pictures[:1]):
        with pytest.raises(ValueError, match=r"frame|keyframes"):
            await cache.set_keyframes(video, metadata, wrong)
    with pytest.raises(ValueError, match="twice"):
        await cache.set_keyframes(video, [{"frame_id": 1}, {"frame_id": "1"}], pictures)


async def test_a_frame_that_cannot_be_read_is_named(video: Path, tmp_path: Path) -> None:
    cache = memory_cache()
    with pytest.raises(IsADirectoryError, match="frame 7"):
        await cache.set_keyframes(video, {"keyframes": [{"frame_id": 7}]}, {7: tmp_path})
    with pytest.raises(ValueError, match="frame 7"):
        await cache.set_keyframes(video, {"keyframes": [{"frame_id": 7}]}, {7: "a\0b"})


async def test_frames_decode_what_is_asked_for_by_ids(video: Path) -> None:
    cache = memory_cache()
    picture = np.zeros((4, 4, 3), np.uint8)
    await cache.set_keyframes(video, [{"frame_id": 1}], {1: picture})
    _, frames = await cache.get_keyframes(video, load_images=True)
    wrong: Any
    for wrong in (5, "1"):
        with pytest.raises(TypeError, match="ids"):
            await frames.decode(wrong)
    for wrong in ("x", True, 1.5):
        with pytest.raises(TypeError, match="threads"):
            await frames.decode(threads=wrong)


def test_wrong_parts_of_a_key_are_named() -> None:
    with pytest.raises(TypeError, match="source"):
        Key("profile", "text", "artifact", {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="params"):
        Key("profile", bytes(16), "artifact", 5)  # type: ignore[arg-type]


async def test_a_source_name_that_is_no_text_is_a_plain_error() -> None:
    for source in ("\ud800", "http://host/\ud800"):
        with pytest.raises(ValueError, match="lone surrogate"):
            await memory_cache().get_transcript(source)


def test_tiers_are_made_of_their_own_configuration() -> None:
    for config in (None, {"base_path": "x"}, MemoryCacheConfig()):
        with pytest.raises(ConfigError, match="FilesystemCacheConfig"):
            FilesystemCacheBackend(config)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name of a tier"):
        CacheBackendRegistry.register(5, FilesystemCacheBackend)  # type: ignore[arg-type]


def test_wrong_functions_of_a_type_are_found_when_it_is_registered() -> None:
    class Mine:
        pass

    with pytest.raises(TypeError, match="to_plain"):
        register_type(Mine, name="mine", to_plain=5, from_plain=6)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name"):
        register_type(Mine, name="a\0b", to_plain=str, from_plain=str)
