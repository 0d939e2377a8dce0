"""Containers that go up while they are being made, and come down without being held in memory."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.servers.fixtures import wait_for_lanes
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_s3 import entry_of, names_in, tier_at

from cogcache import ClosedError, _core
from cogcache.backends import lanes
from cogcache.backends.base import META_CREATED, missing_ranges
from cogcache.backends.s3 import download, http1, streams
from cogcache.backends.s3 import upload as uploads
from cogcache.backends.s3.streams import S3Upload
from cogcache.backends.s3.tier import S3Backend
from cogcache.keys import key_bytes

MIB = 1 << 20


def blob(size: int, salt: int = 0) -> bytes:
    return random.Random(salt).randbytes(size)


async def stream_into(tier: S3Backend, key: str, value: bytes, step: int) -> str | None:
    """Write a value as a stream of pieces; the word of the first step that fails."""
    writer = _core.EntryWriter(
        key_bytes(key), meta={META_CREATED: tier.now_ms()}, refreshed_ms=tier.now_ms(), ttl_ms=None
    )
    upload = await tier.open_upload(key_bytes(key), writer.token)
    assert isinstance(upload, S3Upload), upload
    for at in range(0, len(value), step):
        word = await upload.feed(writer.feed(value[at : at + step]))
        if word is not None:
            return word
    word = await upload.feed(writer.finish())
    return word if word is not None else await upload.finish()


@pytest.mark.parametrize("size", [0, 1, 3 * MIB, 16 * MIB, 37 * MIB])
async def test_a_stream_becomes_an_entry(s3_place: S3Place, size: int) -> None:
    if s3_place.server == "moto" and size > 16 * MIB:
        size = 17 * MIB
    tier = tier_at(s3_place)
    value = blob(size)
    assert await stream_into(tier, "key", value, 1 * MIB + 17) is None
    assert await tier.get("key") == value


@pytest.mark.s3("weed")
async def test_the_requests_of_a_stream(proxied_place: S3Place, s3_proxy: Proxy) -> None:
    tier = tier_at(proxied_place)
    await tier.prepare()
    s3_proxy.zero()
    assert await stream_into(tier, "small", blob(2 * MIB), MIB) is None
    assert s3_proxy.counts()["kinds"] == {"PutObject": 1}
    s3_proxy.zero()
    assert await stream_into(tier, "large", blob(40 * MIB), MIB) is None
    assert s3_proxy.counts()["kinds"] == {
        "CreateMultipartUpload": 1,
        "UploadPart": 3,
        "CompleteMultipartUpload": 1,
    }


@pytest.mark.s3("weed")
@pytest.mark.parametrize("kind", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
async def test_a_stream_that_fails_leaves_nothing(
    proxied_place: S3Place, s3_proxy: Proxy, s3_place: S3Place, kind: str
) -> None:
    tier = tier_at(proxied_place)
    await tier.prepare()
    s3_proxy.set("status", status=500, code="InternalError", kind=kind)
    assert await stream_into(tier, "key", blob(36 * MIB), MIB) == "unavailable"
    assert names_in(s3_place) == []
    if kind != "CreateMultipartUpload":
        while "AbortMultipartUpload" not in s3_proxy.counts()["kinds"]:
            await asyncio.sleep(0.02)
    where = {"Bucket": s3_place.bucket, "Prefix": s3_place.prefix}
    while s3_place.client.list_multipart_uploads(**where).get("Uploads"):
        await asyncio.sleep(0.02)  # the request is seen before the store has done it


@pytest.mark.s3("weed")
async def test_an_aborted_stream_answers_so_and_leaves_nothing(s3_place: S3Place) -> None:
    tier = tier_at(s3_place)
    upload = await tier.open_upload(key_bytes("key"), 7)
    assert isinstance(upload, S3Upload)
    assert await upload.feed(b"x" * 100) is None
    await upload.abort()
    await upload.abort()
    assert await upload.finish() == "aborted"
    assert names_in(s3_place) == []


@pytest.mark.s3("weed", "bare")
async def test_a_large_entry_comes_down_into_a_store(s3_place: S3Place, tmp_path: Path) -> None:
    tier = tier_at(s3_place)
    value = blob(30 * MIB)
    assert await tier.set("key", value)
    entry = await entry_of(tier, "key", index_only=True)
    store = _core.Store(str(tmp_path / "store"))
    incoming = store.incoming(entry.key, length=entry.length)
    assert isinstance(incoming, _core.Incoming)
    assert await tier.copy_to(entry, incoming) is None
    assert incoming.commit() is None
    found = store.fetch(entry.key)
    assert isinstance(found, _core.Entry) and found.value() == value
    assert found.token == entry.token
    store.close()


@pytest.mark.s3("weed")
async def test_what_shares_the_way_has_the_time_of_all_of_it(
    s3_place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = tier_at(s3_place)
    given: dict[str, list[float]] = {}
    for module in (uploads, streams, download):

        def call(seconds: float, name: str = module.__name__) -> lanes.Call:
            given.setdefault(name.rpartition(".")[2], []).append(seconds)
            return lanes.Call(seconds)

        monkeypatch.setattr(module, "Call", call)
    waits: list[float] = []
    real = http1.Connection.read_head

    def read_head(self: http1.Connection, call: lanes.Call, patience: float) -> http1.Head:
        waits.append(patience)
        return real(self, call, patience)

    monkeypatch.setattr(http1.Connection, "read_head", read_head)
    value = blob(50 * MIB)
    assert await tier.set("key", value)
    assert await tier.get("key") == value
    store = _core.Store(str(tmp_path / "store"))
    entry = await entry_of(tier, "key", index_only=True)
    incoming = store.incoming(entry.key, length=entry.length)
    assert isinstance(incoming, _core.Incoming)
    assert await tier.copy_to(entry, incoming) is None
    seconds = tier._client.seconds_for
    assert given.pop("upload")[:3] == [seconds(uploads.IN_FLIGHT * uploads.PART_BYTES)] * 3
    for times in given.values():
        assert times[:4] == [seconds(download.PARALLEL * download.RANGE_BYTES)] * 4
    assert set(given) == {"streams", "download"}
    # Of a part that was sent much may still lie in buffers.
    assert max(waits) == min(w for w in waits if w >= 2 * 60) + 4 * uploads.PART_BYTES / MIB
    incoming.abort()
    store.close()
    await tier.aclose()


class Sink:
    """A sink that takes so many writes and then says that it is full."""

    def __init__(self, most: int) -> None:
        self.data: dict[int, bytes] = {}
        self.most = most

    @property
    def written(self) -> list[tuple[int, int]]:
        return [(start, start + len(data)) for start, data in sorted(self.data.items())]

    def write_at(self, offset: int, data: bytes, /) -> str | None:
        if len(self.data) >= self.most:
            return "no-space"
        self.data[offset] = bytes(data)
        return None


@pytest.mark.s3("weed")
async def test_a_copy_goes_on_where_it_stopped(proxied_place: S3Place, s3_proxy: Proxy) -> None:
    tier = tier_at(proxied_place)
    assert await tier.set("key", blob(30 * MIB))
    whole = (await entry_of(tier, "key")).tobytes()
    entry = await entry_of(tier, "key", index_only=True)
    sink = Sink(3)
    assert await tier.copy_to(entry, sink) == "no-space"
    sink.most = 100
    before = set(sink.data)
    await asyncio.to_thread(wait_for_lanes)  # for what was on its way when there was no space
    assert set(sink.data) == before
    missing = list(missing_ranges(sink.written, entry.length, download.RANGE_BYTES))
    s3_proxy.zero()
    assert await tier.copy_to(entry, sink) is None
    assert b"".join(data for _, data in sorted(sink.data.items())) == whole
    assert s3_proxy.counts()["kinds"]["GetObject"] == len(missing)
    s3_proxy.set("status", status=503, code="SlowDown", kind="GetObject")
    assert await tier.copy_to(entry, Sink(100)) == "unavailable"
    s3_proxy.clear()
    await tier_at(proxied_place).set("key", blob(30 * MIB, 1))
    assert await tier.copy_to(entry, Sink(100)) == "changed"


@pytest.mark.s3("weed")
async def test_a_copy_is_written_while_it_is_in_the_processors_cache(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    """In pieces that are small and whole, also where an answer breaks off in the middle of one."""
    tier = tier_at(proxied_place)
    assert await tier.set("key", blob(20 * MIB))
    whole = (await entry_of(tier, "key")).tobytes()
    entry = await entry_of(tier, "key", index_only=True)
    s3_proxy.set("truncate", kind="GetObject", after=3 * MIB + 77_777, times=2)
    sink = Sink(100)
    assert await tier.copy_to(entry, sink) is None
    assert b"".join(data for _, data in sorted(sink.data.items())) == whole
    ends = {8 * MIB, 16 * MIB, entry.length - download.TAIL_BYTES, entry.length}
    for start, stop in sink.written:
        assert stop - start == streams._PIECE or (stop - start < streams._PIECE and stop in ends)
    assert tier._reads.resumes == 2


class BrokenSink(Sink):
    def write_at(self, offset: int, data: bytes, /) -> str | None:
        if self.data:
            raise ClosedError("closed meanwhile")
        return super().write_at(offset, data)


@pytest.mark.s3("weed")
async def test_what_a_sink_raises_is_no_fault_of_the_store(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = tier_at(proxied_place)
    assert await tier.set("key", blob(10 * MIB))
    entry = await entry_of(tier, "key", index_only=True)
    s3_proxy.zero()
    with pytest.raises(ClosedError, match="closed meanwhile"):
        await tier.copy_to(entry, BrokenSink(100))
    await asyncio.to_thread(wait_for_lanes)
    assert s3_proxy.counts()["kinds"]["GetObject"] <= 2  # one for each range
    assert tier._reads.resumes == 0 and tier.counters["errors"] == 0
    assert tier._client.bulk.breaker.state == "closed"


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6), st.integers(1, 30))
def test_what_is_missing_and_what_is_there_make_the_whole(
    pieces: list[tuple[int, int]], most: int
) -> None:
    there = {at for start, size in pieces for at in range(start, min(start + size, 50))}
    written = []
    for start, size in sorted(pieces):
        stop = min(start + size, 50)
        if stop > start:
            written.append((start, stop))
    found = list(missing_ranges(written, 50, most))
    assert all(0 < stop - start <= most for start, stop in found)
    missing = [at for start, stop in found for at in range(start, stop)]
    assert sorted(missing) == [at for at in range(50) if at not in there]
