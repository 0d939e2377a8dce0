"""Objects are read and written over connections of our own where that is possible, and by boto3
where it is not: nobody can tell but by the time it takes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.servers.fixtures import wait_for_lanes
from support.servers.proxy import Proxy
from support.servers.s3 import S3Place
from support_s3 import tier_at

from cogcache.backends.s3 import http1
from cogcache.backends.s3.direct import MISTRUSTED
from cogcache.backends.s3.tier import S3Backend
from cogcache.keys import key_bytes

MIB = 1 << 20
ONE = pytest.mark.s3("weed")


def blob(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def taught(place: S3Place, **options: Any) -> S3Backend:
    """A tier that has learnt where requests go, and that nothing was asked of since."""
    tier = tier_at(place, **{"direct_requests": True, **options})
    assert await tier.set("first", "value")
    return tier


def direct(tier: S3Backend) -> int:
    return tier._client.direct_answers


def sent(tier: S3Backend) -> int:
    """Requests that may be sent directly, whoever sent them."""
    names = ("get_object", "put_object", "upload_part")
    return sum(tier._client.requests.get(name, 0) for name in names)


# --- which requests ----------------------------------------------------------------------------


async def test_values_of_every_size_go_and_come_directly(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = await taught(proxied_place)
    before, boto3s = direct(tier), sent(tier) - direct(tier)
    for size in (0, 1024, 100 * 1024, 3 * MIB, 20 * MIB):
        assert await tier.set(f"blob:{size}", blob(size))
        assert await tier.get(f"blob:{size}") == blob(size)
    assert await tier.get("absent") is None
    assert sent(tier) - direct(tier) == boto3s
    assert direct(tier) >= before + 5 + 1 + 5 + 3 + 1
    assert (await tier.usage())["direct_answers"] == direct(tier)
    assert s3_proxy.counts()["errors"] == 0


@ONE
async def test_names_may_hold_anything(s3_place: S3Place) -> None:
    tier = await taught(s3_place, prefix="/ü b+c%2F~*'()")
    before = direct(tier)
    for key in ("a b/ü+~*'()%2F?&=", "x" * 300):
        assert await tier.set(key, key) and await tier.get(key) == key
    assert direct(tier) == before + 4


@ONE
async def test_turned_off_all_is_boto3s(s3_place: S3Place) -> None:
    tier = await taught(s3_place, direct_requests=False)
    assert await tier.get("first") == "value"
    assert direct(tier) == 0


@ONE
async def test_behind_a_proxy_all_is_boto3s(
    s3_place: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server takes requests that are meant for a proxy, if they are for itself.
    monkeypatch.setenv("http_proxy", s3_place.endpoint_url)
    monkeypatch.delenv("no_proxy", raising=False)
    tier = await taught(s3_place)
    assert await tier.get("first") == "value"
    assert direct(tier) == 0
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    tier = await taught(s3_place)
    assert await tier.get("first") == "value"
    assert direct(tier) > 0


@ONE
@pytest.mark.parametrize("signed", [True, False])
async def test_payloads_are_signed_as_they_are_by_boto3(s3_place: S3Place, signed: bool) -> None:
    tier = await taught(s3_place, sign_payloads=signed)
    before = direct(tier)
    assert await tier.set("large", blob(20 * MIB)) and await tier.get("large") == blob(20 * MIB)
    assert direct(tier) > before + 3


@ONE
async def test_over_tls_it_trusts_whom_boto3_trusts(
    tls_place: S3Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert tls_place.secure is not None
    monkeypatch.setenv("AWS_CA_BUNDLE", tls_place.secure)
    tier = await taught(tls_place)
    before = direct(tier)
    for size in (1024, 20 * MIB):
        assert await tier.set("blob", blob(size)) and await tier.get("blob") == blob(size)
    assert direct(tier) > before + 6
    monkeypatch.delenv("AWS_CA_BUNDLE")
    stranger = tier_at(tls_place)
    assert await stranger.fetch(key_bytes("blob")) == "unavailable"
    assert "AWS_CA_BUNDLE" in caplog.text


# --- what boto3 is asked again -----------------------------------------------------------------


@ONE
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (301, "PermanentRedirect"),
        (307, "TemporaryRedirect"),
        (400, "AuthorizationHeaderMalformed"),
        (403, "RequestTimeTooSkewed"),
        (403, "SignatureDoesNotMatch"),
        (404, ""),
        (429, "TooManyRequests"),
        (500, "InternalError"),
        (503, "SlowDown"),
    ],
)
async def test_what_is_not_plain_is_asked_again_by_boto3(
    proxied_place: S3Place, s3_proxy: Proxy, status: int, code: str
) -> None:
    tier = await taught(proxied_place)
    for kind, work in (("GetObject", tier.get("first")), ("PutObject", tier.set("second", 2))):
        before = direct(tier)
        s3_proxy.zero()
        s3_proxy.set("status", status=status, code=code, kind=kind, times=1)
        assert await work in ("value", True)
        assert s3_proxy.counts()["kinds"] == {kind: 2}
        assert direct(tier) == before
    assert await tier.get("second") == 2
    assert direct(tier) > before
    assert tier._client.small.breaker.state == "closed"


@ONE
@pytest.mark.parametrize("fault", ["drop", "lost_answer", "cut"])
async def test_a_broken_connection_is_a_second_try_of_boto3(
    proxied_place: S3Place, s3_proxy: Proxy, fault: str
) -> None:
    tier = await taught(proxied_place)
    s3_proxy.zero()
    s3_proxy.set(fault, kind="GetObject", times=1, **({"after": 5} if fault == "cut" else {}))
    assert await tier.get("first") == "value"
    assert s3_proxy.counts()["kinds"] == {"GetObject": 2}


@ONE
async def test_where_only_boto3_gets_answers_only_it_is_asked(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = await taught(proxied_place)
    for _ in range(MISTRUSTED):
        s3_proxy.set("status", status=403, code="AccessDenied", kind="GetObject", times=1)
        assert await tier.get("first") == "value"
    before = direct(tier)
    s3_proxy.zero()
    assert await tier.get("first") == "value"
    assert direct(tier) == before
    assert s3_proxy.counts()["kinds"] == {"GetObject": 1}


@ONE
async def test_a_success_that_says_an_error_is_none(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = await taught(proxied_place)
    s3_proxy.zero()
    s3_proxy.set("status", status=200, code="InternalError", kind="PutObject", times=1)
    assert await tier.set("key", "value")
    assert s3_proxy.counts()["kinds"] == {"PutObject": 2}
    assert await tier.get("key") == "value"


@ONE
async def test_a_connection_that_the_server_ended_is_replaced_and_nobody_sees(
    proxied_place: S3Place, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "LOOK_SECONDS", 0.0)
    tier = await taught(proxied_place)
    assert await tier.get("first") == "value"
    s3_proxy.zero()
    before = direct(tier)
    way = tier._client._direct._way if tier._client._direct is not None else None
    assert way is not None
    for _ in range(3):
        s3_proxy.drop()
        while way[2]._idle[-1].is_open():  # until the news is here
            await asyncio.sleep(0.005)
        assert await tier.get("first") == "value"
    assert s3_proxy.counts()["kinds"] == {"GetObject": 3}
    assert direct(tier) == before + 3


@ONE
async def test_one_connection_is_enough_for_reads_one_after_the_other(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = await taught(proxied_place)
    assert await tier.get("first") == "value"
    s3_proxy.zero()
    for number in range(20):
        assert await tier.get("first" if number % 2 else f"absent:{number}") in ("value", None)
    assert s3_proxy.counts()["connections"] == 0
    await tier.aclose()


# --- credentials -------------------------------------------------------------------------------


@ONE
async def test_each_request_is_signed_with_the_credentials_of_now(
    s3_place: S3Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "cogcache")
    said = tmp_path / "credentials.json"

    def provide(secret: str) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
        given = {"Version": 1, "AccessKeyId": s3_place.access_key, "SecretAccessKey": secret}
        said.write_text(json.dumps(given | {"Expiration": moment}))  # so soon: asked for each time

    command = f"{sys.executable} -S -c \"print(open('{said}').read())\""
    config = tmp_path / "config"
    config.write_text(f"[profile test]\nregion = us-east-1\ncredential_process = {command}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    provide(s3_place.secret_key)
    tier = await taught(s3_place, access_key=None, secret_key=None, profile="test")
    before = direct(tier)
    assert await tier.get("first") == "value"
    assert direct(tier) == before + 1
    provide("not-the-secret")
    assert await tier.fetch(key_bytes("first")) == "unavailable"
    assert tier._client.small.breaker.state == "configuration"
    assert direct(tier) == before + 1
    provide(s3_place.secret_key)
    tier._client.small.breaker._next_probe = 0.0
    assert await tier.get("first") == "value"
    assert direct(tier) == before + 2
    shown = caplog.text + repr(vars(tier._client)) + repr(vars(tier._client._direct))
    assert "not-the-secret" not in shown and s3_place.secret_key not in shown


# --- nobody waits any more ---------------------------------------------------------------------


@ONE
async def test_a_read_that_nobody_waits_for_ends_its_connection_and_is_no_fault(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = await taught(proxied_place)
    s3_proxy.set("hold", where="after", kind="GetObject")
    for _ in range(8):
        reading = asyncio.create_task(tier.fetch(key_bytes("first")))
        await asyncio.to_thread(s3_proxy.wait_held)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        while tier._client.small.describe()["under_way"]:  # its thread ends though nothing came
            await asyncio.sleep(0.005)
        s3_proxy.release()
    s3_proxy.clear()
    assert await tier.get("first") == "value"
    assert sum(bucket[2] for bucket in tier._client.small.breaker._window) == 0


# --- bodies that boto3 sends -------------------------------------------------------------------


@ONE
async def test_a_body_that_boto3_sends_may_take_longer_than_to_connect(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = tier_at(proxied_place, direct_requests=False, timeout_seconds=2.5)  # 1 s to connect
    tier._abilities = await tier_at(proxied_place).prepare()
    sender = tier._client._variant("bulk", 0, carries=True)
    heads: list[dict[str, Any]] = []
    sender.meta.events.register_last(
        "before-send.s3", lambda request, **_: heads.append(dict(request.headers))
    )
    # At most 10 MiB are in buffers of the way, so the rest takes 1.5 s.
    s3_proxy.set("rate_upload", kind="PutObject", bytes_per_second=4 * MIB)
    assert await tier.set("slow", blob(16 * MIB - 10_000))
    s3_proxy.clear()
    assert await tier_at(proxied_place).get("slow") == blob(16 * MIB - 10_000)
    assert heads and not any("Expect" in head for head in heads)


@ONE
async def test_a_body_that_nobody_waits_for_is_sent_no_further_by_boto3(
    proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    tier = tier_at(proxied_place, direct_requests=False)
    await tier.prepare()
    s3_proxy.zero()
    before = tier._client.requests["put_object"]
    s3_proxy.set("rate_upload", kind="PutObject", bytes_per_second=3 * MIB)
    setting = asyncio.create_task(tier.set("large", blob(16 * MIB - 10_000)))
    while not s3_proxy.counts()["bytes_up"]:
        await asyncio.sleep(0.005)
    setting.cancel()
    await asyncio.gather(setting, return_exceptions=True)
    await asyncio.to_thread(wait_for_lanes)
    assert "PutObject" not in s3_proxy.counts()["kinds"]  # none that came whole
    assert tier._client.requests["put_object"] == before + 1
    assert sum(bucket[2] for bucket in tier._client.bulk.breaker._window) == 0
    assert await tier.get("large") is None
