"""Where requests go is learnt from those of boto3, and nothing is learnt from one with more to
it."""

from __future__ import annotations

from typing import Any

import boto3.session
import pytest
from botocore.awsrequest import AWSRequest
from botocore.config import Config

from cogcache.backends.s3.direct import where_of

KEY = "pre fix/ü~/a+b"


class NotSentError(Exception):
    """Instead of sending."""


def request_of(params: dict[str, Any], endpoint: str | None = None, **options: Any) -> Any:
    """What boto3 would send."""
    session = boto3.session.Session("AKID", "secret", region_name="eu-central-1")
    options["response_checksum_validation"] = "when_required"
    client = session.client("s3", endpoint_url=endpoint, config=Config(**options))
    seen: list[Any] = []

    def keep(request: Any, **_: Any) -> None:
        seen.append(request)
        raise NotSentError

    client.meta.events.register("before-send.s3", keep)
    with pytest.raises(NotSentError):
        client.get_object(**{"Key": KEY, **params})
    client.close()
    return seen[0]


@pytest.mark.parametrize(
    ("bucket", "endpoint", "style", "expected"),
    [
        ("buck", None, "auto", ("https", "buck.s3.eu-central-1.amazonaws.com", 443, "")),
        ("b", None, "path", ("https", "s3.eu-central-1.amazonaws.com", 443, "/b")),
        ("b", "http://store:8333", "path", ("http", "store:8333", 8333, "/b")),
        ("b", "http://store:80", "path", ("http", "store", 80, "/b")),
        ("b", "http://[::1]:81", "path", ("http", "[::1]:81", 81, "/b")),
        ("b", "https://store/s3", "path", ("https", "store", 443, "/s3/b")),
        ("buck", "https://store.example", "virtual", ("https", "buck.store.example", 443, "")),
    ],
)
def test_an_address_is_taken_apart(
    bucket: str, endpoint: str | None, style: str, expected: tuple[str, str, int, str]
) -> None:
    request = request_of({"Bucket": bucket}, endpoint, s3={"addressing_style": style})
    where = where_of(request, KEY)
    assert where is not None
    assert (where.scheme, where.host, where.port, where.base) == expected
    assert where.region == "eu-central-1"
    assert "Boto3" in where.agent
    assert where_of(request, "another name") is None


@pytest.mark.parametrize(
    "params",
    [
        {"RequestPayer": "requester"},
        {"ExpectedBucketOwner": "111122223333"},
        {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32},
        {"ChecksumMode": "ENABLED"},
    ],
)
def test_nothing_is_learnt_from_a_request_with_more_to_it(params: dict[str, str]) -> None:
    request = request_of({"Bucket": "b", **params}, "https://store")
    assert where_of(request, KEY) is None


@pytest.mark.parametrize(
    "signature",
    [
        "AWS AKID:signature",
        "AWS4-ECDSA-P256-SHA256 Credential=AKID/20260101/s3/aws4_request, SignedHeaders=host",
        "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3express/aws4_request, Signed",
        "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3-object-lambda/aws4_request, S",
        None,
    ],
)
def test_nothing_is_learnt_from_another_signature(signature: str | None) -> None:
    headers = {} if signature is None else {"Authorization": signature}
    request = AWSRequest("GET", "https://store/b/key", headers=headers).prepare()
    assert where_of(request, "key") is None
