"""Streams and ranges through a manager with an S3 tier: requests, local copies, faults."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.servers.fixtures import wait_for_lanes
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_cache import manager_over
from support_s3 import names_in, tier_at

from cogcache import CacheManager, FilesystemCacheConfig, IncompleteError, _core
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.backends.s3 import opening
from cogcache.keys import key_bytes

MIB = 1 << 20
CHUNK = 5 * MIB
pytestmark = pytest.mark.s3("weed")
DATA = random.Random(11).randbytes(37 * MIB + 5)


def local(path: Path) -> FilesystemCacheBackend:
    return FilesystemCacheBackend(FilesystemCacheConfig(path / "cache", cleanup_on_startup=False))


def uploads_in(place: S3Place) -> list[str]:
    answer = place.client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix)
    return [one["UploadId"] for one in answer.get("Uploads", [])]


async def sliced() -> AsyncIterator[bytes]:
    for at in range(0, len(DATA), 3 * MIB + 7):
        yield DATA[at : at + 3 * MIB + 7]


async def test_one_pass_feeds_a_bucket_and_a_directory(s3_place: S3Place, tmp_path: Path) -> None:
    files, bucket = local(tmp_path), tier_at(s3_place)
    manager = manager_over(files, bucket)
    result = await manager.put_stream("key", sliced(), content_type="video/mp4")
    assert result.tiers == (files.name, bucket.name)
    for tier in (files, bucket):
        assert await tier.get("key") == DATA
    assert (await files.fetch(key_bytes("key"))).token == (  # type: ignore[union-attr]
        await bucket.fetch(key_bytes("key"), index_only=True)
    ).token  # type: ignore[union-attr]
    await manager.aclose()


async def test_a_stream_from_a_bucket_is_copied_when_it_is_over(
    s3_place: S3Place, tmp_path: Path
) -> None:
    bucket = tier_at(s3_place)
    await manager_over(bucket).put_stream("key", sliced())
    files = local(tmp_path)
    manager = manager_over(files, bucket)
    assert await manager.read_range("key", CHUNK - 1, CHUNK + 1) == DATA[CHUNK - 1 : CHUNK + 1]
    got = b"".join([piece async for piece in manager.get_stream("key")])
    assert got == DATA
    await manager.aclose()
    assert manager.counters["promotions"] == 1
    again = local(tmp_path)
    assert await again.get("key") == DATA
    await again.aclose()


async def test_ranges_cost_the_bytes_of_their_chunks(
    proxied_place: S3Place, s3_proxy: Proxy, tmp_path: Path
) -> None:
    bucket = tier_at(proxied_place)
    manager = manager_over(bucket)
    await manager.put_stream("key", sliced())
    other = manager_over(tier_at(proxied_place))
    s3_proxy.zero()
    assert await other.read_range("key", 12 * MIB, 12 * MIB + 10) == DATA[12 * MIB : 12 * MIB + 10]
    counts = s3_proxy.counts()
    assert counts["kinds"] == {"GetObject": 2}  # the index and the chunk
    await other.aclose()
    await manager.aclose()


async def test_the_range_after_three_in_a_row_is_there_without_a_request(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    manager = manager_over(tier_at(proxied_place))
    await manager.put_stream("key", sliced())
    s3_proxy.zero()
    for at in (0, CHUNK, 2 * CHUNK):
        assert await manager.read_range("key", at, at + CHUNK) == DATA[at : at + CHUNK]
    for task in asyncio.all_tasks():
        if task.get_name() == "cogcache-ahead":
            await asyncio.wait({task})
    asked = [r["range"] for r in s3_proxy.requests() if r["kind"] == "GetObject"]
    assert len(asked) == 1 + 4  # the index, and each chunk once
    s3_proxy.set("hold", kind="GetObject", where="before")  # nothing more comes
    at = 3 * CHUNK
    assert await manager.read_range("key", at, at + CHUNK) == DATA[at : at + CHUNK]
    s3_proxy.clear()
    s3_proxy.release()
    assert await manager.read_range("key", 0, 10) == DATA[:10]  # ends what was on its way
    streams = (await manager.get_stats())["manager"]["streams"]
    assert (streams["prefetches"], streams["prefetch_hits"]) == (3, 2)
    await manager.aclose()


async def test_a_second_range_of_a_chunk_makes_no_request_until_its_tag_is_invalidated(
    proxied_place: S3Place, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "INDEX_SECONDS", 1e6)
    manager = manager_over(tier_at(proxied_place))
    await manager.put_stream("key", sliced(), tags=["t"])
    assert await manager.read_range("key", 12 * MIB, 12 * MIB + 10) == DATA[12 * MIB :][:10]
    s3_proxy.zero()
    for at in (12 * MIB, 11 * MIB, 3 * CHUNK - 10):
        assert await manager.read_range("key", at, at + 10) == DATA[at : at + 10]
    async with manager.open("key") as reader:
        assert reader is not None
        got = b"".join([piece async for piece in reader.stream(11 * MIB, 13 * MIB)])
        assert got == DATA[11 * MIB : 13 * MIB]
    assert s3_proxy.counts()["requests"] == 0
    await manager.invalidate_tags("t")
    assert await manager.read_range("key", 12 * MIB, 12 * MIB + 10) is None
    await manager.aclose()


async def whole(manager: CacheManager) -> bytes:
    return b"".join([piece async for piece in manager.get_stream("key")])


async def test_three_chunks_are_asked_for_at_once_and_each_once(
    proxied_place: S3Place, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "INDEX_SECONDS", 1e6)
    manager = manager_over(tier_at(proxied_place))
    await manager.put_stream("key", sliced())
    assert await manager.read_range("key", 0, 1) == DATA[:1]  # and its index is known
    s3_proxy.zero()
    s3_proxy.set("hold", kind="GetObject", where="before")
    reading = asyncio.create_task(whole(manager))
    await asyncio.to_thread(s3_proxy.wait_held, 3)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert s3_proxy.counts()["kinds"] == {"GetObject": 3}
    s3_proxy.clear()
    s3_proxy.release()
    assert await reading == DATA
    asked = [request["range"] for request in s3_proxy.requests()]
    assert len(asked) == len(set(asked)) == 8
    assert s3_proxy.counts()["body_down"]["GetObject"] < len(DATA) + 4096
    await manager.aclose()


async def test_chunks_that_hang_end_the_stream_at_their_deadline(
    proxied_place: S3Place, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "INDEX_SECONDS", 1e6)
    bucket = tier_at(proxied_place)
    patient = manager_over(bucket)
    await patient.put_stream("key", sliced())
    hasty = manager_over(bucket, chunking={"timeoutMs": 300})
    assert await patient.read_range("key", 0, 1) == DATA[:1]
    s3_proxy.set("hold", kind="GetObject", where="before")
    before = asyncio.all_tasks()
    async with hasty.open("key") as reader:
        assert reader is not None
        with pytest.raises(IncompleteError, match="it took too long"):
            await reader.read(CHUNK, CHUNK + 10)
        with pytest.raises(IncompleteError, match="it took too long"):
            async for _ in reader.stream():
                pass
    assert asyncio.all_tasks() == before
    s3_proxy.clear()
    s3_proxy.release()
    await asyncio.to_thread(wait_for_lanes)
    assert await whole(patient) == DATA
    await patient.aclose()


async def test_the_source_waits_for_the_store(proxied_place: S3Place, s3_proxy: Proxy) -> None:
    manager = manager_over(tier_at(proxied_place))
    await manager.backends[0].prepare()  # type: ignore[attr-defined]
    s3_proxy.set("hold", kind="UploadPart", where="before")
    taken, held = 0, True

    async def source() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(150):
            taken += MIB
            assert taken < 90 * MIB or not held  # parts of 64 MiB, and what is between
            yield DATA[:MIB]

    putting = asyncio.create_task(manager.put_stream("key", source()))
    await asyncio.to_thread(s3_proxy.wait_held, 3)
    before = -1
    while before != taken:  # until it stands still
        before = taken
        for _ in range(2000):
            await asyncio.sleep(0)
    held = False
    s3_proxy.clear()
    s3_proxy.release()
    assert (await putting).size == 150 * MIB
    await manager.aclose()


async def test_a_part_that_fails_leaves_the_older_value(
    proxied_place: S3Place, s3_proxy: Proxy, s3_place: S3Place
) -> None:
    manager = manager_over(tier_at(proxied_place))
    older = DATA[: 20 * MIB]
    await manager.put_stream("key", older)
    s3_proxy.set("status", status=500, code="InternalError", kind="UploadPart", skip=2)
    result = await manager.put_stream("key", sliced())
    assert (result.stored, result.reason) == (False, "unavailable")
    s3_proxy.clear()
    assert await whole(manager) == older
    assert len(names_in(s3_place)) == 1
    await manager.aclose()


async def test_a_value_with_much_metadata_is_read_by_range(s3_place: S3Place) -> None:
    manager = manager_over(tier_at(s3_place))
    await manager.put_stream(
        "key", sliced(), metadata={"noise": random.Random(1).randbytes(900_000)}
    )
    fresh = manager_over(tier_at(s3_place))  # whose first look does not reach to the document
    assert await fresh.read_range("key", CHUNK, CHUNK + 10) == DATA[CHUNK : CHUNK + 10]
    await fresh.aclose()
    await manager.aclose()


async def test_a_source_that_fails_leaves_no_object_and_no_upload(
    s3_place: S3Place, tmp_path: Path
) -> None:
    files, bucket = local(tmp_path), tier_at(s3_place)
    manager = manager_over(files, bucket)

    async def source() -> AsyncIterator[bytes]:
        async for piece in sliced():
            yield piece
        raise ConnectionResetError("the camera is gone")

    with pytest.raises(ConnectionResetError):
        await manager.put_stream("key", source())
    assert names_in(s3_place) == []
    while uploads_in(s3_place):  # given up in the background
        await asyncio.sleep(0.01)
    assert (await files.usage())["total_files"] == 0
    await manager.aclose()


async def test_an_outage_in_the_middle_costs_the_bucket_its_copy_and_nobody_else(
    proxied_place: S3Place, s3_proxy: Proxy, tmp_path: Path
) -> None:
    files, bucket = local(tmp_path), tier_at(proxied_place)
    await bucket.prepare()
    manager = manager_over(files, bucket)
    s3_proxy.set("status", status=500, code="InternalError", kind="UploadPart")
    result = await manager.put_stream("key", sliced())
    assert result.tiers == (files.name,)
    assert result.refused == {bucket.name: "unavailable"}
    assert isinstance(await files.fetch(key_bytes("key")), _core.Entry)
    await manager.aclose()


async def test_a_put_cancelled_at_any_moment_leaves_no_upload(s3_place: S3Place) -> None:
    bucket = tier_at(s3_place)
    await bucket.prepare()
    manager = manager_over(bucket)
    for pieces in (6, 8, 12):  # while the upload is begun, in its first part, in its second
        given = asyncio.Event()

        async def source(
            pieces: int = pieces, given: asyncio.Event = given
        ) -> AsyncIterator[bytes]:
            for at in range(pieces):
                yield DATA[at * 3 * MIB : (at + 1) * 3 * MIB]
            given.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(manager.put_stream("key", source()))
        await given.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    while uploads_in(s3_place):
        await asyncio.sleep(0.01)
    assert names_in(s3_place) == []
    await manager.aclose()
