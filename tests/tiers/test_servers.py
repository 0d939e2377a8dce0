"""The servers and the fault proxy that other tests stand on do what those rely on."""

import os
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from support.servers.redis import RedisServer
from support.servers.s3 import S3Place, S3Server


def status_of(call, **arguments) -> int:
    """The HTTP status that a boto3 call is answered with."""
    try:
        answer = call(**arguments)
    except ClientError as error:
        answer = error.response
    return answer["ResponseMetadata"]["HTTPStatusCode"]


def test_what_is_put_is_got_whole_and_in_ranges(s3_place: S3Place) -> None:
    s3, key = s3_place.client, {"Bucket": s3_place.bucket, "Key": f"{s3_place.prefix}/a"}
    s3.put_object(**key, Body=b"0123456789", Metadata={"token": "t"})

    answer = s3.get_object(**key)
    assert (answer["Body"].read(), answer["Metadata"]) == (b"0123456789", {"token": "t"})
    for wanted, content, span in (
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-99", b"0123456789", "bytes 0-9/10"),
    ):
        answer = s3.get_object(**key, Range=wanted)
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert (answer["Body"].read(), answer["ContentRange"]) == (content, span)
    assert status_of(s3.get_object, **key, Range="bytes=10-") == 416
    assert status_of(s3.get_object, **key, IfMatch='"other"') == 412
    assert status_of(s3.head_object, Bucket=key["Bucket"], Key=key["Key"] + "x") == 404


def test_redis_keeps_what_it_was_given(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        assert client.keys() == []
        client.set("a", b"\0\xff", px=60_000)
        assert client.get("a") == b"\0\xff"


@pytest.mark.parametrize(
    "options",
    [{"password": 'p "\\#é'}, {"tls": True, "password": "secret"}],
    ids=["password", "tls"],
)
def test_redis_asks_for_its_password(start_redis, options) -> None:
    import redis

    server = start_redis(**options)
    with server.client() as client:
        assert client.ping()
    with server.client(password="wrong") as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    trust = {"ssl_ca_certs": server.certificate.chain} if server.tls else {}
    with redis.Redis.from_url(server.url, **trust) as client:
        assert client.ping()


def test_redis_listens_on_a_unix_socket(redis_server: RedisServer) -> None:
    import redis

    with redis.Redis(unix_socket_path=redis_server.socket) as client:
        assert client.ping()


def test_a_full_redis_refuses_or_evicts_by_its_policy(start_redis) -> None:
    import redis

    with start_redis(maxmemory="4mb", policy="noeviction").client() as client:
        with pytest.raises(redis.OutOfMemoryError):
            for number in range(10):
                client.set(f"k{number}", bytes(1 << 20))
        assert client.dbsize() > 0
    with start_redis(maxmemory="4mb", policy="allkeys-lru").client() as client:
        for number in range(10):
            assert client.set(f"k{number}", bytes(1 << 20))
        assert 0 < client.dbsize() < 10


def test_a_killed_server_comes_back_where_it_was(start_s3, start_redis) -> None:
    weed = start_s3("weed")
    with weed.place() as place:
        key = {"Bucket": place.bucket, "Key": "kept"}
        place.client.put_object(**key, Body=b"kept")
        weed.kill()
        weed.restart()
        assert place.client.get_object(**key)["Body"].read() == b"kept"
    redis = start_redis(append_only=True)
    with redis.client() as client:
        client.set("kept", "kept")
        redis.kill()
        redis.restart()
        assert client.get("kept") == b"kept"


@pytest.mark.s3("weed")  # moto never looks; nothing about permission may be tested on it
def test_a_wrong_secret_is_refused(s3_server: S3Server) -> None:
    with s3_server.place().at(secret_key="wrong") as place:
        assert status_of(place.client.list_objects_v2, Bucket=place.bucket) == 403


def test_nothing_is_left_when_the_test_run_is_killed(tmp_path: Path) -> None:
    import signal
    import subprocess
    import sys

    script = (
        "import sys; from support.servers.redis import RedisServer\n"
        "server = RedisServer().start(); print(server.folder, *server.pids, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as run:
        folder, *pids = run.stdout.readline().decode().split()
        assert Path(folder).exists()
        run.send_signal(signal.SIGKILL)
    from support.servers.process import patiently

    for _ in patiently(30):
        if not Path(folder).exists():
            break
    assert not Path(folder).exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
