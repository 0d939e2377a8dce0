"""The signatures of requests to S3 are those that botocore makes."""

from __future__ import annotations

import calendar
import time
from types import SimpleNamespace

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import example, given
from hypothesis import strategies as st

from cogcache.backends.s3.sigv4 import EMPTY, Signer, path_of, query_of

NAMES = st.text(min_size=1).filter(lambda text: text.isprintable())
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)


def as_botocore_signs(
    method: str,
    url: str,
    headers: dict[str, str],
    body: bytes | None,
    credentials: Credentials,
    region: str,
) -> dict[str, str]:
    """The headers that botocore makes, by their names in lower case."""
    request = AWSRequest(method, url, headers=headers, data=body)
    request.context["client_config"] = SimpleNamespace(s3={"payload_signing_enabled": True})
    S3SigV4Auth(credentials, "s3", region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@given(
    name=NAMES,
    parameters=st.dictionaries(NAMES, NAMES, max_size=4),
    headers=st.dictionaries(st.sampled_from(["if-match", "range", "x-amz-meta-a", "a"]), WORDS),
    token=st.none() | SECRETS,
    secret=SECRETS,
    host=st.sampled_from(["s3.eu-central-1.amazonaws.com", "127.0.0.1:8333", "b.example:81"]),
    region=st.sampled_from(["us-east-1", "eu-central-1", "garage"]),
    body=st.none() | st.binary(max_size=100),
)
@example(
    "a b/ü+~*'()//c%2F", {"uploadId": "a/b+=&", "partNumber": "3"}, {}, "t", "s", "h", "r", b""
)
@example(
    "x", {"b": "", "B": "~", "a": "2", "A": "1"}, {"a": "  two   words "}, None, "s", "h", "r", None
)
def test_a_signature_is_that_of_botocore(
    name: str,
    parameters: dict[str, str],
    headers: dict[str, str],
    token: str | None,
    secret: str,
    host: str,
    region: str,
    body: bytes | None,
) -> None:
    path, query = f"/bucket/{path_of(name)}", query_of(parameters.items())
    method = "GET" if body is None else "PUT"
    credentials = Credentials("AKID", secret, token)
    url = f"http://{host}{path}?{query}" if query else f"http://{host}{path}"
    theirs = as_botocore_signs(method, url, headers, body, credentials, region)
    stamp = theirs["x-amz-date"]
    ours = Signer(region).sign(
        method,
        path,
        query,
        {**headers, "host": host},
        theirs["x-amz-content-sha256"],
        credentials,
        calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ")),
    )
    assert ours == {**theirs, "host": host}


def test_a_signature_of_the_specification() -> None:
    """The example of Amazon's documentation of the header ``Authorization``."""
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    signed = Signer("us-east-1").sign(
        "GET",
        "/test.txt",
        "",
        {"host": "examplebucket.s3.amazonaws.com", "range": "bytes=0-9"},
        EMPTY,
        credentials,
        calendar.timegm((2013, 5, 24, 0, 0, 0)),
    )
    assert signed["authorization"].endswith(
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


@pytest.mark.parametrize("later", [0, 1, 86_400])
def test_what_it_remembers_is_never_that_of_others(later: int) -> None:
    signer, when = Signer("us-east-1"), 1_700_000_000
    for turn in (when, when + later, when):
        for secret in ("one", "two"):
            credentials = Credentials("AKID", secret)
            arguments = ("GET", "/b/k", "", {"host": "h"}, EMPTY, credentials, turn)
            assert signer.sign(*arguments) == Signer("us-east-1").sign(*arguments)


def test_a_signer_shows_no_secret() -> None:
    signer = Signer("us-east-1")
    signer.sign("GET", "/b/k", "", {"host": "h"}, EMPTY, Credentials("AKID", "hush"), 0)
    assert "hush" not in repr(signer)
