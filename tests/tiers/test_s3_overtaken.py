"""A put that the store takes without keeping it, because it has a newer object of that name: it is
judged by whose object is there, and nobody is told of a value that is not.

Swift answers such a put with 200 and a page, no ETag: its proxies stamp what they are given, and
its object servers keep what has the latest stamp.
"""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place, S3Server
from support.servers.swift import SwiftServer
from support_s3 import names_in, tier_at

from cogcache.backends.s3.tier import S3Backend
from cogcache.keys import Key

KEY = Key("prof", b"\7" * 16, "embeddings", {})
PAGE = "<html><h1>Accepted</h1><p>The request is accepted for processing.</p></html>"
OVERTAKEN = {"status": 200, "page": PAGE, "kind": "PutObject"}
SENDERS = pytest.mark.parametrize("direct", [True, False], ids=["directly", "boto3"])


async def a_tier(place: S3Place, proxy: Proxy, direct: bool) -> S3Backend:
    """A tier that knows its store, and has nothing to ask but what it is asked for."""
    tier = tier_at(place, direct_requests=direct)
    await tier.prepare()
    proxy.zero()
    return tier


def kinds(proxy: Proxy) -> dict[str, int]:
    counts: dict[str, int] = proxy.counts()["kinds"]
    return counts


@pytest.mark.s3("weed", "bare")
@SENDERS
async def test_what_fills_a_miss_leaves_the_newer_object_of_another(
    proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy, direct: bool
) -> None:
    tier = await a_tier(proxied_place, s3_proxy, direct)
    assert await tier.get(KEY) is None
    assert await tier_at(s3_place).set(KEY, b"theirs")
    assert await tier.set(Key("prof", b"\7" * 16, "transcript", {}), b"leaves the trace")
    s3_proxy.zero()
    s3_proxy.set("status", **OVERTAKEN)
    assert await tier.set(KEY, b"mine")
    assert kinds(s3_proxy) == {"PutObject": 1, "HeadObject": 1}
    assert tier.counters["created_by_others"] == 1
    assert await tier.get(KEY) == b"theirs"
    assert tier._client.small.breaker.state == "closed"
    assert tier.last_fault is None


@pytest.mark.s3("weed")
@SENDERS
async def test_what_fills_a_miss_is_sent_again_where_there_is_nothing(
    proxied_place: S3Place, s3_proxy: Proxy, direct: bool
) -> None:
    tier = await a_tier(proxied_place, s3_proxy, direct)
    assert await tier.get(KEY) is None
    s3_proxy.set("status", **OVERTAKEN, path="embeddings", times=1)  # by a removal
    assert await tier.set(KEY, b"mine")
    assert tier.counters["created_by_others"] == 0
    assert await tier.get(KEY) == b"mine"


@pytest.mark.s3("weed")
@SENDERS
async def test_what_replaces_is_sent_again_until_it_is_the_newest(
    proxied_place: S3Place, s3_proxy: Proxy, direct: bool
) -> None:
    tier = await a_tier(proxied_place, s3_proxy, direct)
    assert await tier.set("key", b"older")
    s3_proxy.zero()
    s3_proxy.set("status", **OVERTAKEN, times=1)
    assert await tier.set("key", b"mine")
    assert kinds(s3_proxy) == {"PutObject": 2, "HeadObject": 1}
    assert await tier.get("key") == b"mine"


@pytest.mark.s3("weed")
@SENDERS
async def test_what_never_becomes_the_newest_is_not_said_to_be_stored(
    proxied_place: S3Place, s3_proxy: Proxy, direct: bool
) -> None:
    tier = await a_tier(proxied_place, s3_proxy, direct)
    assert await tier.set("key", b"theirs")
    s3_proxy.set("status", **OVERTAKEN)
    assert not await tier.set("key", b"mine")
    assert not await tier.set("nothing", b"mine")
    s3_proxy.clear()
    assert await tier.get("key") == b"theirs"
    assert await tier.get("nothing") is None
    assert tier._client.small.breaker.state == "closed", "the store works"


@pytest.mark.s3("weed")
@SENDERS
async def test_what_is_kept_although_the_answer_does_not_say_so_is_stored(
    proxied_place: S3Place, s3_proxy: Proxy, direct: bool
) -> None:
    tier = await a_tier(proxied_place, s3_proxy, direct)
    s3_proxy.set("status", **OVERTAKEN, committed=True)
    for key in ("key", KEY):
        assert await tier.get(key) is None
        assert await tier.set(key, b"mine")
    assert kinds(s3_proxy)["PutObject"] == 3  # of them one the trace of the video
    assert tier.counters["created_by_others"] == 0
    assert await tier.get("key") == await tier.get(KEY) == b"mine"


@pytest.mark.s3("weed")
@SENDERS
async def test_a_store_that_never_says_what_it_keeps_can_be_used(
    proxied_place: S3Place, s3_proxy: Proxy, direct: bool
) -> None:
    s3_proxy.set("header", headers={"ETag": None}, kind="PutObject")
    tier = tier_at(proxied_place, direct_requests=direct)
    await tier.prepare()
    for key in ("key", KEY):
        assert await tier.set(key, b"older") and await tier.set(key, b"newer")
        assert await tier.get(key) == b"newer"


@pytest.mark.s3("weed")
@pytest.mark.parametrize("removed", [False, True])
async def test_the_trace_of_a_video_is_there_whoever_left_it(
    proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy, removed: bool
) -> None:
    tier = await a_tier(proxied_place, s3_proxy, True)
    if not removed:
        assert await tier_at(s3_place).set(KEY, b"leaves the trace, too")
    s3_proxy.set("status", **OVERTAKEN, path=".sources/", times=1)
    other = Key("prof", b"\7" * 16, "transcript", {})
    assert await tier.set(other, b"mine")
    assert kinds(s3_proxy) == {"PutObject": 3 if removed else 2, "HeadObject": 1}
    assert [name for name in names_in(s3_place) if "/.sources/" in name]
    assert await tier.get(other) == b"mine"


@pytest.mark.s3("swift")
async def test_swift_keeps_what_has_the_later_stamp_and_says_so_with_a_page(
    s3_server: S3Server, proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    assert isinstance(s3_server, SwiftServer)
    tier = tier_at(proxied_place)
    name = tier._names.of_key(KEY.encoded)
    assert await tier.get(KEY) is None
    body = tier.draft(KEY.encoded, b"theirs", ttl_ms=None).compose().tobytes()
    s3_server.put_stamped(proxied_place.bucket, name, body, time.time() + 3600)
    assert await tier.set(KEY, b"mine!!")
    asked = [one for one in s3_proxy.requests() if one["path"].endswith("/" + quote(name))]
    asked = [one for one in asked if one["kind"] in ("PutObject", "HeadObject")]
    assert [(one["kind"], one["status"]) for one in asked] == [
        ("PutObject", 200),
        ("HeadObject", 200),
    ]
    assert asked[0]["tag"] is None
    assert tier.counters["created_by_others"] == 1
    assert await tier.get(KEY) == b"theirs"
    assert not await tier.set(KEY, b"newer"), "which replaces, but is not the newest"
    assert await tier.get(KEY) == b"theirs"
