"""The servers and the fault proxy that other tests stand on do what those rely on."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from botocore.exceptions import ClientError
from support.servers import fixtures, process
from support.servers.process import Server
from support.servers.redis import RedisServer
from support.servers.s3 import BareServer, S3Place, S3Server, SeaweedServer


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
    assert answer["Body"].read() == b"0123456789"
    # In the spelling of the store.
    assert {name.lower(): value for name, value in answer["Metadata"].items()} == {"token": "t"}
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
    assert status_of(s3.head_object, Bucket=key["Bucket"], Key=key["Key"] + "x") == 404


# What a store answers is probed, never looked up; here are four families that answer differently.
ANSWERS = {
    #                weed, swift, moto, bare
    "several ranges": (200, 206, 200, 200),
    "create over": (412, 501, 412, 200),
    "replace another": (412, 501, 412, 200),
    "get another": (412, 412, 412, 200),
    "small first part": (400, 400, 400, 400),
    "complete over": (412, 412, 412, 200),
    "complete twice": (200, 200, 200, 404),
    "abort twice": (204, 404, 404, 404),
    "wrong CRC32": (400, 200, 200, 200),
    "tags": (200, 501, 200, 501),
    "metadata of 1 KB": (200, 500, 200, 200),
    "segment of 256 bytes": (400, 200, 200, 200),
    "absent bucket": (404, 404, 404, 404),
}


def answers(place: S3Place) -> dict[str, int]:
    # Swift closes the connection, unannounced, when it has refused a body it had not read.
    s3 = place.make_client(retries={"total_max_attempts": 3})
    key = {"Bucket": place.bucket, "Key": f"{place.prefix}/a"}
    s3.put_object(**key, Body=b"0123456789")

    def upload(*bodies: bytes) -> tuple[dict, dict]:
        named = {**key, "UploadId": s3.create_multipart_upload(**key)["UploadId"]}
        parts = [
            {
                "PartNumber": number,
                "ETag": s3.upload_part(**named, PartNumber=number, Body=body)["ETag"],
            }
            for number, body in enumerate(bodies, 1)
        ]
        return named, {"Parts": parts}

    found = {}
    found["several ranges"] = status_of(s3.get_object, **key, Range="bytes=0-1,4-5")
    found["create over"] = status_of(s3.put_object, **key, Body=b"x", IfNoneMatch="*")
    found["replace another"] = status_of(s3.put_object, **key, Body=b"x", IfMatch='"other"')
    found["get another"] = status_of(s3.get_object, **key, IfMatch='"other"')
    named, parts = upload(b"small", b"last")
    found["small first part"] = status_of(
        s3.complete_multipart_upload, **named, MultipartUpload=parts
    )
    s3.abort_multipart_upload(**named)
    found["abort twice"] = status_of(s3.abort_multipart_upload, **named)
    named, parts = upload(b"only")
    found["complete over"] = status_of(
        s3.complete_multipart_upload, **named, MultipartUpload=parts, IfNoneMatch="*"
    )
    kept = s3.get_object(**key)["Body"].read() == b"0123456789"
    assert kept == (found["create over"] != 200)
    named, parts = upload(b"only")
    s3.complete_multipart_upload(**named, MultipartUpload=parts)
    found["complete twice"] = status_of(
        s3.complete_multipart_upload, **named, MultipartUpload=parts
    )
    found["wrong CRC32"] = status_of(s3.put_object, **key, Body=b"x", ChecksumCRC32="AAAAAA==")
    found["tags"] = status_of(
        s3.put_object_tagging, **key, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}
    )
    found["metadata of 1 KB"] = status_of(s3.put_object, **key, Metadata={"a": "b" * 1024})
    found["segment of 256 bytes"] = status_of(
        s3.put_object, Bucket=place.bucket, Key=f"{place.prefix}/{'n' * 256}"
    )
    found["absent bucket"] = status_of(s3.head_object, Bucket=place.bucket + "x", Key="a")
    s3.close()
    return found


def test_each_family_of_stores_has_its_own_answers(s3_place: S3Place) -> None:
    column = ("weed", "swift", "moto", "bare").index(s3_place.server)
    assert answers(s3_place) == {name: row[column] for name, row in ANSWERS.items()}


def test_listings_are_paged(s3_place: S3Place) -> None:
    s3, prefix = s3_place.client, s3_place.prefix
    for number in range(5):
        s3.put_object(Bucket=s3_place.bucket, Key=f"{prefix}/{number}")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=s3_place.bucket, Prefix=prefix + "/", PaginationConfig={"PageSize": 2}
    )
    names = [[item["Key"][len(prefix) + 1 :] for item in page["Contents"]] for page in pages]
    assert names == [["0", "1"], ["2", "3"], ["4"]]


def test_over_tls_boto3_sends_chunks_that_not_every_store_takes(
    tls_place: S3Place, s3_place: S3Place
) -> None:
    s3 = tls_place.make_client(
        request_checksum_calculation="when_supported", retries={"total_max_attempts": 2}
    )
    key = {"Bucket": s3_place.bucket, "Key": f"{s3_place.prefix}/a"}
    status = status_of(s3.put_object, **key, Body=b"over TLS")
    assert status == (501 if s3_place.server == "swift" else 200)
    status = status_of(s3.put_object, **key, Body=b"over TLS", ChecksumCRC32="XVOMPA==")
    assert status == 200
    assert s3_place.client.get_object(**key)["Body"].read() == b"over TLS"
    s3.close()


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
    server = start_redis(**options)
    with server.client() as client:
        assert client.ping()
    with server.client(password="wrong") as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    trust = {"ssl_ca_certs": server.certificate.chain} if server.tls else {}
    with redis.Redis.from_url(server.url, **trust) as client:
        assert client.ping()


def test_redis_listens_on_a_unix_socket(redis_server: RedisServer) -> None:
    with redis.Redis(unix_socket_path=redis_server.socket) as client:
        assert client.ping()


def test_a_full_redis_refuses_or_evicts_by_its_policy(start_redis) -> None:
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
    server = start_redis(append_only=True)
    with server.client() as client:
        client.set("kept", "kept")
        server.kill()
        server.restart()
        assert client.get("kept") == b"kept"


@pytest.mark.s3("weed", "swift")  # moto never looks; nothing about permission may be tested on it
def test_a_wrong_secret_is_refused(s3_server: S3Server) -> None:
    with s3_server.place().at(secret_key="wrong") as place:
        assert status_of(place.client.list_objects_v2, Bucket=place.bucket) == 403


@pytest.mark.parametrize("make", [SeaweedServer, BareServer, RedisServer])
def test_a_port_that_is_taken_meanwhile_is_not_the_end(monkeypatch, make) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        taken = [other.getsockname()[1]]
        free = process.free_port
        monkeypatch.setattr(process, "free_port", lambda: taken.pop() if taken else free())
        with make() as server:
            assert not taken
            assert server.answers()
            assert other.getsockname()[1] not in server.ports.values()


def test_a_server_that_cannot_start_says_what_it_logged(monkeypatch) -> None:
    server = RedisServer(policy="no-such-policy")
    with pytest.raises(process.NotStarted, match=r"(?s)redis-server ended.*no-such-policy"):
        server.start()
    assert not server.folder.exists()


def test_a_missing_program_fails_unless_it_was_left_out(monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(pytest.fail.Exception, match="redis-server is not installed"):
        fixtures.started(RedisServer(), "redis")
    monkeypatch.setenv("COGCACHE_TEST_WITHOUT", "swift, redis")
    with pytest.raises(pytest.skip.Exception, match="names redis"):
        fixtures.started(RedisServer(), "redis")


def test_a_frozen_server_takes_connections_and_is_silent(start_redis) -> None:
    server = start_redis()
    server.freeze()
    with server.client(socket_timeout=0.2) as client:
        with pytest.raises(redis.TimeoutError):
            client.ping()
    server.thaw()
    with server.client() as client:
        assert client.ping()


def test_a_server_is_up_again_for_the_next_test(shared_servers) -> None:
    for harm in (Server.kill, Server.stop, Server.freeze):
        harm(shared_servers.get("redis", RedisServer))
        assert shared_servers.get("redis", RedisServer).answers()


def test_nothing_is_left_when_the_test_run_is_killed(tmp_path: Path) -> None:
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
    for _ in process.patiently(30):
        if not Path(folder).exists():
            break
    assert not Path(folder).exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
