"""How a container is cut for Redis, and that a manifest from anywhere is read or refused."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cogcache import _core
from cogcache.backends.redis.layout import (
    DOCUMENT_BYTES,
    FIXED_BYTES,
    HEAD_BYTES,
    WHOLE_BYTES,
    Manifest,
    Names,
    cut_of,
    index_bytes,
)
from cogcache.backends.redis.tags import Tags, member

KEY = b"\x01key"
STEP = 64 << 10


def container(value: object) -> bytes:
    draft = _core.Draft(value, KEY, meta={1: 0}, refreshed_ms=0, ttl_ms=None, compress=False)
    return draft.compose().tobytes()


SMALL = container({"a": 1})
BULK = container({"doc": "x", "bulk": random.Random(1).randbytes(400_000)})
LONG = container(["y" * 40 + str(number) for number in range(8000)])


def cut(data: bytes) -> int:
    return cut_of(len(data), data[-48:], _core.Entry.from_bytes(data, KEY))


def test_where_a_container_is_cut() -> None:
    assert cut(SMALL) == HEAD_BYTES and len(SMALL) <= WHOLE_BYTES
    entry = _core.Entry.from_bytes(BULK, KEY)
    document = entry.parts()[-1]
    index = len(BULK) - 112 - index_bytes(BULK[-48:])
    assert document.kind == "doc" and cut(BULK) == index - document.stored_size
    assert len(BULK) - cut(BULK) <= DOCUMENT_BYTES
    assert cut(LONG) == len(LONG) - 112 - index_bytes(LONG[-48:])  # the document is bulk itself


@pytest.mark.parametrize("data", [SMALL, BULK, LONG], ids=["small", "bulk", "long"])
@pytest.mark.parametrize("size", [1000, STEP, 5 << 20])
def test_slices_and_manifest_hold_every_byte_once(data: bytes, size: int) -> None:
    manifest = Manifest.of(memoryview(data), cut(data), size)
    again = Manifest.parse_whole(manifest.pack())
    assert again == manifest
    assert again.token == _core.Entry.from_bytes(data, KEY).token
    sizes = [again.slice_bytes(number) for number in range(again.slices)]
    assert all(one == size for one in sizes[:-1]) and all(0 < one <= size for one in sizes)
    assert HEAD_BYTES + sum(sizes) == again.cut == again.tail_start
    chance = random.Random(size)
    for _ in range(50):
        start = chance.randint(HEAD_BYTES, again.cut)
        stop = chance.randint(start, again.cut)
        places = again.places(start, stop)
        found = b"".join(
            data[HEAD_BYTES + place.number * size :][place.start : place.stop] for place in places
        )
        assert found == data[start:stop]


def read(data: bytes) -> bytes | None:
    """The container behind a manifest without slices, or ``None`` where it is refused."""
    try:
        manifest = Manifest.parse_whole(data)
        if manifest.slices:
            _core.Entry.from_reader(
                manifest.length,
                lambda offset, size: bytes(size - len(manifest.tail)) + manifest.tail,
            )
            return None
        whole = manifest.head + manifest.tail
        entry = _core.Entry.from_bytes(whole, KEY)
        entry.verify()
        return whole
    except (_core.DamagedError, _core.ForeignError, ValueError, MemoryError):
        return None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
@example(b"")
@example(struct.pack("<QII", 1 << 60, 1, 0) + bytes(400))
@example(struct.pack("<QII", 33, 0, 0) + bytes(400))
@example(struct.pack("<QII", 0, 1, 0) + bytes(400))
@example(struct.pack("<QII", 2**64 - 1, 2**32 - 1, 2**32 - 1) + bytes(400))
def test_no_bytes_are_taken_for_a_manifest(data: bytes) -> None:
    assert read(data) is None


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_changed_manifest_is_refused_or_means_the_same(draw: st.DataObject) -> None:
    good = Manifest.of(memoryview(SMALL), HEAD_BYTES, STEP).pack()
    data = bytearray(good)
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(data) - 1))
        kind = draw.draw(st.sampled_from(("flip", "cut", "insert", "number")))
        if kind == "flip":
            data[at] ^= 1 << draw.draw(st.integers(0, 7))
        elif kind == "cut" and len(data) > 1:
            del data[at : at + draw.draw(st.integers(1, 40))]
        elif kind == "insert":
            data[at:at] = draw.draw(st.binary(min_size=1, max_size=40))
        else:
            struct.pack_into("<Q", data, 0, draw.draw(st.integers(0, 2**64 - 1)))
        if not data:
            break
    found = read(bytes(data))
    if found is None:
        return
    # Only the slots (64 of the last 112 bytes) and the head may differ from what was written.
    assert found[HEAD_BYTES:-112] == SMALL[HEAD_BYTES:-112]
    assert found[-48:] == SMALL[-48:]


def test_every_flipped_bit_of_the_fixed_part_is_noticed_or_harmless() -> None:
    good = Manifest.of(memoryview(SMALL), HEAD_BYTES, STEP).pack()
    for bit in range(FIXED_BYTES * 8):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        assert read(bytes(data)) in (None, SMALL)


def test_names_keep_an_entry_in_one_slot_and_lead_back() -> None:
    names = Names("team[1]*")
    base = names.of_key(KEY)
    assert base == b"team[1]*:{" + _core.hash128(KEY).hex().encode() + b"}"
    prefix = Names.slice_prefix(base, 0xAB)
    assert prefix == base + b":c:00000000000000ab:"
    assert names.manifest_of_slice(prefix + b"12") == (base + b":m", 0xAB)
    assert names.manifest_of_slice(base + b":m") is None
    assert names.manifest_of_slice(base + b":c:xyz:1") is None
    assert names.manifests.startswith(b"team\\[1\\]\\*:{")


# --- versions of tags ----------------------------------------------------------------------------


def test_what_is_not_among_the_changes_was_never_invalidated() -> None:
    tags = Tags()
    tags.note_origin([b"o:1", b"100"], 0)
    assert not tags.note_changes(100, b"o:1", [member("a"), b"200"])
    assert tags.is_dead([("a", 199)]) and not tags.is_dead([("a", 200)])
    assert not tags.is_dead([("b", 150)])
    assert tags.is_dead([("b", 99)])  # before the origin: nobody knows
    assert (tags.version("a"), tags.version("b")) == (200, 0)  # what other tiers are told


def test_a_full_answer_is_asked_on_where_it_ended() -> None:
    tags = Tags()
    tags.note_origin([b"o:1", b"100"], 0)
    answer = [word for number in range(4) for word in (b"t:%d" % number, b"%d" % (200 + number))]
    assert tags.note_changes(100, b"o:1", answer, 4)
    assert tags.cursor == 202  # members of one invalidation share a version
    assert not tags.note_changes(202, b"o:1", [b"t:3", b"203", b"t:4", b"203"], 4)
    assert tags.version("4") == 203


def test_an_answer_of_a_set_that_was_lost_is_not_used() -> None:
    tags = Tags()
    tags.note_origin([b"o:1", b"100"], 0)
    tags.note_changes(100, b"o:1", [member("a"), b"500"])
    tags.note_origin([b"o:2", b"300"], 1000)
    assert (tags.losses, tags.floor, tags.cursor) == (1, 1000, 300)
    assert tags.note_changes(500, b"o:2", [])  # asked above 500, where 301 may be: ask again
    assert tags.note_changes(300, b"o:1", [])
    assert tags.is_dead([("b", 299)])
    assert not tags.note_changes(300, b"o:2", [member("c"), b"301"])
    assert tags.version("a") == 500  # what was known stays known


def test_what_a_process_knows_is_bounded_and_forgotten_as_invalid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cogcache.backends.redis.tags.MOST_TAGS", 10)
    tags = Tags()
    tags.note_origin([b"o:1", b"100"], 0)
    for number in range(1000):
        version = 200 + number
        tags.note_changes(tags.cursor, b"o:1", [member(str(number)), b"%d" % version])
        assert len(tags._known) <= 20
        assert tags.is_dead([(str(number), version - 1)])
    assert all(tags.is_dead([(str(number), 199 + number)]) for number in range(1000))
    assert not tags.is_dead([("new", 1200)])
