"""Bodies of requests lie where they were, and are the same bytes however they come."""

from __future__ import annotations

import hashlib
import io
import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogcache.backends.s3.payload import Payload, Reading, payloads_of

SIZES = st.lists(st.sampled_from([0, 1, 1000, 65_535, 65_536, 65_537, 200_000]), max_size=8)


def pieces_of(sizes: list[int]) -> list[bytes]:
    return [bytes([number]) * size for number, size in enumerate(sizes)]


@given(SIZES)
def test_a_payload_is_its_pieces_in_their_order(sizes: list[int]) -> None:
    pieces = pieces_of(sizes)
    whole = b"".join(pieces)
    payload = Payload(pieces)
    assert len(payload) == len(whole)
    assert b"".join(payload.pieces) == whole
    assert payload.sha256() == hashlib.sha256(whole).hexdigest()
    assert payload.md5() == hashlib.md5(whole).hexdigest()
    assert payload.crc32() == zlib.crc32(whole)
    payload.take(memoryview(b"more"))
    assert b"".join(payload.pieces) == whole + b"more"


@given(SIZES, st.lists(st.tuples(st.integers(-1, 200_000), st.integers(0, 400_000)), max_size=8))
def test_a_payload_is_read_as_a_file_is(sizes: list[int], steps: list[tuple[int, int]]) -> None:
    whole = b"".join(pieces_of(sizes))
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1

    reading, file = Reading(Payload(pieces_of(sizes)), look), io.BytesIO(whole)
    assert len(reading) == len(whole)
    assert reading.seek(0, os.SEEK_END) == len(whole) and not reading.read(10)
    for size, to in [(-1, 0), *steps]:
        assert reading.seek(to) == reading.tell() == min(to, len(whole))
        file.seek(to)
        before = looks
        block = reading.read(size)
        assert looks > before
        assert block == file.read(len(block) if size >= 0 else -1)
        assert size < 1 or (len(block) <= size and (len(block) or to >= len(whole)))
        assert reading.seek(0, os.SEEK_CUR) == reading.tell() == min(to, len(whole)) + len(block)


def test_large_pieces_are_not_copied_and_small_ones_are_few() -> None:
    large = bytes(100_000)
    payload = Payload([b"a", large, *[b"x" * 100] * 5000])
    assert [piece.obj is large for piece in payload.pieces].count(True) == 1
    assert len(payload.pieces) < 12


@pytest.mark.parametrize("size", [1, 100_000, 300_000, 10**9])
@given(sizes=SIZES)
def test_payloads_of_a_size_are_all_of_it(size: int, sizes: list[int]) -> None:
    pieces = pieces_of(sizes) if size > 1 else [b"abcdef"]
    payloads = list(payloads_of([memoryview(piece) for piece in pieces], size))
    assert b"".join(b"".join(payload.pieces) for payload in payloads) == b"".join(pieces)
    assert all(len(payload) == size for payload in payloads[:-1])
    assert all(0 < len(payload) <= size for payload in payloads[-1:])
