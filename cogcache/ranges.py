"""Byte ranges: the half-open form of Python, the inclusive one of HTTP, and what a server answers
to a request for one (RFC 9110, sections 13 and 14).

Everything here is pure. Spans are half-open everywhere, ``(start, stop)`` as in a slice; inclusive
numbers occur in header texts alone.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cogcache.exceptions import shown

__all__ = [
    "RangeAnswer",
    "Ranged",
    "content_range",
    "half_open",
    "http_answer",
    "http_headers",
    "parse_range",
]

_SPEC: Final = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.ASCII | re.IGNORECASE)
_DIGITS: Final = 30  # of a number that is compared as one; what has more is beyond every size
_ETAG: Final = re.compile(r'(W/)?"[^"]*"')


class Ranged(Protocol):
    """What ranges are served of, such as a ``Reader``."""

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        ...

    @property
    def etag(self) -> str:
        """Strong and quoted."""
        ...

    @property
    def content_type(self) -> str:
        """Such as ``"video/mp4"``."""
        ...


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """What a server answers.

    Attributes:
        status: 200 (the whole), 206 (a range), 304 (the client has it) or 416 (no such range).
        headers: Of the answer.
        start: First byte of the body.
        stop: Behind its last one; ``start == stop`` is an empty body.
    """

    status: int
    headers: dict[str, str]
    start: int
    stop: int


def half_open(start: Any, stop: Any) -> tuple[int, int | None]:
    """A caller's half-open range, checked; ``stop`` ``None`` is the end.

    Raises:
        TypeError: Something else than whole numbers.
        ValueError: A negative ``start``, or a ``stop`` before it.
    """
    first = _whole(start, "start")
    last = None if stop is None else _whole(stop, "stop")
    if first < 0:
        raise ValueError(f"start must not be negative, got {shown(first)}")
    if last is not None and last < first:
        raise ValueError(f"stop ({shown(last)}) must not lie before start ({shown(first)})")
    return first, last


def _whole(at: Any, name: str) -> int:
    try:
        if not isinstance(at, bool):
            return operator.index(at)
    except TypeError:  # an array has an index, too, if it has one element
        pass
    raise TypeError(f"{name} must be a number of bytes, not {type(at).__name__}")


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Which bytes of a value a ``Range`` header asks for, half-open: ``bytes=0-499`` is
    ``(0, 500)``.

    An end beyond the value is its end, and a suffix longer than the value is all of it.

    Args:
        header: The text of the header; ``None`` where there was none.
        size: Bytes of the value.

    Returns:
        ``(start, stop)`` with ``0 <= start < stop <= size``; ``None`` where the header is absent,
        cannot be read, asks for several ranges or for none that the value has.
    """
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"size must be a number of bytes, not {type(size).__name__}")
    if header is not None and not isinstance(header, str):
        raise TypeError(f"header must be the text of a header, not {type(header).__name__}")
    spec = None if header is None else _SPEC.fullmatch(header)
    if spec is None or size <= 0:
        return None
    first, last = spec.groups()
    if not first:
        start, stop = size - min(_number(last), size) if last else size, size
    else:
        start = _number(first)
        stop = min(_number(last) + 1, size) if last else size
        if last and _number(last) < start:
            return None
    return (start, stop) if start < min(stop, size) else None


def content_range(start: int, stop: int, size: int) -> str:
    """The inclusive form of a half-open span as a ``Content-Range`` header has it; of an empty one
    the form of an answer that no range satisfies.
    """
    return f"bytes {start}-{stop - 1}/{size}" if start < stop else f"bytes */{size}"


def http_headers(
    size: int,
    span: tuple[int, int] | None = None,
    *,
    etag: str | None = None,
    content_type: str | None = None,
    max_age: int | None = None,
    age: float | None = None,
) -> dict[str, str]:
    """The headers of an answer with a value, or with a ``span`` of it.

    Args:
        size: Bytes of the whole value.
        span: What the body holds, half-open; ``None`` is all of it.
        etag: Quoted.
        content_type: Such as ``"video/mp4"``.
        max_age: Seconds for which others may keep it; ``None`` says nothing of that.
        age: Seconds since the value was made or found to be still right.

    Raises:
        ValueError: The span does not lie within the size.
    """
    start, stop = (0, size) if span is None else span
    if not 0 <= start <= stop <= size:
        raise ValueError(f"span {start}..{stop} does not lie within the value's {size} bytes")
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
    if span is not None:
        headers["Content-Range"] = content_range(start, stop, size)
    if content_type is not None:
        headers["Content-Type"] = content_type
    if etag is not None:
        headers["ETag"] = etag
    if max_age is not None:
        headers["Cache-Control"] = f"public, max-age={max_age}"
    if age is not None:
        headers["Age"] = str(max(0, int(age)))
    return headers


def http_answer(
    request: Mapping[str, str],
    value: Ranged,
    *,
    max_age: int | None = None,
    recover: bool = False,
) -> RangeAnswer:
    """What to answer to a GET or HEAD for a value: all of it, a range, or that the client has it.

    ``If-Range`` with another generation's tag, a date or a weak tag gives the whole value, and so
    do several ranges and a header that cannot be read: never bytes of two generations, and always
    what RFC 9110 allows.

    Args:
        request: Headers of the request; names in any case.
        value: What is served; a ``Reader`` fits.
        max_age: See ``http_headers``.
        recover: Answer a range that the value does not have with the whole of it (and
            ``X-Range-Recovery: true``) rather than with 416.
    """
    asked = {name.lower(): text for name, text in request.items()}

    def headers(span: tuple[int, int] | None) -> dict[str, str]:
        return http_headers(
            value.size, span, etag=value.etag, content_type=value.content_type, max_age=max_age
        )

    whole = headers(None)
    if _names(asked.get("if-none-match", ""), value.etag):
        kept = {name: text for name, text in whole.items() if name in ("ETag", "Cache-Control")}
        return RangeAnswer(304, kept, 0, 0)
    header = asked.get("range")
    if header is None or asked.get("if-range", value.etag).strip() != value.etag:
        return RangeAnswer(200, whole, 0, value.size)
    span = parse_range(header, value.size)
    if span is not None:
        return RangeAnswer(206, headers(span), *span)
    if recover:
        return RangeAnswer(200, {**whole, "X-Range-Recovery": "true"}, 0, value.size)
    if _is_unsatisfiable(header):
        refused = http_headers(value.size, (0, 0), etag=value.etag)
        return RangeAnswer(416, refused, 0, 0)
    return RangeAnswer(200, whole, 0, value.size)


def _number(digits: str) -> int:
    short = digits.lstrip("0")
    return int(short or "0") if len(short) <= _DIGITS else 10**_DIGITS


def _is_unsatisfiable(header: str) -> bool:
    """Whether a header that gave no span is at least a well-formed range."""
    spec = _SPEC.fullmatch(header)
    if spec is None:
        return False
    first, last = spec.groups()
    return bool(first or last) and not (first and last and _number(last) < _number(first))


def _names(header: str, etag: str) -> bool:
    """Whether ``If-None-Match`` names a tag; compared weakly, as the RFC wants it there."""
    if header.strip() == "*":
        return True
    return any(tag.group().removeprefix("W/") == etag for tag in _ETAG.finditer(header))
