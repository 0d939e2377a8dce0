"""Each fault of the proxy is really seen by a plain client, and what passes is counted."""

import socket
import threading

import pytest
import redis
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from support.servers.proxy import Proxy
from support.servers.redis import RedisServer
from support.servers.s3 import S3Place

BODY = bytes(range(256)) * 1024

pytestmark = pytest.mark.s3("weed")


@pytest.fixture
def key(s3_place: S3Place) -> dict[str, str]:
    """The name of an object that is there."""
    key = {"Bucket": s3_place.bucket, "Key": f"{s3_place.prefix}/a"}
    s3_place.client.put_object(**key, Body=BODY)
    return key


def got(s3, key, **arguments) -> bytes:
    return s3.get_object(**key, **arguments)["Body"].read()


def test_who_asks_after_the_end_of_its_test_is_not_heard(
    proxied_place: S3Place, s3_proxy: Proxy, key
) -> None:
    """A thread of a client that was given up, before its next try."""
    late = proxied_place.client
    assert got(late, key) == BODY
    s3_proxy.set("status", status=503)
    s3_proxy.begin()
    # Nobody listens there, or the last who did had not been asked yet when it stopped.
    with pytest.raises((EndpointConnectionError, ConnectionClosedError)):
        got(late, key)
    assert s3_proxy.requests() == [] and s3_proxy.counts()["connections"] == 0
    with proxied_place.at(endpoint_url=s3_proxy.endpoint_url) as place:
        assert got(place.client, key) == BODY
    assert s3_proxy.counts()["requests"] == 1


@pytest.mark.s3("weed", "moto")
def test_without_faults_all_passes_and_is_counted(
    proxied_place: S3Place, s3_proxy: Proxy, key
) -> None:
    s3 = proxied_place.client
    s3.put_object(**key, Body=BODY + b"more")
    assert got(s3, key, Range="bytes=-4") == b"more"
    assert got(s3, key) == BODY + b"more"
    with pytest.raises(ClientError):
        s3.head_object(Bucket=key["Bucket"], Key="absent")

    counts = s3_proxy.counts()
    assert counts["kinds"] == {"PutObject": 1, "GetObject": 2, "HeadObject": 1}
    assert counts["requests"] == 4
    assert counts["bytes_up"] == len(BODY) + 4
    assert counts["body_down"]["GetObject"] == len(BODY) + 8
    assert counts["bytes_down"] > len(BODY) + 8
    assert counts["errors"] == 0
    wanted = [(request["range"], request["status"]) for request in s3_proxy.requests()]
    assert wanted == [(None, 200), ("bytes=-4", 206), (None, 200), (None, 404)]


def test_the_operations_of_s3_are_told_apart(proxied_place: S3Place, s3_proxy: Proxy, key) -> None:
    s3, bucket = proxied_place.client, {"Bucket": key["Bucket"]}
    upload = {**key, "UploadId": s3.create_multipart_upload(**key)["UploadId"]}
    part = s3.upload_part(**upload, PartNumber=1, Body=b"x")
    s3.list_parts(**upload)
    s3.list_multipart_uploads(**bucket)
    parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
    s3.complete_multipart_upload(**upload, MultipartUpload=parts)
    upload["UploadId"] = s3.create_multipart_upload(**key)["UploadId"]
    s3.abort_multipart_upload(**upload)
    s3.list_objects_v2(**bucket)
    s3.copy_object(**bucket, Key="copy", CopySource=key)
    s3.delete_objects(**bucket, Delete={"Objects": [{"Key": "copy"}]})
    s3.delete_object(**key)
    s3.head_bucket(**bucket)
    assert [request["kind"] for request in s3_proxy.requests()] == [
        "CreateMultipartUpload",
        "UploadPart",
        "ListParts",
        "ListMultipartUploads",
        "CompleteMultipartUpload",
        "CreateMultipartUpload",
        "AbortMultipartUpload",
        "ListObjectsV2",
        "CopyObject",
        "DeleteObjects",
        "DeleteObject",
        "HeadBucket",
    ]


def test_faults_meet_only_what_they_are_meant_for(
    proxied_place: S3Place, s3_proxy: Proxy, key
) -> None:
    s3 = proxied_place.client

    def statuses(count: int) -> list[int]:
        s3_proxy.zero()
        for _ in range(count):
            try:
                s3.get_object(**key)["Body"].read()
            except ClientError as error:
                assert error.response["Error"]["Code"] == "SlowDown"
        return [request["status"] for request in s3_proxy.requests()]

    number = s3_proxy.set("status", status=503, kind="GetObject", skip=1, times=2)
    s3.put_object(**key, Body=BODY)
    assert statuses(4) == [200, 503, 503, 200]
    s3_proxy.clear(number)
    s3_proxy.set("status", status=503, every=3)
    assert statuses(5) == [503, 200, 200, 503, 200]
    s3_proxy.clear()
    s3_proxy.set("status", status=503, path="elsewhere")
    assert statuses(2) == [200, 200]


def test_connections_end_where_they_should(proxied_place: S3Place, s3_proxy: Proxy, key) -> None:
    s3 = proxied_place.client
    s3_proxy.set("cut", after=60_000, kind="GetObject")
    with pytest.raises(HTTPClientError):
        got(s3, key)
    s3_proxy.clear()
    s3_proxy.set("truncate", after=1000, kind="GetObject")
    body = s3.get_object(**key)["Body"]
    assert body.read(1000) == BODY[:1000]
    with pytest.raises(ResponseStreamingError):
        body.read()
    body.close()
    s3_proxy.clear()
    s3_proxy.set("drop", kind="GetObject", how="close")
    with pytest.raises(HTTPClientError):
        got(s3, key)
    s3_proxy.clear()
    s3_proxy.set("cut_upload", after=1000)
    with pytest.raises(HTTPClientError):
        s3.put_object(**key, Body=b"new" * 100_000)
    s3_proxy.clear()
    assert got(s3, key) == BODY


def test_a_lost_answer_comes_after_the_server_has_done_it(
    proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy, key
) -> None:
    s3_proxy.set("lost_answer", kind="PutObject", times=1)
    with pytest.raises(HTTPClientError):
        proxied_place.client.put_object(**key, Body=b"committed")
    assert got(s3_place.client, key) == b"committed"

    s3_proxy.set("lost_answer", kind="CompleteMultipartUpload", times=1)
    s3 = proxied_place.client
    upload = {**key, "UploadId": s3.create_multipart_upload(**key)["UploadId"]}
    tag = s3.upload_part(**upload, PartNumber=1, Body=b"parts")["ETag"]
    with pytest.raises(HTTPClientError):
        s3.complete_multipart_upload(
            **upload, MultipartUpload={"Parts": [{"ETag": tag, "PartNumber": 1}]}
        )
    assert got(s3_place.client, key) == b"parts"


@pytest.mark.parametrize("committed", [False, True])
def test_complete_answers_200_with_an_error_in_it(
    proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy, key, committed
) -> None:
    s3 = proxied_place.client
    s3_proxy.set("status", status=200, kind="CompleteMultipartUpload", committed=committed)
    upload = {**key, "UploadId": s3.create_multipart_upload(**key)["UploadId"]}
    tag = s3.upload_part(**upload, PartNumber=1, Body=b"parts")["ETag"]
    # botocore makes a 500 of such an answer.
    with pytest.raises(ClientError, match="InternalError"):
        s3.complete_multipart_upload(
            **upload, MultipartUpload={"Parts": [{"ETag": tag, "PartNumber": 1}]}
        )
    assert got(s3_place.client, key) == (b"parts" if committed else BODY)


def test_answers_lie(proxied_place: S3Place, s3_proxy: Proxy, key) -> None:
    s3 = proxied_place.client
    other = {**key, "Key": key["Key"] + "b"}
    s3.put_object(**other, Body=BODY[::-1])
    right = s3.get_object(**key, Range="bytes=0-9")
    assert got(s3, other, Range="bytes=0-9") == BODY[::-1][:10]

    number = s3_proxy.set("swap", kind="GetObject")
    answer = s3.get_object(**key, Range="bytes=0-9")
    assert answer["ETag"] == right["ETag"]
    assert answer["Body"].read() == BODY[::-1][:10]
    s3_proxy.clear(number)
    number = s3_proxy.set("swap", kind="GetObject", whole=True)
    answer = s3.get_object(**key, Range="bytes=20-29")
    assert answer["ContentRange"] == f"bytes 0-9/{len(BODY)}"
    assert answer["ETag"] != right["ETag"]
    assert answer["Body"].read() == BODY[::-1][:10]
    s3_proxy.clear(number)
    number = s3_proxy.set("swap", kind="GetObject", body=b"another")
    assert got(s3, key, Range="bytes=0-6") == b"another"
    s3_proxy.clear(number)

    number = s3_proxy.set("flip", at=8, kind="GetObject")
    assert got(s3, key, Range="bytes=0-1") == b"\0\0"
    s3_proxy.clear(number)
    number = s3_proxy.set("wrong_content_range")
    assert s3.get_object(**key, Range="bytes=0-9")["ContentRange"].startswith("bytes 1-10/")
    s3_proxy.clear(number)
    number = s3_proxy.set("header", headers={"ETag": '"stale"', "Accept-Ranges": None})
    assert s3.head_object(**key)["ETag"] == '"stale"'
    s3_proxy.clear(number)
    number = s3_proxy.set("ignore_range")
    answer = s3.get_object(**key, Range="bytes=5-9")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert answer["Body"].read() == BODY


@pytest.mark.s3("weed", "moto")
def test_ignored_conditions_overwrite(proxied_place: S3Place, s3_proxy: Proxy, key) -> None:
    s3 = proxied_place.client
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(**key, Body=b"second", IfNoneMatch="*")
    s3_proxy.set("ignore_conditions")
    s3.put_object(**key, Body=b"second", IfNoneMatch="*")
    assert got(s3, key, IfMatch='"another"') == b"second"


def test_permission_comes_and_goes(proxied_place: S3Place, s3_proxy: Proxy, key) -> None:
    s3_proxy.set("status", status=403, times=1)
    with pytest.raises(ClientError, match="AccessDenied"):
        got(proxied_place.client, key)
    s3_proxy.clear()
    assert got(proxied_place.client, key) == BODY


def test_expect_continue_is_answered_or_not(s3_proxy: Proxy) -> None:
    request = b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", s3_proxy.port), 30) as client:
        client.sendall(request)
        assert client.recv(100).startswith(b"HTTP/1.1 100")
    s3_proxy.set("no_continue")
    with socket.create_connection(("127.0.0.1", s3_proxy.port), 30) as client:
        client.sendall(request + b"x")
        assert b" 403 " in client.recv(100)


def test_a_held_request_waits_until_it_is_let_go(
    proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy, key
) -> None:
    def put(body: bytes) -> threading.Thread:
        thread = threading.Thread(
            target=proxied_place.client.put_object, kwargs={**key, "Body": body}
        )
        thread.start()
        return thread

    for where, seen in (("before", BODY), ("after", b"after")):
        s3_proxy.set("hold", where=where, kind="PutObject")
        thread = put(where.encode())
        s3_proxy.wait_held()
        assert got(s3_place.client, key) == seen
        s3_proxy.clear()
        thread.join(30)
        assert got(s3_place.client, key) == where.encode()


def test_time_passes_where_it_is_told_to(proxied_place: S3Place, s3_proxy: Proxy, key) -> None:
    with proxied_place.at() as place:
        s3 = place.make_client(read_timeout=0.2)
        for fault in (
            {"fault": "delay", "seconds": 60},
            {"fault": "rate", "bytes_per_second": 1, "seconds": 60},
            {"fault": "black_hole"},
            {"fault": "hold", "where": "before"},
        ):
            s3_proxy.set(**fault)
            with pytest.raises((ReadTimeoutError, ResponseStreamingError)):
                got(s3, key)
            s3_proxy.clear()
        s3.close()
    assert got(proxied_place.client, key) == BODY
    # A body that drips passes every timeout of a single read.
    s3_proxy.set("rate", bytes_per_second=50_000, seconds=0.02, kind="GetObject")
    s3 = proxied_place.make_client(read_timeout=5)
    assert got(s3, key, Range="bytes=0-4999") == BODY[:5000]
    s3.close()


def test_connecting_is_refused_or_unanswered(proxied_place: S3Place, s3_proxy: Proxy, key) -> None:
    s3 = proxied_place.make_client(connect_timeout=0.2)
    s3_proxy.set("refuse")
    with pytest.raises(EndpointConnectionError):
        got(s3, key)
    s3_proxy.clear()
    assert got(s3, key) == BODY
    s3_proxy.drop()
    s3_proxy.set("unanswered")
    for _ in range(2):
        with pytest.raises(ConnectTimeoutError):
            got(s3, key)
    s3_proxy.clear()
    assert got(s3, key) == BODY
    s3.close()


def through(proxy: Proxy, **settings) -> redis.Redis:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    settings = {"socket_timeout": 30, "retry": Retry(NoBackoff(), 0), **settings}
    return redis.Redis(host="127.0.0.1", port=proxy.port, **settings)


def test_redis_is_counted_by_command_and_turn(redis_proxy: Proxy) -> None:
    with through(redis_proxy) as client:
        client.ping()
        redis_proxy.zero()
        client.set("a", BODY)
        assert client.mget("a", "b") == [BODY, None]
        with client.pipeline(transaction=False) as pipe:
            pipe.get("a").get("b").exists("a")
            assert pipe.execute() == [BODY, None, 1]
    counts = redis_proxy.counts()
    assert counts["kinds"] == {"SET": 1, "MGET": 1, "GET": 2, "EXISTS": 1}
    assert counts["turns"] == 3
    assert counts["body_down"]["MGET"] > len(BODY)
    assert redis_proxy.requests()[1]["words"] == ["a", "b"]


def test_redis_commands_meet_their_faults(redis_proxy: Proxy, redis_server: RedisServer) -> None:
    with through(redis_proxy) as client, redis_server.client() as behind:
        redis_proxy.set("lost_answer", kind="SET", times=1)
        with pytest.raises(redis.ConnectionError):
            client.set("a", "done")
        assert behind.get("a") == b"done"
        redis_proxy.set("drop", kind="SET", times=1)
        with pytest.raises(redis.ConnectionError):
            client.set("a", "not done")
        assert behind.get("a") == b"done"
        redis_proxy.set("cut", after=2, kind="GET", times=1)
        with pytest.raises(redis.ConnectionError):
            client.get("a")
        redis_proxy.set("error", text="LOADING Redis is loading", path="a", times=1)
        with pytest.raises(redis.BusyLoadingError):
            client.get("a")
        assert client.get("a") == b"done"
        redis_proxy.set("error", text="READONLY it is a replica", path="a")
        with client.pipeline(transaction=False) as pipe:
            pipe.get("b").get("a").get("c")
            answers = pipe.execute(raise_on_error=False)
        assert answers[0] is answers[2] is None
        assert isinstance(answers[1], redis.RedisError)


def test_a_redis_that_does_not_answer(redis_proxy: Proxy) -> None:
    hasty = {"socket_timeout": 0.2, "socket_connect_timeout": 0.2}
    with through(redis_proxy, **hasty) as client, through(redis_proxy) as patient:
        assert patient.ping()
        for fault in ("black_hole", "unanswered"):
            redis_proxy.set(fault)
            redis_proxy.drop()
            with pytest.raises((redis.TimeoutError, redis.ConnectionError)):
                client.ping()
            redis_proxy.clear()
            patient.connection_pool.disconnect()
            assert patient.ping()


def test_redis_messages_pass_unasked(redis_proxy: Proxy) -> None:
    with through(redis_proxy) as client, client.pubsub() as listening:
        listening.subscribe("news")
        assert listening.get_message(timeout=30)["type"] == "subscribe"
        assert client.publish("news", "one") == 1
        assert listening.get_message(timeout=30)["data"] == b"one"


def test_plain_tcp_passes_and_is_cut(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port, "tcp") as proxy, through(proxy) as client:
        client.set("a", BODY)
        assert client.get("a") == BODY
        proxy.set("cut", after=1000)
        client.connection_pool.disconnect()
        with pytest.raises(redis.ConnectionError):
            client.get("a")
        counts = proxy.counts()
        assert counts["connections"] == 2
        assert counts["bytes_down"] > len(BODY)
