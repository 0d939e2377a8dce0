"""Draft, Image and Entry: what each promises, from memory, from a function and from a store."""

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.valuedata import KEY, VALUES, draft, entry_of, image_of

from cogcache import _core

NOW = 1_763_700_000_000
NOISE = np.random.default_rng(0).bytes(3_000_000)
MANY: dict[str, Any] = {"noise": NOISE, "text": "words " * 3000, "array": np.arange(3000.0)}


class Far:
    """A container behind a read function that remembers what was asked."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        return self.image[offset : offset + size]

    def open(self, key: bytes | None = KEY) -> _core.Entry:
        return _core.Entry.from_reader(len(self.image), self.read, key)


def same(one: Any, other: Any) -> bool:
    return (
        one["noise"] == other["noise"]
        and one["text"] == other["text"]
        and (one["array"] == other["array"]).all()
    )


# --- Draft and Image --------------------------------------------------------------------------


def test_a_draft_says_what_it_holds():
    made = draft([b"x" * 10_000, "y" * 5000])
    assert made.key == KEY
    assert made.raw_bytes >= 15_000
    assert made.stored_bytes == 0
    image = made.compose()
    assert made.stored_bytes == len(image) == len(image.tobytes()) < 2000
    assert image.key == KEY
    assert image.raw_bytes == made.raw_bytes


def test_the_pieces_are_the_image_and_read_only():
    image = draft(MANY).compose()
    pieces = image.pieces()
    assert b"".join(pieces) == image.tobytes()
    assert all(piece.readonly and piece.format == "B" for piece in pieces)
    with pytest.raises(TypeError):
        pieces[0][0] = 1  # type: ignore[index]
    assert any(len(piece) >= len(NOISE) for piece in pieces)  # borrowed, not put together


def test_pieces_keep_alive_what_they_show():
    large = bytearray(NOISE)
    made = draft(large)
    pieces = made.compose().pieces()
    whole = b"".join(pieces)
    del made
    gc.collect()
    with pytest.raises(BufferError):
        large.clear()
    assert b"".join(pieces) == whole
    del pieces
    gc.collect()
    large.clear()


def test_a_token_makes_the_bytes_repeatable_and_none_makes_each_write_its_own():
    made = draft(MANY, token=0x1122334455667788)
    first, again = made.compose(), made.compose()
    assert first.token == 0x1122334455667788
    assert first.tobytes() == again.tobytes()
    assert _core.Entry.from_bytes(first.tobytes()).token == 0x1122334455667788
    assert len({draft(1).compose().token for _ in range(20)}) == 20


def test_drafts_are_composed_by_several_threads_at_once():
    made = draft(MANY, token=5)
    with ThreadPoolExecutor(4) as pool:
        images = {image.tobytes() for image in pool.map(lambda _: made.compose(), range(8))}
    assert len(images) == 1


# --- where an entry lies ------------------------------------------------------------------------


def from_bytes(image: bytes, tmp_path: Path) -> _core.Entry:
    return _core.Entry.from_bytes(image, KEY)


def from_view(image: bytes, tmp_path: Path) -> _core.Entry:
    return _core.Entry.from_bytes(memoryview(bytearray(image)), KEY)


def from_reader(image: bytes, tmp_path: Path) -> _core.Entry:
    return Far(image).open()


def a_store(root: Path, **options: Any) -> _core.Store:
    """One whose clock stands at the time of the tests' entries."""
    store = _core.Store(str(root), max_bytes=200_000_000, **options)
    store.set_clock_offset(NOW - store.now_ms())
    return store


def out_of(store: _core.Store, image: bytes) -> _core.Entry:
    assert store.put(_core.Entry.from_bytes(image, KEY).to_image()) is None
    entry = store.fetch(KEY)
    assert isinstance(entry, _core.Entry)
    return entry


def from_store(image: bytes, tmp_path: Path) -> _core.Entry:
    return out_of(a_store(tmp_path), image)


def from_store_without_maps(image: bytes, tmp_path: Path) -> _core.Entry:
    return out_of(a_store(tmp_path, no_map=True), image)


Opener = Callable[[bytes, Path], _core.Entry]
EVERYWHERE = [from_bytes, from_view, from_reader, from_store, from_store_without_maps]
everywhere = pytest.mark.parametrize("open_entry", EVERYWHERE)


@everywhere
def test_an_entry_is_the_same_wherever_it_lies(open_entry: Opener, tmp_path: Path):
    image = image_of(
        MANY,
        meta={1: NOW, 2: 1500, 3: [["a", 2**62]], "own": ["x"]},
        refreshed_ms=NOW,
        ttl_ms=604_800_000,
        stale_ms=60_000,
        token=99,
    )
    entry = open_entry(image, tmp_path)
    assert entry.key == KEY
    assert entry.digest == _core.hash128(KEY)
    assert entry.token == 99
    assert entry.length == len(image)
    assert entry.disk_bytes >= len(image)
    assert entry.meta == {1: NOW, 2: 1500, 3: [["a", 2**62]], "own": ["x"]}
    assert entry.meta is entry.meta
    assert (entry.created_ms, entry.cost_ms) == (NOW, 1500)
    assert (entry.refreshed_ms, entry.ttl_ms, entry.stale_ms) == (NOW, 604_800_000, 60_000)
    assert entry.expires_ms == NOW + 604_800_000
    assert entry.miss is None
    assert entry.value_type() == "dict"
    assert [(part.number, part.kind, part.name) for part in entry.parts()] == [
        (0, "array", "0"),
        (1, "blob", "0"),
        (2, "blob", "1"),
        (3, "doc", ""),
    ]
    entry.verify()
    assert entry.tobytes() == image
    assert entry.to_image().tobytes() == image
    assert same(entry.value(), MANY)


@everywhere
@pytest.mark.parametrize("name", ["many-parts", "array-kinds", "dict-keys", "surrogates", "none"])
def test_values_are_the_same_wherever_they_lie(open_entry: Opener, tmp_path: Path, name: str):
    from cogcache.testing import assert_round_trips

    image = image_of(VALUES[name]())
    back = open_entry(image, tmp_path).value()
    assert_round_trips(back)
    token = {"token": 7}
    assert image_of(back, **token) == image_of(VALUES[name](), **token)


@everywhere
def test_parts_and_ranges(open_entry: Opener, tmp_path: Path):
    entry = open_entry(image_of(MANY), tmp_path)
    part = entry.find("blob", "0")
    assert part is not None
    assert (part.raw_size, part.codec) == (len(NOISE), 0)
    assert entry.read(part.number) == NOISE
    assert entry.read(part.number, 5) == NOISE[5:]
    assert entry.read(part.number, 5, 9) == NOISE[5:9]
    assert entry.read(part.number, 9, 5) == b""
    assert entry.read(part.number, 10**12) == b""
    assert entry.read(part.number, 0, 10**12) == NOISE
    assert entry.find("blob", "7") is None
    assert entry.find("frame", "0") is None
    assert entry.find("0x18", "0") == part
    for wrong in ("blobs", "0x100", "0x", ""):
        with pytest.raises(ValueError, match="array, blob, frame, entry, doc"):
            entry.find(wrong, "0")
    with pytest.raises(IndexError, match="no part 77"):
        entry.read(77)
    for many in (entry.check, entry.fetch):
        with pytest.raises(IndexError, match="no part 77"):
            many([0, 77])
        with pytest.raises(TypeError):
            many(["0"])  # type: ignore[list-item]
    assert entry.fetch([]) == []
    assert entry.fetch([1, 0, 1]) == [NOISE, MANY["array"].tobytes(), NOISE]
    assert entry.check([0, 1]) is None


@everywhere
def test_lives_for_ever_and_lives_that_end(open_entry: Opener, tmp_path: Path):
    entry = open_entry(image_of(1, refreshed_ms=NOW, ttl_ms=None, stale_ms=None), tmp_path)
    assert (entry.ttl_ms, entry.stale_ms, entry.expires_ms) == (None, None, None)
    assert not entry.is_expired(2**48 - 1)


def test_a_life_ends_at_its_millisecond():
    entry = entry_of(1, refreshed_ms=NOW, ttl_ms=1000)
    assert not entry.is_expired(NOW + 999)
    assert entry.is_expired(NOW + 1000)
    assert not entry.is_expired(NOW - 500)
    for wrong, error in ((-1, OverflowError), ("now", TypeError), (1.5, TypeError)):
        with pytest.raises(error):
            entry.is_expired(wrong)  # type: ignore[arg-type]


def test_another_key_is_no_match(tmp_path: Path):
    image = image_of(1)
    assert _core.Entry.from_bytes(image).key == KEY  # nobody asked for a certain one
    with pytest.raises(_core.ForeignError, match="another key"):
        _core.Entry.from_bytes(image, b"not this")
    with pytest.raises(_core.ForeignError, match="another key"):
        Far(image).open(b"another key")


def test_the_bytes_given_may_change_afterwards():
    image = bytearray(image_of(MANY))
    entry = _core.Entry.from_bytes(image)
    for at in range(0, len(image), 100):
        image[at] ^= 0xFF
    assert same(entry.value(), MANY)
    entry.verify()


@pytest.mark.parametrize("wrong", [b"", b"short", bytes(1000), b"\x93NUMPY" + bytes(5000)])
def test_what_is_no_container_is_refused(wrong: bytes):
    with pytest.raises((_core.DamagedError, _core.ForeignError)):
        _core.Entry.from_bytes(wrong)
    with pytest.raises((_core.DamagedError, _core.ForeignError)):
        Far(wrong).open()


def test_arguments_of_the_makers_are_checked():
    with pytest.raises(TypeError):
        _core.Entry()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="callable"):
        _core.Entry.from_reader(5, b"bytes")  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        _core.Entry.from_reader(-1, lambda offset, size: b"")
    with pytest.raises(TypeError, match="tail"):
        _core.Entry.from_reader(5, lambda offset, size: b"", None, "text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tail"):
        _core.Entry.from_reader(5, lambda offset, size: b"", None, b"longer")
    with pytest.raises(TypeError):
        _core.Entry.from_bytes("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _core.Entry.from_bytes()  # type: ignore[call-arg]
    entry = entry_of([1])
    with pytest.raises(TypeError):
        entry.value("cow")  # type: ignore[misc]
    with pytest.raises(TypeError):
        entry.value(colour=1)  # type: ignore[call-arg]


# --- behind a function --------------------------------------------------------------------------


def test_the_metadata_costs_one_read_and_the_value_few_more():
    far = Far(image_of(MANY, meta={"a": 1}))
    entry = far.open()
    assert not entry.in_memory and not entry.mapped
    assert len(far.reads) == 1
    assert entry.meta == {"a": 1}
    assert (entry.find("blob", "0"), len(far.reads)) != (None, 0)
    assert entry.value_type() == "dict"
    assert len(far.reads) == 1  # the document lay in the end, too
    assert same(entry.value(), MANY)
    asked = sum(size for _, size in far.reads)
    assert len(far.reads) <= 4
    assert asked < len(far.image) + 140_000


def test_the_end_is_asked_for_once_however_often_it_is_needed():
    far = Far(image_of({"text": "words " * 500}))
    entry = far.open()
    for _ in range(5):
        entry.value()
        entry.verify()
        entry.read(0)
    assert len(far.reads) == 1


def test_neighbours_are_fetched_with_one_read():
    value = [np.random.default_rng(n).bytes(20_000) for n in range(60)]
    far = Far(image_of(value))
    entry = far.open()
    far.reads.clear()
    assert entry.fetch(list(range(40))) == value[:40]
    assert len(far.reads) == 1
    far.reads.clear()
    assert entry.fetch([30, 3, 4]) == [value[30], value[3], value[4]]
    assert sum(size for _, size in far.reads) <= 600_000


def test_an_error_of_the_function_is_the_callers_everywhere():
    class Failing(Far):
        fail = False

        def read(self, offset: int, size: int) -> bytes:
            if self.fail:
                raise TimeoutError("no answer")
            return super().read(offset, size)

    far = Failing(image_of(MANY))
    entry = far.open()
    far.fail = True
    uses: list[Callable[[], Any]] = [
        entry.value,
        entry.verify,
        entry.damage,
        entry.tobytes,
        entry.to_image,
        lambda: entry.read(1),
        lambda: entry.fetch([0, 1]),
        lambda: entry.check([1]),
    ]
    for use in uses:
        with pytest.raises(TimeoutError, match="no answer"):
            use()
    far.fail = False
    assert same(entry.value(), MANY)


def test_the_function_may_be_called_by_any_thread():
    far = Far(image_of(MANY))
    entry = far.open()
    with ThreadPoolExecutor(4) as pool:
        assert all(same(value, MANY) for value in pool.map(lambda _: entry.value(), range(8)))


def test_the_function_answers_with_any_buffer():
    image = image_of(MANY)
    for kind in (bytes, bytearray, memoryview, lambda data: np.frombuffer(data, "u1")):
        read = lambda offset, size, kind=kind: kind(image[offset : offset + size])  # noqa: E731
        entry = _core.Entry.from_reader(len(image), read)
        assert same(entry.value(), MANY)


@pytest.mark.parametrize("size", [0, 1, 112, 300, 65_536, 65_537, None])
def test_an_end_that_is_at_hand_is_not_asked_for(size: int | None) -> None:
    image = image_of(MANY)
    assert len(image) > 65_537
    tail = image[len(image) - size :] if size is not None else image
    asked = []

    def read(offset: int, size: int) -> bytes:
        asked.append(range(offset, offset + size))
        return image[offset : offset + size]

    entry = _core.Entry.from_reader(len(image), read, None, tail)
    assert same(entry.value(), MANY)
    start = len(image) - len(tail)
    if len(tail) < 112:  # too little to begin with
        assert asked
        return
    assert all(one.start < start for one in asked)
    with pytest.raises(_core.DamagedError):
        _core.Entry.from_reader(len(image), read, None, bytes(len(tail)))


def test_an_entry_and_its_function_are_collected_together():
    class Holder:
        entry: _core.Entry
        image = image_of(1)

        def read(self, offset: int, size: int) -> bytes:
            return self.image[offset : offset + size]

    died = threading.Event()
    holder = Holder()
    holder.entry = _core.Entry.from_reader(len(holder.image), holder.read)

    import weakref

    weakref.finalize(holder, died.set)
    del holder
    gc.collect()
    assert died.is_set()


# --- an entry as an image -----------------------------------------------------------------------


@everywhere
def test_an_image_of_an_entry_can_be_put_elsewhere(open_entry: Opener, tmp_path: Path):
    given = image_of(MANY, refreshed_ms=NOW, ttl_ms=60_000, token=5)
    entry = open_entry(given, tmp_path / "here")
    image = entry.to_image()
    del entry
    gc.collect()
    assert (image.key, image.token, len(image)) == (KEY, 5, len(given))
    there = a_store(tmp_path / "there")
    assert there.put(image) is None
    entry = there.fetch(KEY)
    assert isinstance(entry, _core.Entry)
    assert entry.tobytes() == given
    assert same(entry.value(), MANY)


def test_damage_behind_the_index_is_found_by_verify_and_by_use():
    image = bytearray(image_of(MANY))
    image[image.index(NOISE) + 1000] ^= 1
    entry = _core.Entry.from_bytes(image)
    assert entry.meta == {}
    for use in (entry.verify, entry.value, lambda: entry.read(1), lambda: entry.check([1])):
        with pytest.raises(_core.DamagedError):
            use()
    assert (np.frombuffer(entry.read(0)) == MANY["array"]).all()


# --- a new life without a new copy ----------------------------------------------------------------


def test_a_renewed_entry_has_another_life_and_the_same_bytes() -> None:
    value = {"array": np.arange(10_000.0), "text": "as it was"}
    draft = _core.Draft(value, _core.raw_key("key"), meta={}, refreshed_ms=1000, ttl_ms=50)
    first = _core.Entry.from_bytes(draft.compose().tobytes())
    before = first.tobytes()
    lives: list[tuple[int, int | None]] = [(2000, 70), (3000, None), (4000, 5)]
    entry = first
    for refreshed_ms, ttl_ms in lives:
        entry = entry.renewed(refreshed_ms, ttl_ms)
        for copied in (
            entry,
            _core.Entry.from_bytes(entry.tobytes(), _core.raw_key("key")),
            _core.Entry.from_bytes(entry.to_image().tobytes(), _core.raw_key("key")),
        ):
            assert (copied.refreshed_ms, copied.ttl_ms) == (refreshed_ms, ttl_ms)
            assert (copied.token, copied.length, copied.key) == (
                first.token,
                first.length,
                first.key,
            )
            copied.verify()
            np.testing.assert_array_equal(copied.value()["array"], value["array"])
    assert (first.refreshed_ms, first.ttl_ms) == (1000, 50)
    assert first.tobytes() == before
    views = [one.value(mode="view")["array"] for one in (first, entry)]
    assert np.shares_memory(*views)


def test_what_cannot_be_renewed_says_so() -> None:
    image = _core.Draft(1, _core.raw_key("key"), meta={}, refreshed_ms=1, ttl_ms=None).compose()
    data = image.tobytes()
    with pytest.raises(ValueError, match="48 bits"):
        _core.Entry.from_bytes(data).renewed(1 << 48, None)
    with pytest.raises((TypeError, ValueError, OverflowError)):
        _core.Entry.from_bytes(data).renewed(1, -1)
    with pytest.raises(TypeError):
        _core.Entry.from_bytes(data).renewed("now", None)  # type: ignore[arg-type]
    remote = _core.Entry.from_reader(len(data), lambda offset, size: data[offset : offset + size])
    with pytest.raises(ValueError, match="made from bytes"):
        remote.renewed(1, None)


def test_damage_is_looked_for_in_the_chunks_that_were_asked_for():
    data = bytearray(image_of(MANY))
    entry = _core.Entry.from_bytes(bytes(data))
    chunks = sum(part.chunk_count for part in entry.parts())
    assert entry.damage() == entry.damage(0, 2**32 - 1) == entry.damage(chunks) == []
    data[data.index(entry.read(0)[:32])] ^= 1
    entry = _core.Entry.from_bytes(bytes(data))
    found = entry.damage()
    assert found == [(0, 0)] and entry.damage(0, 1) == found and entry.damage(1) == []
    data[3] ^= 1
    assert _core.Entry.from_bytes(bytes(data)).damage() == [(None, None), *found]
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match="below"):
            entry.damage(wrong)
    with pytest.raises(TypeError):
        entry.damage("x")  # type: ignore[arg-type]
