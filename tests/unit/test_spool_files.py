"""Files that outlive the entries they came from, and the limit that counts them all the while."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cogcache import _bridge, _core

KEY = _core.raw_key("spooled")
VALUE = random.Random(1).randbytes(1_500_000)
LIMIT = 20_000_000


@pytest.fixture(params=["mapped", "no_map", "plain_posix", "table_less"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_core.Store]:
    options: dict[str, Any] = {} if request.param == "mapped" else {request.param: True}
    opened = _core.Store(str(tmp_path), max_bytes=LIMIT, min_free_bytes=0, **options)
    yield opened
    opened.close()


def put(store: _core.Store, value: Any, key: bytes = KEY) -> bytes:
    what = _core.Draft(value, key, meta={}, refreshed_ms=1000, ttl_ms=None, compress=False)
    image = what.compose()
    assert store.put(image) is None
    return image.tobytes()


def opened(store: _core.Store, key: bytes = KEY) -> _core.Entry:
    entry = store.fetch(key, _core.GET_INDEX_ONLY)
    assert isinstance(entry, _core.Entry), entry
    return entry


def spooled(store: _core.Store) -> dict[str, bytes]:
    path = Path(store.root, "spool")
    return {name: Path(path, name).read_bytes() for name in os.listdir(path)}


def name_of(entry: _core.Entry, label: str) -> str:
    return f"{entry.digest.hex()}-{label}"


def used(store: _core.Store) -> int:
    """Bytes counted; the same when everything is counted anew."""
    stats = store.stats()
    kept = int(stats["used_bytes"])
    assert stats["held_bytes"] == 0
    assert store.sweep(force=True) is not None
    assert int(store.stats()["used_bytes"]) == kept or stats["table_less"]
    return kept


def on_disk(store: _core.Store) -> int:
    """Blocks of all files under the root, each once."""
    blocks: dict[int, int] = {}
    for folder, _, names in os.walk(store.root):
        for name in [".", *names]:
            status = os.lstat(os.path.join(folder, name))
            blocks[status.st_ino] = status.st_blocks * 512
    return sum(blocks.values())


@pytest.mark.parametrize("size", [100, 1_500_000])
def test_a_link_is_that_generation_whatever_becomes_of_the_entry(
    store: _core.Store, size: int
) -> None:
    image = put(store, VALUE[:size])
    entry = opened(store)
    assert store.spool_link(entry, "job.1") is None
    assert store.spool_link(entry, "job.1") is None  # there already
    name = name_of(entry, "job.1")
    assert spooled(store) == {name: image}
    put(store, "another")
    assert spooled(store) == {name: image}
    assert store.delete(KEY)
    assert spooled(store) == {name: image}
    read = _core.Entry.from_bytes(spooled(store)[name], KEY)
    read.verify()
    assert store.spool_remove(name) is True
    assert store.spool_remove(name) is False
    assert spooled(store) == {}


def test_both_names_are_counted_until_each_is_gone(tmp_path: Path) -> None:
    store = _core.Store(str(tmp_path), max_bytes=LIMIT, min_free_bytes=0)
    put(store, "something else", _core.raw_key("beside"))
    empty = used(store)
    put(store, VALUE)
    entry = opened(store)
    one = used(store) - empty
    assert one >= len(VALUE)
    assert store.spool_link(entry, "x") is None
    assert used(store) - empty >= 2 * len(VALUE)
    assert store.delete(KEY)
    assert len(VALUE) <= used(store) - empty <= one + 4096
    assert store.spool_remove(name_of(entry, "x"))
    assert used(store) - empty <= 16384  # the table and directory of its shard stay
    store.close()


def test_a_lost_index_counts_the_spool_again(tmp_path: Path) -> None:
    store = _core.Store(str(tmp_path), max_bytes=LIMIT, min_free_bytes=0)
    put(store, VALUE)
    entry = opened(store)
    assert store.spool_link(entry, "x") is None
    assert store.delete(KEY)
    before = used(store)
    os.unlink(Path(store.root, "index"))
    put(store, "a put makes a new one", _core.raw_key("beside"))
    store.sweep(force=True)
    assert used(store) >= before
    assert spooled(store).keys() == {name_of(entry, "x")}
    store.close()


def test_the_limit_holds_while_spooled_generations_are_evicted(tmp_path: Path) -> None:
    store = _core.Store(str(tmp_path), max_bytes=LIMIT, min_free_bytes=0)
    kept: list[str] = []
    for number in range(40):
        key = _core.raw_key(f"entry {number}")
        what = _core.Draft(VALUE, key, meta={}, refreshed_ms=1000, ttl_ms=None, compress=False)
        outcome = store.put(what)
        assert outcome in (None, "no-space")
        if outcome is None and len(kept) < 6:
            entry = opened(store, key)
            word = store.spool_link(entry, "x")
            assert word in (None, "no-space", "absent")
            if word is None:
                kept.append(name_of(entry, "x"))
        assert on_disk(store) <= LIMIT
        assert store.stats()["used_bytes"] <= LIMIT
    assert len(kept) == 6
    assert set(spooled(store)) == set(kept)
    for name in kept:
        assert store.spool_remove(name)
    for number in range(40, 48):
        put(store, VALUE, _core.raw_key(f"entry {number}"))
    assert used(store) <= LIMIT
    store.close()


def test_a_label_in_use_for_another_generation_is_refused(store: _core.Store) -> None:
    put(store, VALUE)
    assert store.spool_link(opened(store), "x") is None
    put(store, VALUE[::-1])
    with pytest.raises(ValueError, match="in use for another generation"):
        store.spool_link(opened(store), "x")


def test_a_generation_that_is_gone_is_not_linked(store: _core.Store) -> None:
    put(store, VALUE)
    old = opened(store)
    put(store, VALUE[::-1])
    assert store.spool_link(old, "x") == "absent"
    assert store.delete(KEY)
    assert store.spool_link(old, "y") == "absent"
    assert not Path(store.root, "spool").exists() or spooled(store) == {}
    assert store.put(_core.Draft(b"x", KEY, meta={}, refreshed_ms=1, ttl_ms=None)) is None


def test_records_are_replaced_as_a_whole(store: _core.Store) -> None:
    put(store, "value")
    digest = opened(store).digest
    for record in (b"first", b"second" * 2000, b"", b"third"):
        assert store.spool_write(digest, "job", record) is None
        assert spooled(store) == {f"{digest.hex()}-job": record}
    used(store)
    assert store.spool_remove(f"{digest.hex()}-job")
    used(store)


@pytest.mark.parametrize("label", ["", "A", "a/b", "..%", "x" * 65, "a b", "\u00e9"])
def test_labels_are_plain(store: _core.Store, label: str) -> None:
    put(store, "value")
    entry = opened(store)
    for call in (
        lambda: store.spool_link(entry, label),
        lambda: store.spool_write(entry.digest, label, b"x"),
    ):
        with pytest.raises(ValueError, match="a label is 1 to 64"):
            call()


@pytest.mark.parametrize("name", ["", "x", "0" * 32, "0" * 32 + "-", "G" * 32 + "-x", "../index"])
def test_only_names_of_spooled_files_are_removed(store: _core.Store, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a spooled file"):
        store.spool_remove(name)


def test_other_arguments_are_checked(store: _core.Store) -> None:
    image = put(store, "value")
    with pytest.raises(ValueError, match="does not come from a store"):
        store.spool_link(_core.Entry.from_bytes(image), "x")
    with pytest.raises(TypeError):
        store.spool_link("entry", "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="16 bytes"):
        store.spool_write(b"short", "x", b"")


def test_a_store_that_takes_no_writes_says_so(tmp_path: Path) -> None:
    writable = _core.Store(str(tmp_path))
    put(writable, "value")
    store = _core.Store(str(tmp_path), access="ro")
    entry = opened(store)
    assert store.spool_link(entry, "x") == "read-only"
    assert store.spool_write(entry.digest, "x", b"") == "read-only"
    with pytest.raises(OSError, match="read-only"):
        store.spool_remove(name_of(entry, "x"))
    store.close()
    writable.close()


async def test_the_pool_does_the_same(store: _core.Store) -> None:
    image = put(store, VALUE)
    entry = opened(store)
    assert await _bridge.run(store, "spool_link", entry, "x") is None
    assert await _bridge.run(store, "spool_write", entry.digest, "job", b"record") is None
    assert spooled(store) == {name_of(entry, "x"): image, name_of(entry, "job"): b"record"}
    assert await _bridge.run(store, "spool_remove", name_of(entry, "x")) is True
