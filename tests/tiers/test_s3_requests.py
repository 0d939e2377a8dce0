"""How many requests and bytes the S3 tier needs, counted by a proxy before a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_cache import manager_over
from support_frames import BUNDLE, FRAME_BYTES, frames_built, look_up_one_frame, open_one_frame
from support_s3 import entry_of, names_in, tier_at

from cogcache import _core
from cogcache.backends.s3.download import TAIL_BYTES
from cogcache.backends.s3.tier import S3Backend
from cogcache.frames import make_bundle
from cogcache.keys import Key, key_bytes
from cogcache.manager import CacheManager

pytestmark = pytest.mark.s3("weed")

MIB = 1 << 20
FRAME = 50_000


@pytest.fixture
async def tier(proxied_place: S3Place, s3_proxy: Proxy) -> S3Backend:
    tier = tier_at(proxied_place)
    await tier.prepare()
    s3_proxy.zero()
    return tier


def blob(size: int, salt: int = 0) -> bytes:
    """Bytes that do not compress."""
    step = b"".join(
        _core.hash128(f"{salt}:{number}".encode()) for number in range(min(size, 65_536) // 16 + 1)
    )
    return (step * (size // len(step) + 1))[:size]


def taken(proxy: Proxy) -> dict[str, int]:
    """Requests by kind since the last look."""
    kinds: dict[str, int] = proxy.counts()["kinds"]
    proxy.zero()
    return kinds


async def bundle(tier: S3Backend, key: str, frames: int) -> list[bytes]:
    images = [blob(FRAME, number) for number in range(frames)]
    made = make_bundle({"fps": 1}, dict(enumerate(images)))
    assert await tier.set(key, made)
    return images


# --- reading -----------------------------------------------------------------------------------


async def test_a_small_hit_is_one_request_and_so_is_a_miss(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    assert await tier.set("key", {"a": 1})
    assert taken(s3_proxy) == {"PutObject": 1}
    assert await tier.get("key") == {"a": 1}
    assert taken(s3_proxy) == {"GetObject": 1}
    assert await tier.get("absent") is None
    assert taken(s3_proxy) == {"GetObject": 1}
    assert await tier.exists("key")
    assert taken(s3_proxy) == {"GetObject": 1}
    assert (await tier.get_metadata("key") or {})["size_bytes"] > 0
    assert taken(s3_proxy) == {"GetObject": 1}


async def test_a_larger_hit_is_two_requests_then_one(tier: S3Backend, s3_proxy: Proxy) -> None:
    value = blob(3 * MIB)
    await tier.set("key", value)
    s3_proxy.zero()
    assert await tier.get("key") == value
    assert s3_proxy.counts()["body_down"]["GetObject"] == (await entry_of(tier, "key")).length
    s3_proxy.zero()
    assert await tier.exists("key")  # brings the index along
    assert taken(s3_proxy) == {"GetObject": 1}
    assert await tier.get("key") == value
    assert taken(s3_proxy) == {"GetObject": 1}


async def test_a_frame_is_at_most_two_requests_cold_and_one_warm(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    images = await bundle(tier, "bundle", 60)
    s3_proxy.zero()
    cold = await entry_of(tier, "bundle", index_only=True)
    _, frames = await tier.load(cold, frames=[7])
    assert frames.encoded(7) == images[7]
    counts = s3_proxy.counts()
    assert counts["kinds"] == {"GetObject": 2}
    assert counts["body_down"]["GetObject"] <= FRAME + TAIL_BYTES
    s3_proxy.zero()
    warm = await entry_of(tier, "bundle", index_only=True)
    _, frames = await tier.load(warm, frames=[23])
    assert frames.encoded(23) == images[23]
    counts = s3_proxy.counts()
    assert counts["kinds"] == {"GetObject": 1}
    assert counts["body_down"]["GetObject"] == FRAME
    assert [request["range"] is not None for request in s3_proxy.requests()] == [True]


async def test_one_frame_of_hundreds_costs_one_request_and_is_built_alone(
    tier: S3Backend, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await tier.set("bundle", BUNDLE)
    manager = manager_over(tier)
    built = frames_built(monkeypatch)
    s3_proxy.zero()
    await look_up_one_frame(manager, built, 17, 17)
    assert taken(s3_proxy) == {"GetObject": 2}  # the index, then the frame
    await look_up_one_frame(manager, built, 300, "300")
    await open_one_frame(manager, built, 301)
    counts = s3_proxy.counts()
    assert counts["kinds"] == {"GetObject": 2}
    assert counts["body_down"]["GetObject"] == 2 * FRAME_BYTES


async def test_neighbouring_frames_are_one_request_and_far_ones_one_each(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    images = await bundle(tier, "bundle", 60)
    entry = await entry_of(tier, "bundle", index_only=True)
    s3_proxy.zero()
    _, frames = await tier.load(entry, frames=[10, 11, 12, 13])
    assert [frames.encoded(n) for n in (10, 11, 12, 13)] == images[10:14]
    counts = s3_proxy.counts()
    assert counts["kinds"] == {"GetObject": 1}
    assert counts["body_down"]["GetObject"] == 4 * FRAME
    s3_proxy.zero()
    _, frames = await tier.load(entry, frames=[1, 40])
    assert [frames.encoded(1), frames.encoded(40)] == [images[1], images[40]]
    assert taken(s3_proxy) == {"GetObject": 2}


async def test_the_metadata_of_a_bundle_is_read_without_its_frames(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    await bundle(tier, "bundle", 60)
    s3_proxy.zero()
    entry = await entry_of(tier, "bundle", index_only=True)
    assert await tier.load(entry, frames=False) == {"fps": 1}
    counts = s3_proxy.counts()
    assert counts["kinds"] == {"GetObject": 1}
    assert counts["body_down"]["GetObject"] == TAIL_BYTES


async def test_a_range_of_a_large_value_is_its_chunks_in_one_request(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    value = blob(20 * MIB)
    await tier.set("blob", value)
    entry = await entry_of(tier, "blob", index_only=True)
    chunk = entry.parts()[0].chunk_size
    s3_proxy.zero()
    assert await tier.read_part(entry, 0, chunk + 5, chunk + 9) == value[chunk + 5 : chunk + 9]
    counts = s3_proxy.counts()
    assert counts["kinds"] == {"GetObject": 1}
    assert counts["body_down"]["GetObject"] == chunk
    s3_proxy.zero()
    assert await tier.read_part(entry, 0, chunk - 1, chunk + 1) == value[chunk - 1 : chunk + 1]
    assert s3_proxy.counts()["body_down"]["GetObject"] == 2 * chunk
    assert set(taken(s3_proxy)) == {"GetObject"}


async def test_a_large_value_comes_in_ranges_of_8_mib(tier: S3Backend, s3_proxy: Proxy) -> None:
    value = blob(40 * MIB)
    await tier.set("large", value)
    s3_proxy.zero()
    assert await tier.get("large") == value
    counts = s3_proxy.counts()
    assert counts["kinds"] == {"GetObject": 1 + 5}
    assert max(_length(r["range"]) for r in s3_proxy.requests()) == 8 * MIB
    assert counts["body_down"]["GetObject"] == (await entry_of(tier, "large")).length


def _length(range_header: str) -> int:
    start, _, stop = range_header.removeprefix("bytes=").partition("-")
    return int(stop) - int(start) + 1 if start else int(stop)


async def test_an_absence_is_believed_for_a_while_and_not_after_a_write(
    tier: S3Backend, s3_proxy: Proxy, proxied_place: S3Place
) -> None:
    clock = 1000.0
    tier._clock = lambda: clock
    for _ in range(5):
        assert await tier.get("key") is None
    assert taken(s3_proxy) == {"GetObject": 1}
    assert await tier.set("key", 1)
    s3_proxy.zero()
    assert await tier.get("key") == 1
    assert taken(s3_proxy) == {"GetObject": 1}
    # What another writes is seen when the absence is no longer believed.
    other = tier_at(proxied_place)
    assert await tier.get("other") is None
    assert await other.set("other", 2)
    assert await tier.get("other") is None
    clock += 12.1
    assert await tier.get("other") == 2


async def test_what_was_just_written_is_never_taken_for_absent(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    """A miss that was asked for before the write and answered after it."""
    s3_proxy.set("hold", where="after", kind="GetObject", times=1)
    asked = asyncio.create_task(tier.fetch(key_bytes("key")))
    await asyncio.to_thread(s3_proxy.wait_held)
    assert await tier.set("key", 1)
    s3_proxy.clear()
    s3_proxy.release()
    assert await asked == "absent"
    assert await tier.get("key") == 1


async def test_second_tries_are_told_as_requests_too(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = tier_at(proxied_place)
    s3_proxy.set("drop", kind="PutObject", skip=2, times=1)
    s3_proxy.set("lost_answer", kind="GetObject", times=1)
    value = blob(100_000)
    assert await tier.set("key", value) and await tier.get("key") == value
    usage = await tier.usage()
    counts = s3_proxy.counts()
    names = {name.title().replace("_", ""): count for name, count in usage["requests"].items()}
    assert names == counts["kinds"] and counts["kinds"]["GetObject"] == 3
    assert usage["bytes_out"] == counts["bytes_up"]


# --- writing -----------------------------------------------------------------------------------


async def test_a_value_up_to_16_mib_is_one_request(tier: S3Backend, s3_proxy: Proxy) -> None:
    for size in (0, 100, MIB, 16 * MIB - 4096):
        assert await tier.set(f"blob:{size}", blob(size))
        assert taken(s3_proxy) == {"PutObject": 1}
        assert await tier.get(f"blob:{size}") == blob(size)
        s3_proxy.zero()


async def test_a_larger_value_is_its_parts_and_two_more(tier: S3Backend, s3_proxy: Proxy) -> None:
    value = blob(40 * MIB)
    assert await tier.set("large", value)
    assert taken(s3_proxy) == {
        "CreateMultipartUpload": 1,
        "UploadPart": 3,
        "CompleteMultipartUpload": 1,
    }
    assert await tier.get("large") == value


@pytest.mark.parametrize("parts", [8, pytest.param(64, marks=pytest.mark.torture)])
async def test_a_put_of_n_times_16_mib_is_n_requests_and_two_more(
    tier: S3Backend, s3_proxy: Proxy, parts: int
) -> None:
    """1 GiB: 66 requests, each part sent once."""
    size = parts * 16 * MIB - (64 << 10)  # room for what the container adds
    assert await tier.set("large", blob(size))
    counts = s3_proxy.counts()
    assert counts["kinds"] == {
        "CreateMultipartUpload": 1,
        "UploadPart": parts,
        "CompleteMultipartUpload": 1,
    }
    assert size < counts["bytes_up"] <= parts * 16 * MIB + 4096 + 256 * parts
    s3_proxy.zero()
    assert (await entry_of(tier, "large", index_only=True)).parts()[0].raw_size == size
    assert taken(s3_proxy) == {"GetObject": 1}


async def test_the_first_artifact_of_a_video_leaves_a_trace(
    tier: S3Backend, s3_proxy: Proxy, s3_place: S3Place
) -> None:
    key = Key("prof", b"\x07" * 16, "transcript", {"model": "base"})
    draft = tier.draft(key.encoded, "text", ttl_ms=None)
    assert await tier.write(draft, source=99) is None
    assert taken(s3_proxy) == {"PutObject": 2}
    other = Key("prof", b"\x07" * 16, "keyframes", {})
    assert await tier.write(tier.draft(other.encoded, 1, ttl_ms=None), source=99) is None
    assert taken(s3_proxy) == {"PutObject": 1}
    assert f"{s3_place.prefix}/.sources/{99:016x}/prof/{'07' * 16}" in names_in(s3_place)


async def test_the_objects_of_a_uri_are_found_without_reading_others(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    for number in range(20):
        for artifact in ("transcript", "keyframes"):
            key = Key("prof", bytes([number // 2] * 16), artifact, {"turn": number})
            draft = tier.draft(key.encoded, number, ttl_ms=None)
            assert await tier.write(draft, source=number // 2 + 1) is None
    s3_proxy.zero()
    found = [entry async for entry in tier.scan(3)]
    assert {Key.from_encoded(entry.key).source for entry in found} == {b"\x02" * 16}
    assert len(found) == 4
    assert taken(s3_proxy) == {"ListObjectsV2": 3, "GetObject": 4}


async def test_clearing_by_name_reads_no_object(tier: S3Backend, s3_proxy: Proxy) -> None:
    sources = [bytes([number] * 16) for number in range(3)]
    for source in sources:
        for artifact in ("transcript", "keyframes"):
            await tier.set(Key("prof", source, artifact, {"k": 1}), 1)
    for number in range(5):
        await tier.set(f"jobs:{number}", number)
    s3_proxy.zero()
    assert await tier.clear(f"prof:video:{sources[1].hex()}:*") == 2
    assert taken(s3_proxy) == {"ListObjectsV2": 2, "DeleteObjects": 1}
    assert await tier.clear("jobs:*") == 5
    assert set(taken(s3_proxy)) == {"ListObjectsV2", "DeleteObjects"}
    assert len(await tier.list_keys()) == 4


async def test_a_manager_asks_s3_once_for_a_value_that_a_local_tier_lacks(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = tier_at(proxied_place)
    manager = CacheManager({"backends": [{"backend_type": "memory"}, _as_dict(tier)]})
    await tier.prepare()
    assert await tier.set("key", "value")
    s3_proxy.zero()
    assert await manager.get("key") == "value"
    assert taken(s3_proxy) == {"GetObject": 1}
    await manager.aclose()
    await tier.aclose()


def _as_dict(tier: S3Backend) -> dict[str, Any]:
    given: dict[str, Any] = tier.config.to_dict()
    return given


async def test_an_index_is_asked_after_ten_seconds_whether_it_still_holds(
    tier: S3Backend, s3_proxy: Proxy, proxied_place: S3Place
) -> None:
    clock = 1000.0
    tier._clock = lambda: clock
    images = await bundle(tier, "bundle", 60)
    assert await tier.exists("bundle")
    s3_proxy.zero()
    clock += 9.0
    assert await tier.exists("bundle")
    assert s3_proxy.counts()["requests"] == 0
    clock += 2.0
    assert await tier.exists("bundle")
    counts = s3_proxy.counts()
    assert counts["kinds"] == {"GetObject": 1} and not counts["body_down"].get("GetObject")
    assert [request["status"] for request in s3_proxy.requests()] == [304]
    # It is not kept alive by being used.
    for _ in range(11):
        clock += 1.0
        entry = await entry_of(tier, "bundle", index_only=True)
    assert [request["status"] for request in s3_proxy.requests()] == [304, 304]
    _, frames = await tier.load(entry, frames=[3])
    assert frames.encoded(3) == images[3]
    # Removed and replaced by others, it is seen as such.
    other = tier_at(proxied_place)
    await other.set("bundle", make_bundle({"new": True}, {0: blob(90_000)}))
    clock += 11.0
    entry = await entry_of(tier, "bundle", index_only=True)
    assert await tier.load(entry, frames=False) == {"new": True}
    await other.delete("bundle")
    clock += 11.0
    assert not await tier.exists("bundle")
