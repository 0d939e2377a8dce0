"""Reading a stored entry by ranges: the container's bytes, and always those of one generation."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cogcache import _bridge, _core

KEY = _core.raw_key("one generation")
VALUE = random.Random(1).randbytes(2_000_000)
OTHER = random.Random(2).randbytes(2_000_000)


@pytest.fixture(params=["mapped", "no_map", "table_less"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_core.Store]:
    options: dict[str, Any] = {} if request.param == "mapped" else {request.param: True}
    opened = _core.Store(str(tmp_path), max_bytes=20_000_000, min_free_bytes=0, **options)
    yield opened
    opened.close()


def put(store: _core.Store, value: Any) -> bytes:
    image = _core.Draft(value, KEY, meta={}, refreshed_ms=1000, ttl_ms=None).compose()
    assert store.put(image) is None
    return image.tobytes()


def opened(store: _core.Store) -> _core.Entry:
    entry = store.fetch(KEY, _core.GET_INDEX_ONLY)
    assert isinstance(entry, _core.Entry), entry
    return entry


@pytest.mark.parametrize("size", [100, 100_000, 2_000_000])
def test_parts_of_the_container_make_the_container(store: _core.Store, size: int) -> None:
    image = put(store, VALUE[:size])
    entry = opened(store)
    step = max(entry.length // 5, 1)
    parts = [entry.read_container(at, step) for at in range(0, entry.length, step)]
    assert b"".join(parts) == image
    assert entry.read_container(0, 2**63) == image
    assert entry.read_container(len(image) - 10, 16 << 20) == image[-10:]
    assert entry.read_container(len(image), 1) == entry.read_container(2**64 - 1, 5) == b""
    assert entry.read_container(7, 0) == b""


@pytest.mark.parametrize("size", [100, 100_000, 2_000_000])
@pytest.mark.parametrize("fate", ["replaced", "deleted", "evicted", "closed"])
def test_reads_hold_one_generation_whatever_happens_to_the_name(
    store: _core.Store, fate: str, size: int
) -> None:
    value = VALUE[:size]
    image = put(store, value)
    entry = opened(store)
    assert entry.read_container(0, 50) == image[:50]
    if fate == "replaced":
        put(store, OTHER[:size])
    elif fate == "deleted":
        assert store.delete(KEY)
    elif fate == "evicted":
        fill(store)
    else:
        store.close()
    assert entry.read_container(0, len(image)) == image
    if size > 4096:
        assert entry.read(0, 1000, 2000) == value[1000:2000]
    assert entry.value() == value
    entry.verify()


def fill(store: _core.Store) -> None:
    """Put other entries until ours had to go."""
    for number in range(200):
        key = _core.raw_key(f"other {number}")
        what = _core.Draft(OTHER, key, meta={}, refreshed_ms=1000, ttl_ms=None, compress=False)
        assert store.put(what) is None
        if store.fetch(KEY, _core.GET_INDEX_ONLY | _core.GET_NO_TOUCH) == "absent":
            return
    raise AssertionError("never evicted")


async def test_the_pool_does_the_same(store: _core.Store) -> None:
    image = put(store, VALUE)
    entry = opened(store)
    assert await _bridge.run(entry, "read_container", 1000, 1_500_000) == image[1000:1_501_000]


def test_behind_a_function_exactly_the_range_is_asked_for() -> None:
    image = _core.Draft(VALUE, KEY, meta={}, refreshed_ms=1000, ttl_ms=None).compose().tobytes()
    asked: list[tuple[int, int]] = []

    def read(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return image[offset : offset + size]

    entry = _core.Entry.from_reader(len(image), read, KEY)
    asked.clear()
    assert entry.read_container(5, 1_000_000) == image[5:1_000_005]
    assert asked == [(5, 1_000_000)]


def test_bytes_that_were_given_away_writable_are_not_sent_anywhere(tmp_path: Path) -> None:
    store = _core.Store(str(tmp_path), min_free_bytes=0)
    put(store, np.arange(1_000_000))
    entry = store.fetch(KEY)
    assert isinstance(entry, _core.Entry)
    if entry.mapped:
        entry.value()
        with pytest.raises(ValueError, match="read_container"):
            entry.read_container(0, 10)
    store.close()


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    store = _core.Store(str(tmp_path), min_free_bytes=0)
    put(store, b"x")
    entry = opened(store)
    for offset, size in ((-1, 5), (0, -1), (2**64, 1)):
        with pytest.raises((ValueError, OverflowError)):
            entry.read_container(offset, size)
    with pytest.raises(TypeError):
        entry.read_container("0", 1)  # type: ignore[arg-type]
    store.close()
