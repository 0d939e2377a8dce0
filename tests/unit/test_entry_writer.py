"""A value that arrives in pieces: the container it makes, in bounded memory, and every misuse."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cogcache import _bridge, _core

KEY = _core.raw_key("a stream")
CHUNK = 5 << 20


def writer(**named: Any) -> _core.EntryWriter:
    named = {"meta": {1: 5}, "refreshed_ms": 1000, "ttl_ms": None, "token": 7} | named
    return _core.EntryWriter(KEY, **named)


def streamed(value: bytes, step: int, **named: Any) -> bytes:
    made = writer(**named)
    pieces = [made.feed(value[at : at + step]) for at in range(0, len(value), step)]
    pieces.append(made.finish())
    assert made.raw_bytes == len(value)
    assert made.length == sum(map(len, pieces))
    assert made.digest == _core.hash128(value)
    return b"".join(pieces)


def drafted(value: bytes, **named: Any) -> bytes:
    named = {"meta": {1: 5}, "refreshed_ms": 1000, "ttl_ms": None, "token": 7} | named
    return _core.Draft(value, KEY, **named).compose().tobytes()


def text(size: int) -> bytes:
    return (b"the same words again and again, " * (size // 32 + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 100_000, CHUNK - 1, CHUNK, CHUNK + 1])
@pytest.mark.parametrize("make", [os.urandom, text], ids=["random", "text"])
def test_the_container_is_the_one_of_the_same_bytes_whatever_the_pieces(
    size: int, make: Callable[[int], bytes]
) -> None:
    value = make(size)
    whole = drafted(value)
    for step in (1, 1000, 70_001, 6_000_000):
        if size <= 1000 * step:
            assert streamed(value, step) == whole
    assert _core.Entry.from_bytes(whole, KEY).value() == value


def test_chunks_leave_as_they_fill_and_no_earlier() -> None:
    made = writer(compress=False, chunk_size=64 << 10)
    assert len(made.feed(bytes(4097))) == 32  # the head alone
    assert made.feed(bytes((64 << 10) - 4098)) == b""
    assert len(made.feed(b"x")) == 64 << 10
    assert made.feed(b"") == b""
    assert len(made.feed(bytes(3 * (64 << 10) + 5))) == 3 * (64 << 10)


def test_chunks_that_do_not_compress_after_some_that_did_are_kept_whole() -> None:
    value = text(CHUNK) + os.urandom(2 * CHUNK + 17)
    entry = _core.Entry.from_bytes(streamed(value, 1 << 20), KEY)
    assert entry.parts()[0].codec == 1
    assert entry.value() == value
    assert entry.read(0, CHUNK - 5, CHUNK + 5) == value[CHUNK - 5 : CHUNK + 5]


def test_an_announced_length_must_come() -> None:
    made = writer(length=10)
    head = made.feed(b"12345")
    with pytest.raises(ValueError, match="11 bytes; 10 were announced"):
        made.feed(b"678901")
    with pytest.raises(ValueError, match="5 bytes; 10 were announced"):
        made.finish()
    rest = made.feed(b"67890") + made.finish()
    assert _core.Entry.from_bytes(head + rest, KEY).value() == b"1234567890"


@pytest.mark.parametrize(
    ("length", "options", "chunk_size"),
    [
        (None, {}, 5 << 20),
        (10**12, {}, 5 << 20),
        (10**12, {"chunk_size": 64 << 10}, 256 << 10),
        (20 * 10**9, {"max_chunks": 1000}, 306 * (64 << 10)),
        (1000 * (5 << 20), {"max_chunks": 1000}, 5 << 20),
        (1000 * (5 << 20) + 1, {"max_chunks": 1000}, (5 << 20) + (64 << 10)),
        (0, {"max_chunks": 1}, 5 << 20),
    ],
)
def test_chunks_grow_with_an_announced_length(
    length: int | None, options: dict[str, int], chunk_size: int
) -> None:
    assert writer(length=length, **options).chunk_size == chunk_size


def test_more_chunks_than_allowed_are_refused_before_a_byte_is_taken() -> None:
    made = writer(chunk_size=4096, max_chunks=3, compress=False)
    out = made.feed(bytes(3 * 4096))
    with pytest.raises(ValueError, match="over 3 chunks of 4096 bytes"):
        made.feed(b"x")
    assert made.raw_bytes == 3 * 4096
    assert _core.Entry.from_bytes(out + made.finish(), KEY).value() == bytes(3 * 4096)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"chunk_size": 4095}, "chunk_size: 4095; 4096 to 67108864"),
        ({"chunk_size": (64 << 20) + 1}, "chunk_size: 67108865; 4096 to 67108864"),
        ({"max_chunks": 0}, "max_chunks: 0; 1 to 4194303"),
        ({"max_chunks": 1 << 22}, "max_chunks: 4194304; 1 to 4194303"),
        ({"length": 10**12, "max_chunks": 1000}, "length: 1000000000000 bytes; 1000 chunks"),
        ({"level": 20}, "level: 20"),
        ({"meta": {1: "x"}}, "metadata: not a mapping, or a known field"),
        ({"refreshed_ms": -1}, "refreshed_ms: -1"),
    ],
)
def test_wrong_arguments_are_named(named: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        writer(**named)


def test_what_is_needed_is_named() -> None:
    with pytest.raises(TypeError, match="meta, refreshed_ms and ttl_ms are needed"):
        _core.EntryWriter(KEY, refreshed_ms=1, ttl_ms=None)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="key: 0 bytes"):
        _core.EntryWriter(b"", meta={}, refreshed_ms=1, ttl_ms=None)
    with pytest.raises(TypeError):
        writer().feed("text")  # type: ignore[arg-type]


def test_finish_may_replace_the_metadata_by_what_is_known_now() -> None:
    made = writer(ttl_ms=5000, stale_ms=None)
    out = made.feed(b"value")
    with pytest.raises(ValueError, match="meta"):
        made.finish({1: "no number"})
    out += made.finish(meta={1: 9, 4: "video/mp4", 8: made.digest})
    entry = _core.Entry.from_bytes(out, KEY)
    assert entry.meta == {1: 9, 4: "video/mp4", 8: _core.hash128(b"value")}
    assert (entry.refreshed_ms, entry.ttl_ms, entry.stale_ms) == (1000, 5000, None)
    assert entry.token == made.token == 7


def test_tokens_are_fresh_unless_given() -> None:
    assert len({writer(token=0).token for _ in range(100)}) == 100


def test_after_the_end_nothing_more_is_taken() -> None:
    made = writer()
    made.finish()
    assert made.finished
    for call in (lambda: made.feed(b"x"), made.finish):
        with pytest.raises(ValueError, match="has finished"):
            call()


async def test_the_pool_does_the_same() -> None:
    value = text(3 * CHUNK + 3)
    made = writer()
    pieces = [
        await _bridge.run(made, "feed", value[at : at + 900_000])
        for at in range(0, len(value), 900_000)
    ]
    pieces.append(await _bridge.run(made, "finish", meta={1: 5}))
    assert b"".join(pieces) == drafted(value)


async def test_a_call_beside_another_is_refused_and_a_cancelled_one_ends_the_entry() -> None:
    made = writer()
    task = asyncio.ensure_future(_bridge.run(made, "feed", text(40 << 20)))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="in use by another call"):
        made.feed(b"x")
    with pytest.raises(RuntimeError, match="in use by another call"):
        made.digest  # noqa: B018
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(_core.drain_pool, 60.0)
    for _ in range(10_000):  # until the loop has delivered what the pool has done
        try:
            made.feed(b"x")
        except RuntimeError:
            await asyncio.sleep(0)
        except ValueError as refused:
            assert "failed or was cancelled" in str(refused)
            return
    raise AssertionError("the cancelled call never ended")


def test_other_threads_run_while_a_large_piece_is_compressed() -> None:
    made = writer(level=19)
    piece = os.urandom(1 << 10) * (6 << 10)
    begin = threading.Event()
    ran = threading.Event()

    def run() -> None:
        begin.wait()
        ran.set()

    thread = threading.Thread(target=run)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # from here on a thread runs only where this one lets it
    try:
        begin.set()
        for _ in range(100):  # a busy machine may give the thread no processor at once
            made.feed(piece)
            if ran.is_set():
                break
        let_run = ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert let_run


def test_a_forked_child_cannot_go_on_with_its_parents_token() -> None:
    made = writer()
    child = os.fork()
    if child == 0:
        try:
            made.feed(b"x")
        except ValueError as refused:
            os._exit(0 if "belongs to the parent" in str(refused) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(made.feed(b"x")) == 32
