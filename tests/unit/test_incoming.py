"""Containers that arrive in pieces: what is published, what is refused, and what is left behind."""

import asyncio
import gc
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cogcache import _bridge, _core
from cogcache.exceptions import ClosedError

KEY = _core.raw_key("incoming")
LIMIT = 200_000_000


def container(value: Any, key: bytes = KEY, **named: Any) -> bytes:
    named = {"meta": {1: 5, 2: 1500}, "refreshed_ms": 1000, "ttl_ms": None} | named
    return _core.Draft(value, key, **named).compose().tobytes()


def begin(store: _core.Store, length: int | None = None, key: bytes = KEY) -> _core.Incoming:
    incoming = store.incoming(key, length=length)
    assert isinstance(incoming, _core.Incoming), incoming
    return incoming


def value_of(store: _core.Store) -> Any:
    entry = store.fetch(KEY)
    return entry.value() if isinstance(entry, _core.Entry) else entry


def left_over(store: _core.Store) -> tuple[int, list[str]]:
    """Bytes still held in the limit, and names in the directory of temp files."""
    return store.stats()["held_bytes"], os.listdir(Path(store.root, "tmp"))


@pytest.fixture(params=["mapped", "no_map", "table_less"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_core.Store]:
    options: dict[str, Any] = {} if request.param == "mapped" else {request.param: True}
    opened = _core.Store(str(tmp_path), max_bytes=LIMIT, min_free_bytes=0, **options)
    yield opened
    opened.close()


@pytest.mark.parametrize("size", [0, 100, 300_000, 12_000_000])
@pytest.mark.parametrize("known", [True, False])
def test_pieces_in_any_order_make_the_entry(store: _core.Store, size: int, known: bool) -> None:
    value = random.Random(size).randbytes(size)
    image = container(value)
    incoming = begin(store, len(image) if known else None)
    step = max(len(image) // 7, 1)
    starts = list(range(0, len(image), step))
    random.Random(1).shuffle(starts)
    for start in starts:
        assert value_of(store) == "absent"
        assert incoming.write_at(start, image[start : start + step]) is None
    assert incoming.written == [(0, len(image))]
    assert incoming.commit() is None
    assert incoming.ended
    assert value_of(store) == value
    assert left_over(store) == (0, [])
    assert store.stats()["puts"] == 1


def test_a_writers_bytes_are_appended_and_need_no_second_look(store: _core.Store) -> None:
    value = random.Random(5).randbytes(11_000_000)
    writer = _core.EntryWriter(KEY, meta={}, refreshed_ms=1000, ttl_ms=None)
    incoming = begin(store)
    for start in range(0, len(value), 700_000):
        assert incoming.append(writer.feed(value[start : start + 700_000])) is None
    assert incoming.append(writer.finish()) is None
    assert incoming.commit(verified=True) is None
    assert value_of(store) == value


def test_an_old_generation_stands_until_the_commit_and_is_replaced_by_it(
    store: _core.Store,
) -> None:
    old = _core.Draft("old", KEY, meta={}, refreshed_ms=1000, ttl_ms=None)
    assert store.put(old) is None
    image = container("new")
    incoming = begin(store, len(image))
    assert incoming.append(image) is None
    assert value_of(store) == "old"
    assert incoming.commit() is None
    assert value_of(store) == "new"


def test_life_and_cost_come_from_the_container(store: _core.Store) -> None:
    now = store.now_ms()
    image = container("mortal", refreshed_ms=now, ttl_ms=50_000)
    incoming = begin(store, len(image))
    incoming.append(image)
    assert incoming.commit() is None
    entry = store.fetch(KEY)
    assert isinstance(entry, _core.Entry)
    assert (entry.expires_ms, entry.cost_ms) == (now + 50_000, 1500)
    store.set_clock_offset(60_000)
    assert store.fetch(KEY) == "expired"


def test_many_threads_write_at_once(store: _core.Store) -> None:
    value = random.Random(9).randbytes(20_000_000)
    image = container(value)
    incoming = begin(store, len(image))
    step = 333_333
    starts = list(range(0, len(image), step))
    refused: list[Any] = []

    def work() -> None:
        while True:
            try:
                start = starts.pop()
            except IndexError:
                return
            refused.append(incoming.write_at(start, memoryview(image)[start : start + step]))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refused) == {None}
    assert incoming.commit() is None
    assert value_of(store) == value


def test_written_tells_what_is_missing_and_a_commit_refuses_until_it_is_there(
    store: _core.Store,
) -> None:
    image = container(random.Random(6).randbytes(10_000))
    incoming = begin(store, len(image))
    with pytest.raises(ValueError, match=r"bytes 0\.\.\d+ of \d+ are missing"):
        incoming.commit()
    incoming.write_at(1000, image[1000:2000])
    incoming.write_at(3000, image[3000:])
    assert incoming.written == [(1000, 2000), (3000, len(image))]
    with pytest.raises(ValueError, match=r"bytes 0\.\.1000 of"):
        incoming.commit()
    incoming.write_at(0, image[:1001])
    assert incoming.written == [(0, 2000), (3000, len(image))]
    with pytest.raises(ValueError, match=r"bytes 2000\.\.3000 of"):
        incoming.commit()
    incoming.write_at(1500, image[1500:3500])
    assert incoming.written == [(0, len(image))]
    assert incoming.commit() is None
    assert value_of(store) == random.Random(6).randbytes(10_000)


def test_a_range_beyond_the_length_is_refused(store: _core.Store) -> None:
    incoming = begin(store, 100)
    for offset, size in ((100, 1), (0, 101), (2**63, 1), (2**64 - 1, 5)):
        with pytest.raises(ValueError, match="the length is 100"):
            incoming.write_at(offset, bytes(size))
    assert incoming.written == []
    assert incoming.write_at(5000, b"") is None
    incoming.abort()


@pytest.mark.parametrize("verified", [False, True])
def test_every_damage_is_found_that_nobody_has_looked_for(
    store: _core.Store, verified: bool
) -> None:
    image = bytearray(container(random.Random(3).randbytes(400_000)))
    places = {
        "head": 5,
        "data": 200_000,
        "index": len(image) - 112 - 20,
        "footer": len(image) - 10,
    }
    for place, at in places.items():
        damaged = bytearray(image)
        damaged[at] ^= 1
        incoming = begin(store, len(image))
        incoming.append(damaged)
        if verified and place in ("head", "data"):
            incoming.abort()  # the caller says that it has checked these
            continue
        assert incoming.commit(verified) == "damaged"
        assert incoming.ended
        assert value_of(store) == "absent"
    assert left_over(store) == (0, [])


def test_a_small_container_is_verified_in_any_case(store: _core.Store) -> None:
    image = bytearray(container(random.Random(3).randbytes(40_000)))
    image[20_000] ^= 1
    incoming = begin(store, len(image))
    incoming.append(image)
    assert incoming.commit(verified=True) == "damaged"
    assert value_of(store) == "absent"


def test_what_is_no_container_of_the_key_is_not_published(store: _core.Store) -> None:
    whole = container("x" * 1000)
    other = container("x" * 1000, key=_core.raw_key("another"))
    no_slot = bytearray(whole)
    no_slot[-112:-48] = bytes(64)
    cases = [
        (other, "foreign"),
        (whole[:-1], "damaged"),
        (whole[1:], "damaged"),
        (whole + b"\0", "damaged"),
        (b"<html>", "damaged"),
        (b"", "damaged"),
        (bytes(500), "damaged"),
        (bytes(no_slot), "damaged"),
    ]
    for image, word in cases:
        incoming = begin(store, len(image))
        incoming.append(image)
        assert incoming.commit() == word
    assert value_of(store) == "absent"
    assert left_over(store) == (0, [])


def test_after_the_end_everything_is_refused(store: _core.Store) -> None:
    image = container("x")
    for end in ("commit", "abort"):
        incoming = begin(store, len(image))
        incoming.append(image)
        getattr(incoming, end)()
        assert incoming.ended
        for call in (lambda i=incoming: i.append(b"x"), lambda i=incoming: i.commit()):
            with pytest.raises(ClosedError):
                call()
        incoming.abort()
    assert left_over(store) == (0, [])


def test_what_is_dropped_leaves_nothing(store: _core.Store) -> None:
    incoming = begin(store, 5_000_000)
    incoming.write_at(10, b"some")
    assert len(left_over(store)[1]) == 1
    del incoming
    gc.collect()
    assert left_over(store) == (0, [])


def test_the_whole_length_is_held_from_the_beginning(tmp_path: Path) -> None:
    store = _core.Store(str(tmp_path), max_bytes=LIMIT, min_free_bytes=0)
    incoming = begin(store, 20_000_000)
    assert store.stats()["held_bytes"] >= 20_000_000
    incoming.abort()
    assert store.stats()["held_bytes"] == 0
    incoming = begin(store)
    before = store.stats()["held_bytes"]
    assert 0 < before < 3_000_000
    incoming.write_at(6_000_000, b"far")
    assert store.stats()["held_bytes"] > 6_000_000
    incoming.abort()
    store.close()


def test_what_is_too_large_is_refused_at_once_or_when_it_turns_out(store: _core.Store) -> None:
    assert store.incoming(KEY, length=LIMIT // 8 + 1) == "too-large"
    incoming = begin(store)
    assert incoming.write_at(LIMIT // 8, b"x") == "too-large"
    assert incoming.write_at(0, b"x") is None
    assert incoming.written == [(0, 1)]
    incoming.abort()
    assert left_over(store) == (0, [])


def test_a_store_that_takes_no_writes_says_so(tmp_path: Path) -> None:
    _core.Store(str(tmp_path)).close()
    store = _core.Store(str(tmp_path), access="ro")
    assert store.incoming(KEY) == "read-only"
    store.close()


def test_a_store_that_is_closed_meanwhile_refuses_and_is_closed_in_the_end(
    store: _core.Store,
) -> None:
    incoming = begin(store, 1000)
    descriptors = len(os.listdir("/proc/self/fd"))
    store.close()
    with pytest.raises(ClosedError):
        incoming.append(b"x")
    with pytest.raises(ClosedError):
        incoming.commit()
    tmp = Path(store.root, "tmp")
    assert len(os.listdir(tmp)) == 1
    incoming.abort()
    assert os.listdir(tmp) == []
    assert len(os.listdir("/proc/self/fd")) < descriptors - 1  # the file and the root, at least


def test_a_forked_child_owns_nothing_of_it(store: _core.Store) -> None:
    image = container(random.Random(2).randbytes(2_000_000))
    incoming = begin(store, len(image))
    incoming.write_at(0, image[:1_000_000])
    child = os.fork()
    if child == 0:
        verdict = 1
        try:
            incoming.append(b"x")
        except ValueError as refused:
            verdict = 0 if "belongs to the parent" in str(refused) else 2
        if incoming.written != []:
            verdict = 3
        incoming.abort()
        del incoming
        gc.collect()
        os._exit(verdict)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert incoming.write_at(1_000_000, image[1_000_000:]) is None
    assert incoming.commit() is None
    assert value_of(store) == random.Random(2).randbytes(2_000_000)


async def test_the_pool_does_the_same(store: _core.Store) -> None:
    value = random.Random(4).randbytes(8_000_000)
    image = container(value)
    incoming = await _bridge.run(store, "incoming", KEY, length=len(image))
    step = 1_000_000
    outcomes = await asyncio.gather(
        *(
            _bridge.run(incoming, "write_at", start, image[start : start + step])
            for start in range(0, len(image), step)
        )
    )
    assert set(outcomes) == {None}
    assert await _bridge.run(incoming, "commit") is None
    assert value_of(store) == value


async def test_a_cancelled_download_leaves_nothing(store: _core.Store) -> None:
    incoming = await _bridge.run(store, "incoming", KEY, length=16_000_000)
    writes = [
        asyncio.ensure_future(_bridge.run(incoming, "write_at", start, bytes(1_000_000)))
        for start in range(0, 16_000_000, 1_000_000)
    ]
    await asyncio.sleep(0)
    for write in writes:
        write.cancel()
    await _bridge.run(incoming, "abort")
    await asyncio.gather(*writes, return_exceptions=True)
    assert await asyncio.to_thread(_core.drain_pool, 60.0)
    assert left_over(store) == (0, [])
    assert value_of(store) == "absent"
