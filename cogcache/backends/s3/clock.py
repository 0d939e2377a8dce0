"""What time it is for a store: every answer has a date."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

from cogcache.backends.clocks import ClockDifference, clock_difference
from cogcache.backends.faults import RefusedError, RemoteError
from cogcache.backends.lanes import Call
from cogcache.backends.s3.client import S3Client

__all__ = ["store_clock"]


def store_clock(
    call: Call, client: S3Client, name: str, now_ms: Callable[[], int]
) -> ClockDifference:
    """This host's clock beside the store's, by one HEAD of an object, there or not. A refusal tells
    the time too, also that of what was signed at another time than the store's. Blocks.

    Raises:
        RemoteError: There is no answer, or none with a date.
    """
    asked = now_ms() / 1000
    answer: Any
    try:
        answer = client.send(call, client.small, "head_object", Key=name)
    except RemoteError as error:
        answer = getattr(error.__cause__, "response", None)  # of botocore's error
        if not isinstance(answer, dict):
            raise
    answered = now_ms() / 1000
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        second = parsedate_to_datetime(said).timestamp()
    except (TypeError, ValueError) as error:
        raise RefusedError(f"the store's answers have no date: {said!r}") from error
    return clock_difference(asked, answered, second, second + 1)
