"""The S3 tier after a part of something failed or was given up: nothing older comes back, nothing
newer is lost, and what is said of the tier is true.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.servers.fixtures import wait_for_lanes
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_cache import manager_over
from support_s3 import config_at, object_of, tier_at

from cogcache import FilesystemCacheConfig, S3CacheConfig
from cogcache.backends.faults import BusyError, MisconfiguredError
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.backends.s3.tier import S3Backend
from cogcache.keys import Key, key_bytes

pytestmark = pytest.mark.s3("weed")

MIB = 1 << 20
KEY = Key("prof", b"\x07" * 16, "transcript", {"model": "base"})


@pytest.fixture
async def tier(proxied_place: S3Place, s3_proxy: Proxy) -> S3Backend:
    tier = tier_at(proxied_place)
    await tier.prepare()
    s3_proxy.zero()
    return tier


# --- writes that were given up -----------------------------------------------------------------


async def a_held_put(tier: S3Backend, s3_proxy: Proxy, value: bytes) -> None:
    """Begin to write a value, and give it up when the request is on its way."""
    s3_proxy.set("hold", where="before", kind="PutObject", times=1)
    putting = asyncio.create_task(tier.set("key", value))
    await asyncio.to_thread(s3_proxy.wait_held)
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)


async def turn(tier: S3Backend) -> None:
    """Let everything that does not wait get on."""
    for n in range(3):
        await tier.exists(f"something else {n}")


async def test_a_put_that_was_cancelled_does_not_arrive_after_the_next_one(
    tier: S3Backend, s3_proxy: Proxy, s3_place: S3Place
) -> None:
    await a_held_put(tier, s3_proxy, b"old")
    putting = asyncio.create_task(tier.set("key", b"new"))
    await turn(tier)
    s3_proxy.release()
    assert await putting
    await asyncio.to_thread(wait_for_lanes)
    assert await tier_at(s3_place).get("key") == b"new"


async def test_a_put_that_was_cancelled_does_not_arrive_after_a_delete(
    tier: S3Backend, s3_proxy: Proxy, s3_place: S3Place
) -> None:
    await a_held_put(tier, s3_proxy, b"old")
    deleting = asyncio.create_task(tier.delete("key"))
    await turn(tier)
    s3_proxy.release()
    await deleting
    await asyncio.to_thread(wait_for_lanes)
    assert await tier_at(s3_place).get("key") is None


@pytest.mark.parametrize("pattern", [None, "key*"])
async def test_a_put_that_was_cancelled_does_not_arrive_after_everything_was_cleared(
    tier: S3Backend, s3_proxy: Proxy, s3_place: S3Place, pattern: str | None
) -> None:
    await a_held_put(tier, s3_proxy, b"old")
    clearing = asyncio.create_task(tier.clear(pattern))
    await turn(tier)
    s3_proxy.release()
    await clearing
    await asyncio.to_thread(wait_for_lanes)
    assert await tier_at(s3_place).get("key") is None


async def test_what_is_cleared_does_not_wait_for_writes_of_other_keys(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    assert await tier.set("other", "value")
    await a_held_put(tier, s3_proxy, b"old")
    assert await tier.clear("other*") == 1
    s3_proxy.release()


async def test_a_stream_that_was_cancelled_does_not_arrive_after_the_next_put(
    tier: S3Backend, s3_proxy: Proxy, s3_place: S3Place
) -> None:
    manager = manager_over(tier)
    s3_proxy.set("hold", where="before", kind="PutObject", times=1)
    putting = asyncio.create_task(manager.put_stream("key", b"old"))
    await asyncio.to_thread(s3_proxy.wait_held)
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)
    setting = asyncio.create_task(manager.put_stream("key", b"new"))
    await turn(tier)
    s3_proxy.release()
    assert (await setting).stored
    await asyncio.to_thread(wait_for_lanes)
    assert await tier_at(s3_place).get("key") == b"new"


async def test_that_no_thread_was_free_is_no_fault_of_the_store(
    tier: S3Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: Any, **__: Any) -> Any:
        raise BusyError("not asked: all 4 threads were busy")

    assert await tier.set("large", random.Random(1).randbytes(9 * MIB))
    monkeypatch.setattr(tier._client.work, "run", busy)
    assert await tier.fetch(key_bytes("large")) == "unavailable"
    assert (tier.counters["busy"], tier.counters["errors"]) == (1, 0)
    assert tier.last_fault is None


async def test_a_put_does_not_wait_for_ever_for_one_that_was_cancelled(
    tier: S3Backend, s3_proxy: Proxy, proxied_place: S3Place
) -> None:
    hasty = tier_at(proxied_place, timeout_seconds=0.5)
    hasty._abilities = tier._abilities
    await asyncio.to_thread(hasty._client.connect)
    await a_held_put(hasty, s3_proxy, b"old")
    while hasty._late._under_way:  # its own deadlines end it
        await hasty.set("key", b"new")
    s3_proxy.clear()
    assert await tier.set("other", b"value")


async def test_an_upload_is_not_given_up_while_it_is_being_completed(
    tier: S3Backend, s3_proxy: Proxy, s3_place: S3Place
) -> None:
    manager = manager_over(tier)
    value = random.Random(1).randbytes(36 * MIB)
    s3_proxy.set("hold", where="before", kind="CompleteMultipartUpload", times=1)
    putting = asyncio.create_task(manager.put_stream("large", value))
    await asyncio.to_thread(s3_proxy.wait_held)
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)
    while tier._client.work.describe()["under_way"] < 2:
        await asyncio.sleep(0)
    await turn(tier)
    assert "AbortMultipartUpload" not in s3_proxy.counts()["kinds"]
    s3_proxy.release()
    await asyncio.to_thread(wait_for_lanes)
    assert "AbortMultipartUpload" in s3_proxy.counts()["kinds"]
    assert await tier_at(s3_place).get("large") == value


# --- what the store refuses ---------------------------------------------------------------------


async def test_what_the_store_refuses_for_good_is_not_sent_again_and_holds_up_nothing(
    tier: S3Backend, s3_proxy: Proxy, proxied_place: S3Place, tmp_path: Path
) -> None:
    s3_proxy.set(
        "status", status=413, code="EntityTooLarge", kind="PutObject", path=object_of(tier, "key")
    )
    behind = S3Backend(config_at(proxied_place, write_mode="behind"))
    local = FilesystemCacheBackend(FilesystemCacheConfig(base_path=tmp_path))
    manager = manager_over(local, behind)
    for key in ("key", "one", "two"):
        assert (await manager.store(key, key)).later == ("S3Backend",)
    assert await manager.flush(60) == 0
    queue = (await manager.get_stats())["backends"]["S3Backend"]["queue"]
    assert (queue["refused"], queue["sent"], queue["retried"]) == (1, 2, 0)
    draft = tier.draft(key_bytes("key"), 1, ttl_ms=None)
    assert await tier.write(draft) == "refused"
    await manager.aclose()


async def test_a_damaged_object_that_another_host_wrote_is_replaced_by_who_missed_it_before(
    tier: S3Backend, s3_place: S3Place
) -> None:
    assert await tier.get(KEY) is None
    other = tier_at(s3_place)
    assert await other.set(KEY, "theirs")
    name = tier._names.of_key(KEY.encoded)
    s3_place.client.put_object(Bucket=s3_place.bucket, Key=name, Body=b"\0" * 500)
    tier._gone.clear()
    assert await tier.get(KEY) is None
    assert await tier.set(KEY, "mine")
    assert await tier_at(s3_place).get(KEY) == "mine"


async def test_statistics_that_failed_once_do_not_leave_the_tier_degraded(
    tier: S3Backend, s3_proxy: Proxy
) -> None:
    manager = manager_over(tier)
    s3_proxy.set("status", status=403, code="AccessDenied", kind="ListObjectsV2", times=1)
    assert (await manager.get_stats())["backends"]["S3Backend"]["state"] == "degraded"
    assert (await manager.get_stats())["backends"]["S3Backend"]["state"] == "works"


async def test_clearing_on_one_host_leaves_the_traces_that_others_rely_on(
    s3_place: S3Place,
) -> None:
    one, other = tier_at(s3_place), tier_at(s3_place)
    assert await one.write(one.draft(KEY.encoded, 1, ttl_ms=None), source=99) is None
    assert await other.clear() == 1
    assert await one.write(one.draft(KEY.encoded, 2, ttl_ms=None), source=99) is None
    assert [entry.key async for entry in other.scan(99)] == [KEY.encoded]


# --- deleting by the thousand ---------------------------------------------------------------------


class _Busy(BaseHTTPRequestHandler):
    """A store that deletes all but one of many, and that one when it is asked for alone."""

    denied = False
    alone: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        failed = re.findall("<Key>([^<]*)</Key>", body)[-1]
        error = f"<Error><Key>{failed}</Key><Code>InternalError</Code></Error>"
        self._answer(200, f"<DeleteResult>{error}</DeleteResult>")

    def do_DELETE(self) -> None:
        type(self).alone.append(self.path)
        error = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
        self._answer(403 if self.denied else 204, error if self.denied else "")

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def busy() -> Iterator[tuple[S3Backend, type[_Busy]]]:
    handler = type("Handler", (_Busy,), {"alone": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    yield (
        S3Backend(S3CacheConfig("bucket", endpoint_url=url, access_key="a", secret_key="s" * 8)),
        handler,
    )
    server.shutdown()
    server.server_close()
    thread.join()


async def test_what_was_not_deleted_with_others_is_deleted_alone(
    busy: tuple[S3Backend, type[_Busy]],
) -> None:
    tier, store = busy
    assert await tier._listing.delete(["one", "two", "three"]) == 3
    assert store.alone == ["/bucket/three"]


async def test_what_cannot_be_deleted_is_a_fault_and_not_just_a_smaller_number(
    busy: tuple[S3Backend, type[_Busy]],
) -> None:
    tier, store = busy
    store.denied = True
    with pytest.raises(MisconfiguredError, match="AccessDenied"):
        await tier._listing.delete(["one", "two", "three"])


@pytest.mark.s3("weed")
@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (409, "OperationAborted")])
@pytest.mark.parametrize("what", ["embeddings-", ".sources/"])
async def test_where_another_process_has_created_there_is_nothing_to_do(
    s3_place: S3Place, proxied_place: S3Place, s3_proxy: Proxy, what: str, status: int, code: str
) -> None:
    tier, other = tier_at(proxied_place), tier_at(s3_place)
    key, nobodys = (Key(None, bytes([n]) * 16, "embeddings", {}) for n in range(2))
    try:
        assert (await tier.prepare()).create_once
        assert await tier.get(key) is None
        s3_proxy.set("status", status=status, code=code, kind="PutObject", path=what)
        assert await tier.get(nobodys) is None
        assert not await tier.set(nobodys, b"mine")
        assert await other.set(key, b"theirs")
        assert await tier.set(key, b"mine")
        assert tier.counters["created_by_others"] == 1  # refused, or told by the store
        assert await tier.get(key) == b"theirs"
    finally:
        await tier.aclose()
        await other.aclose()
