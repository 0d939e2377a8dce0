"""Uploads that broke off, by a kill or an outage, and the next put of their key."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers.fixtures import wait_for_lanes
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_s3 import config_at, entry_of, names_in, tier_at

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, _core
from cogcache.backends.s3.streams import S3Upload
from cogcache.backends.s3.upload import PART_BYTES
from cogcache.keys import key_bytes

ISOLATED = Path(__file__).parents[1] / "isolated"
ROOT = Path(__file__).parents[2]
sys.path.append(str(ISOLATED))

PARTS, THERE = 8, 3  # of the container of the value, and when it is killed; four are on their way
SIZE = PARTS * PART_BYTES - 5_000_000
weed = pytest.mark.s3("weed")


def value_of(size: int = SIZE, seed: int = 1) -> bytes:
    from put_large_until_killed import value_of

    return value_of(size, seed)


async def pieces(value: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(value), 777_777):
        yield value[at : at + 777_777]


def manager_at(path: Path, place: S3Place, **options: Any) -> CacheManager:
    files = FilesystemCacheConfig(base_path=path, max_size_mb=2000)
    return CacheManager(CacheConfig([files, config_at(place, priority=1, **options)]))


@contextlib.contextmanager
def putting(
    path: Path, place: S3Place, how: str = "stream", size: int = SIZE, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """A process that puts the value under ``"key"``; killed at the end."""
    fields = dataclasses.asdict(config_at(place, priority=1, **options))
    names = ("bucket", "prefix", "endpoint_url", "access_key", "secret_key", "region", "priority")
    s3 = {name: fields[name] for name in (*names, "timeout_seconds")}
    s3 = {"backend_type": "s3", **s3, **options}
    files = {"backend_type": "filesystem", "base_path": str(path), "max_size_mb": 2000}
    process = subprocess.Popen(
        [
            sys.executable,
            str(ISOLATED / "put_large_until_killed.py"),
            json.dumps({"backends": [files, s3]}),
            *("key", str(size), "1", how),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def uploads_in(place: S3Place) -> list[dict[str, Any]]:
    answer = place.client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix)
    found: list[dict[str, Any]] = answer.get("Uploads", [])
    return found


def parts_in(place: S3Place) -> set[int]:
    """The parts of the one upload that there is."""
    for one in uploads_in(place):
        answer = place.client.list_parts(
            Bucket=place.bucket, Key=one["Key"], UploadId=one["UploadId"]
        )
        return {int(part["PartNumber"]) for part in answer.get("Parts", ())}
    return set()


def records_in(path: Path) -> list[str]:
    spool = path / "v1" / "spool"
    if not spool.exists():
        return []
    return [name for name in os.listdir(spool) if name.endswith(".upload")]


def kill_in_the_middle(
    path: Path,
    place: S3Place,
    direct: S3Place,
    proxy: Proxy,
    how: str = "stream",
    *,
    size: int = SIZE,
    there: int = THERE,
    **options: Any,
) -> None:
    """Kill a process that puts the value when the store has so many of its parts."""
    proxy.set("rate_upload", kind="UploadPart", skip=there, bytes_per_second=1000)
    with putting(path, place, how, size, **options):
        while len(parts_in(direct)) < there:
            time.sleep(0.01)
    proxy.clear()
    proxy.drop()
    assert [name for name in names_in(direct) if "/v1/" in name] == []
    assert len(parts_in(direct)) == there
    proxy.zero()


@weed
async def test_a_stream_that_was_killed_at_60_percent_sends_only_the_missing_parts(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    size = 15 * PART_BYTES - 5_000_000
    kill_in_the_middle(tmp_path, proxied_place, s3_place, s3_proxy, size=size, there=9)
    manager = manager_at(tmp_path, proxied_place)
    assert await manager.get("key") is None
    s3_proxy.zero()
    value = value_of(size)
    result = await manager.put_stream("key", pieces(value))
    assert len(result.tiers) == 2, result
    counts = s3_proxy.counts()
    assert counts["kinds"].get("CreateMultipartUpload", 0) == 0
    assert counts["kinds"]["ListParts"] == 1
    assert counts["kinds"]["UploadPart"] == 6
    assert counts["kinds"]["CompleteMultipartUpload"] == 1
    assert counts["bytes_up"] <= size - 9 * PART_BYTES + 100_000
    files, bucket = manager.backends
    assert (await bucket.usage())["spared_parts"] == 9
    assert await bucket.get("key") == value
    assert await files.get("key") == value
    assert uploads_in(s3_place) == []
    assert records_in(tmp_path) == []
    await manager.aclose()


@weed
async def test_another_value_than_the_one_that_broke_off_is_stored_as_it_is(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    kill_in_the_middle(tmp_path, proxied_place, s3_place, s3_proxy)
    value = bytearray(value_of())
    value[PART_BYTES + 1_000_000] ^= 1  # in the second part
    manager = manager_at(tmp_path, proxied_place)
    assert len((await manager.put_stream("key", pieces(bytes(value)))).tiers) == 2
    assert s3_proxy.counts()["kinds"]["UploadPart"] == PARTS - THERE + 1
    for tier in manager.backends:
        assert await tier.get("key") == value
    await manager.aclose()


@weed
async def test_a_shorter_value_than_the_one_that_broke_off_is_stored_as_it_is(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    kill_in_the_middle(tmp_path, proxied_place, s3_place, s3_proxy)
    for size in (3 * PART_BYTES, 100):
        manager = manager_at(tmp_path, proxied_place)
        assert len((await manager.put_stream("key", value_of(size))).tiers) == 2
        for tier in manager.backends:
            assert await tier.get("key") == value_of(size)
        await manager.aclose()


@weed
async def test_a_send_of_write_behind_that_was_killed_sends_only_the_missing_parts(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    kill_in_the_middle(tmp_path, proxied_place, s3_place, s3_proxy, "store", write_mode="behind")
    manager = manager_at(tmp_path, proxied_place, write_mode="behind")
    for queue in manager._tiers.queues.values():
        await queue._look_for_others(0)
    assert await manager.flush(300) == 0
    counts = s3_proxy.counts()
    assert counts["kinds"].get("CreateMultipartUpload", 0) == 0
    assert counts["kinds"]["UploadPart"] == PARTS - THERE
    assert counts["bytes_up"] <= (PARTS - THERE) * PART_BYTES + 100_000
    await manager.aclose()
    tier = tier_at(s3_place)
    assert await tier.get("key") == value_of()
    await tier.aclose()
    assert records_in(tmp_path) == []


@weed
async def test_a_stream_that_lost_its_connection_goes_on_with_a_token_of_its_own(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    manager = manager_at(tmp_path, proxied_place)
    files, bucket = manager.backends
    value = value_of()
    s3_proxy.set("status", status=500, code="InternalError", kind="UploadPart", skip=THERE)
    result = await manager.put_stream("key", pieces(value))
    assert result.refused == {bucket.name: "unavailable"}
    shown = await files.fetch(key_bytes("key"))
    left = await bucket.unfinished(key_bytes("key"))
    assert left is not None
    left.release()
    s3_proxy.clear()
    s3_proxy.drop()
    s3_proxy.zero()
    assert len((await manager.put_stream("key", pieces(value))).tiers) == 2
    # The first part has the token, and that of the first try is one that the directory has shown.
    assert s3_proxy.counts()["kinds"]["UploadPart"] == PARTS - THERE + 1
    found = await bucket.fetch(key_bytes("key"), index_only=True)
    assert isinstance(shown, _core.Entry) and isinstance(found, _core.Entry)
    assert found.token != shown.token
    assert await bucket.get("key") == value
    assert (uploads_in(s3_place), records_in(tmp_path)) == ([], [])
    # Its metadata is of the first try: what is meant is known by the object itself.
    assert not await bucket.discard_entry(shown)
    assert await bucket.discard_entry(found)
    await manager.aclose()


@weed
async def test_a_token_that_somebody_may_have_seen_is_not_used_again(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    s3_proxy.set("drop", kind="CompleteMultipartUpload")
    s3_proxy.set("hold", kind="HeadObject", path="/v1/", where="before")  # what became of it?
    size = 3 * PART_BYTES
    with putting(tmp_path, proxied_place, size=size):
        s3_proxy.wait_held()
        manager = manager_at(tmp_path, proxied_place)
        files, bucket = manager.backends
        while isinstance(shown := await files.fetch(key_bytes("key")), str):
            await asyncio.sleep(0.01)
    s3_proxy.clear()
    s3_proxy.drop()
    s3_proxy.zero()
    other = value_of(size)[:-1] + b"x"
    assert len((await manager.put_stream("key", other)).tiers) == 2
    for tier in (files, bucket):
        found = await tier.fetch(key_bytes("key"))
        assert isinstance(found, _core.Entry) and found.token != shown.token
        assert await tier.get("key") == other
    assert s3_proxy.counts()["kinds"]["UploadPart"] == 2  # with the token, and with the last byte
    await manager.aclose()


@weed
async def test_an_upload_that_is_under_way_is_left_alone(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    s3_proxy.set("hold", kind="UploadPart", skip=2, where="before")
    with putting(tmp_path, proxied_place, size=4 * PART_BYTES) as process:
        s3_proxy.wait_held()
        manager = manager_at(tmp_path, s3_place)
        assert len((await manager.put_stream("key", b"x" * 3 * PART_BYTES)).tiers) == 2
        assert await manager.backends[1].get("key") == b"x" * 3 * PART_BYTES
        assert len(uploads_in(s3_place)) == 1
        s3_proxy.clear()
        s3_proxy.release()
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "stored\n"
        tier = tier_at(s3_place)
        assert await tier.get("key") == value_of(4 * PART_BYTES)
        await tier.aclose()
        await manager.aclose()


@weed
@pytest.mark.parametrize("kind", ["ListParts", "UploadPart"])
async def test_where_the_store_cannot_say_what_it_has_the_put_begins_anew(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy, kind: str
) -> None:
    manager = manager_at(tmp_path, proxied_place)
    value = value_of(4 * PART_BYTES)
    number = s3_proxy.set("status", status=500, code="InternalError", kind="UploadPart", skip=2)
    assert len((await manager.put_stream("key", value)).tiers) == 1
    left = await manager.backends[1].unfinished(key_bytes("key"))
    assert left is not None
    left.release()
    s3_proxy.clear(number)
    if kind == "ListParts":
        s3_proxy.set("status", status=501, code="NotImplemented", kind=kind)
    else:  # the upload is gone
        for one in uploads_in(s3_place):
            s3_place.client.abort_multipart_upload(
                Bucket=s3_place.bucket, Key=one["Key"], UploadId=one["UploadId"]
            )
    s3_proxy.zero()
    assert len((await manager.put_stream("key", value)).tiers) == 2
    assert s3_proxy.counts()["kinds"]["CreateMultipartUpload"] == 1
    assert s3_proxy.counts()["kinds"]["UploadPart"] == 5
    assert await manager.backends[1].get("key") == value
    assert (uploads_in(s3_place), records_in(tmp_path)) == ([], [])
    await manager.aclose()


@pytest.mark.s3("weed", "swift", "moto", "bare")
async def test_every_store_is_gone_on_with_that_can_list_parts(
    s3_place: S3Place, tmp_path: Path
) -> None:
    store = _core.Store(str(tmp_path / "store"))
    key, value = key_bytes("key"), value_of(2 * PART_BYTES + 1_000_000)

    async def begin(token: int = 0) -> tuple[Any, S3Upload, _core.EntryWriter]:
        tier = tier_at(s3_place)
        tier.keep_records(store)
        left = await tier.unfinished(key)
        if left is not None and left.token is not None:
            token = left.token
        writer = tier.writer(key, ttl_ms=None, token=token)
        upload = await tier.open_upload(key, writer.token, unfinished=left)
        assert isinstance(upload, S3Upload)
        return tier, upload, writer

    tier, upload, writer = await begin()
    for at in range(0, len(value) - 1_000_000, 1 << 20):
        assert await upload.feed(writer.feed(value[at : at + (1 << 20)])) is None
    under_way = upload._upload
    assert under_way is not None and under_way.record is not None
    parts = under_way.finish_parts
    await tier._client.work.run(parts, seconds=60)
    under_way.record.release()  # as if killed
    first = writer.token
    tier, upload, writer = await begin()
    lists = s3_place.server != "bare"  # which does not know ListParts
    assert (writer.token == first) is lists
    for at in range(0, len(value), 1 << 20):
        assert await upload.feed(writer.feed(value[at : at + (1 << 20)])) is None
    assert await upload.feed(writer.finish()) is None
    assert await upload.finish() is None
    assert (await tier.usage())["spared_parts"] == lists * len(under_way._done)
    assert await tier.get("key") == value
    assert (await entry_of(tier, "key")).token == writer.token
    assert uploads_in(s3_place) == []
    await tier.aclose()
    store.close()


@weed
async def test_uploads_that_nobody_goes_on_with_are_bounded(
    s3_place: S3Place, tmp_path: Path
) -> None:
    manager = manager_at(tmp_path, s3_place)
    tier: Any = manager.backends[1]
    records = tier._interrupted.records
    await tier.prepare()

    def begin(call: Any, number: int) -> None:
        key = key_bytes(f"key:{number}")
        upload = tier._interrupted.begin(call, key, number + 1, None, spent=False)
        upload.record.release()  # as if killed

    for number in range(70):
        await tier._client.run(tier._client.small, begin, number)
    assert len(uploads_in(s3_place)) == len(records_in(tmp_path)) == 64
    assert records.find(key_bytes("key:69")).token == 70
    assert records.find(key_bytes("key:0")) is None
    await tier.gc(-3600)  # older than an hour from now: all
    assert (uploads_in(s3_place), records_in(tmp_path)) == ([], [])
    await manager.aclose()


async def a_held_part(manager: CacheManager, proxy: Proxy, skip: int) -> asyncio.Task[Any]:
    """Put the value; its parts are held when the store has so many of them."""
    proxy.set("hold", kind="UploadPart", skip=skip, where="before")
    setting = asyncio.create_task(manager.store("key", value_of(5 * PART_BYTES)))
    await asyncio.to_thread(proxy.wait_held)
    return setting


async def settled(proxy: Proxy) -> None:
    """Let the threads of what was given up end, and let nothing of it arrive."""
    await asyncio.to_thread(wait_for_lanes)
    proxy.drop()
    proxy.clear()


@weed
async def test_a_put_that_was_cancelled_leaves_nothing(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    manager = manager_at(tmp_path, proxied_place)
    setting = await a_held_part(manager, s3_proxy, skip=1)
    assert len(uploads_in(s3_place)) == len(records_in(tmp_path)) == 1
    setting.cancel()
    await asyncio.gather(setting, return_exceptions=True)
    await settled(s3_proxy)
    assert (uploads_in(s3_place), records_in(tmp_path)) == ([], [])
    await manager.aclose()


@weed
async def test_what_is_being_sent_again_later_is_left_when_its_sender_is_cancelled(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    manager = manager_at(tmp_path, proxied_place, write_mode="behind")
    assert (await (await a_held_part(manager, s3_proxy, skip=1))).later
    await manager.aclose(0)
    await settled(s3_proxy)
    assert len(uploads_in(s3_place)) == len(records_in(tmp_path)) == 1
    manager = manager_at(tmp_path, proxied_place, write_mode="behind")
    s3_proxy.zero()
    assert await manager.flush(300) == 0
    assert s3_proxy.counts()["kinds"].get("CreateMultipartUpload", 0) == 0
    assert (uploads_in(s3_place), records_in(tmp_path)) == ([], [])
    await manager.aclose()


@weed
async def test_an_upload_is_not_given_up_while_the_store_may_be_completing_it(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    manager = manager_at(tmp_path, proxied_place)
    complete = "CompleteMultipartUpload"
    s3_proxy.set("status", status=404, code="NoSuchUpload", kind=complete, skip=1)
    s3_proxy.set("hold", kind=complete, where="after", times=1)
    value = value_of(2 * PART_BYTES)
    setting = asyncio.create_task(manager.store("key", value))
    await asyncio.to_thread(s3_proxy.wait_held)
    setting.cancel()
    await asyncio.gather(setting, return_exceptions=True)
    s3_proxy.drop()  # so that it is asked once more, and says that it knows of no such upload
    await settled(s3_proxy)
    assert "AbortMultipartUpload" not in s3_proxy.counts()["kinds"]
    assert await tier_at(s3_place).get("key") == value
    await manager.aclose()
