"""Streams that are stored in S3 while their caller consumes them (C41)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_cache import manager_over
from support_s3 import names_in, tier_at

from cogcache import CacheManager, FilesystemCacheConfig, TeeStream
from cogcache.backends.base import CacheBackend
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.backends.s3 import streams

MIB = 1 << 20
DATA = random.Random(13).randbytes(41 * MIB + 5)
pytestmark = pytest.mark.s3("weed")


def local(path: Path) -> FilesystemCacheBackend:
    return FilesystemCacheBackend(FilesystemCacheConfig(path / "cache", cleanup_on_startup=False))


async def keep_up(stream: TeeStream, tier: CacheBackend, most: int) -> None:
    """Wait until a tier has taken ``most`` bytes, or has been given up."""
    assert stream._inflow is not None
    while not any(
        lane.branch.tier is tier and (lane.taken >= most or lane.branch.word)
        for lane in stream._inflow._lanes
    ):
        await asyncio.sleep(0.001)


async def teed(
    manager: CacheManager, local: CacheBackend, both_until: int, then: Callable[[], object]
) -> TeeStream:
    """A whole stream through the caller's hands, which asserts that it got it, as quick as the
    local tier takes it, and at first as all do.
    """

    async def source() -> AsyncIterator[bytes]:
        for at in range(0, len(DATA), MIB):
            for tier in manager.backends if at <= both_until else [local]:
                await keep_up(stream, tier, at - 2 * MIB)
            if at == both_until:
                await asyncio.to_thread(then)
            yield DATA[at : at + MIB]

    async with manager.tee_stream("key", source(), buffer_mb=4) as stream:
        assert b"".join([piece async for piece in stream]) == DATA
    return stream


async def test_a_bucket_and_a_directory_take_what_the_caller_reads(
    s3_place: S3Place, tmp_path: Path
) -> None:
    files, bucket = local(tmp_path), tier_at(s3_place)
    async with manager_over(files, bucket) as manager:
        async with manager.tee_stream("key", DATA, wait_seconds="1h") as stream:
            assert b"".join([piece async for piece in stream]) == DATA
        assert await manager.flush(600) == 0
        assert (await stream.stored()).tiers == (files.name, bucket.name)
        for tier in (files, bucket):
            assert await tier.get("key") == DATA


async def test_a_bucket_that_stalls_slows_nobody(
    proxied_place: S3Place, s3_proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PART_BYTES", 5 * MIB)
    files, bucket = local(tmp_path), tier_at(proxied_place)
    async with manager_over(files, bucket) as manager:
        await bucket.prepare()
        s3_proxy.set("hold", kind="UploadPart", where="before")
        stream = await teed(manager, files, 7 * MIB, s3_proxy.wait_held)
        result = await stream.stored()
        assert result.tiers == (files.name,)
        assert result.refused == {bucket.name: "too-slow"}
        assert await files.get("key") == DATA
        assert s3_proxy.counts()["kinds"]["UploadPart"] >= 1
        s3_proxy.clear()
        s3_proxy.release()
        while proxied_place.client.list_multipart_uploads(
            Bucket=proxied_place.bucket, Prefix=proxied_place.prefix
        ).get("Uploads"):
            await asyncio.sleep(0.02)
        assert names_in(proxied_place) == []


async def test_a_bucket_that_is_gone_is_no_matter_of_the_caller(
    proxied_place: S3Place, s3_proxy: Proxy, tmp_path: Path
) -> None:
    files, bucket = local(tmp_path), tier_at(proxied_place)
    async with manager_over(files, bucket) as manager:
        s3_proxy.set("refuse")
        result = await (await teed(manager, files, 0, lambda: None)).stored()
        assert (result.tiers, set(result.refused)) == ((files.name,), {bucket.name})
        assert await manager.get("key") == DATA
        s3_proxy.clear()


async def test_who_leaves_early_leaves_no_object_and_no_upload(s3_place: S3Place) -> None:
    bucket = tier_at(s3_place)
    async with manager_over(bucket) as manager:
        async with manager.tee_stream("key", DATA, wait_seconds="1h") as stream:
            async for _ in stream:
                if stream._handed > 30 * MIB:
                    break
        assert await manager.flush(600) == 0
        assert (await stream.stored()).reason == "abandoned"
        while s3_place.client.list_multipart_uploads(
            Bucket=s3_place.bucket, Prefix=s3_place.prefix
        ).get("Uploads"):
            await asyncio.sleep(0.02)
        assert names_in(s3_place) == []
