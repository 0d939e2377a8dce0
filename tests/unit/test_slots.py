"""Freshness slots that lie beside a container: the newest counts, and only those of its write."""

from __future__ import annotations

import pytest

from cogcache import _core
from cogcache.backends.slots import (
    TAIL_BYTES,
    current_slot,
    refreshed_tail,
    slot_as_text,
    slot_of_text,
    take_slot,
)

KEY = _core.raw_key("key")


def container(value: str = "value") -> bytes:
    draft = _core.Draft(value, KEY, meta={}, refreshed_ms=1000, ttl_ms=50)
    return bytes(draft.compose().tobytes())


def refreshed(data: bytes, now_ms: int, ttl_ms: int | None) -> tuple[bytes, bytes]:
    """The container after a refresh, and the slot that lies beside it then."""
    token = _core.Entry.from_bytes(data, KEY).token
    tail = refreshed_tail(data[-TAIL_BYTES:], token, now_ms, ttl_ms)
    slot = current_slot(tail, token)
    assert slot is not None
    return data[:-TAIL_BYTES] + tail, slot


def life(data: bytes | bytearray) -> tuple[int, int | None]:
    entry = _core.Entry.from_bytes(bytes(data), KEY)
    entry.verify()
    return entry.refreshed_ms, entry.ttl_ms


def taken(data: bytes, slot: bytes) -> tuple[int, int | None]:
    whole = bytearray(data)
    take_slot(whole, _core.Entry.from_bytes(data, KEY).token, slot)
    return life(whole)


def test_a_slot_beside_a_container_is_its_life_however_often_it_was_refreshed() -> None:
    original = later = container()
    for turn in range(1, 70):
        later, slot = refreshed(later, 1000 + turn, 50 + turn)
        assert life(later) == (1000 + turn, 50 + turn)
        assert slot_of_text(slot_as_text(slot)) == slot
        assert taken(original, slot) == (1000 + turn, 50 + turn)
    later, slot = refreshed(later, 5000, None)
    assert taken(original, slot) == (5000, None)


def test_an_older_slot_and_that_of_another_write_change_nothing() -> None:
    first = container()
    second, older = refreshed(first, 2000, 70)
    third, _ = refreshed(second, 3000, 90)
    assert taken(third, older) == (3000, 90)
    assert taken(third, third[-TAIL_BYTES:][:32]) == (3000, 90)
    _, foreign = refreshed(container(), 9000, None)
    assert taken(first, foreign) == (1000, 50)
    broken = bytearray(older)
    broken[3] ^= 1
    assert taken(first, bytes(broken)) == (1000, 50)


@pytest.mark.parametrize("text", ["", "A", "A" * 42, "A" * 44, "Ä" * 43, "!" * 43, "A" * 42 + "="])
def test_what_is_no_slot_is_none(text: str) -> None:
    assert slot_of_text(text) is None


def test_a_slot_of_zeros_is_no_life() -> None:
    assert slot_of_text("A" * 43) == bytes(32)
    assert taken(container(), bytes(32)) == (1000, 50)
