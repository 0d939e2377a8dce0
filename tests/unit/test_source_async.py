"""Capturing from an event loop: inline when it cannot wait, elsewhere when it could."""

import asyncio
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.fakesystem import FakeSystem, NoSystem

from cogcache import _offload
from cogcache.memo import DigestMemo
from cogcache.sources import (
    SourceUnavailableError,
    capture,
    capture_async,
    changed_async,
    settle_async,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(os.urandom(3_000_000))
    os.utime(path, ns=(10**18 + 123_456_789, 10**18 + 123_456_789))
    return path


class Later(FakeSystem):
    def now_ns(self):
        return super().now_ns() + 10**10


async def test_a_plain_local_stat_runs_in_the_thread_of_the_loop(video):
    system = FakeSystem()
    ref = await capture_async(video, system=system)

    assert ref == capture(video)
    assert system.threads() == {threading.get_ident()}
    assert not await changed_async(ref, system=system)
    assert await settle_async(ref, system=system)
    assert system.threads() == {threading.get_ident()}


async def test_what_is_never_opened_needs_no_machine():
    ref = await capture_async("s3://b/k", "content", system=NoSystem())

    assert ref.kind == "opaque"
    assert not await changed_async(ref, system=NoSystem())
    assert await settle_async(ref, system=NoSystem())


@pytest.mark.parametrize("identity", ["content", "sampled", "sha256"])
async def test_a_digest_is_computed_elsewhere(video, identity):
    system = FakeSystem()
    ref = await capture_async(video, identity, system=system)
    readers = {thread for call, thread in system.calls if call == "read"}

    assert ref == capture(video, identity)
    assert readers
    assert threading.get_ident() not in readers
    before = len(system.calls)
    assert not await changed_async(ref, system=system)
    assert threading.get_ident() not in {thread for _, thread in system.calls[before:]}


async def test_a_remembered_digest_is_inline(video, tmp_path):
    memo = DigestMemo(tmp_path / "memo")
    first = await capture_async(video, "content", memo=memo, system=Later())
    system = Later()

    assert await capture_async(video, "content", memo=memo, system=system) == first
    assert system.threads() == {threading.get_ident()}
    assert system.called("open") == 0


@pytest.mark.parametrize("identity", ["stat", "content"])
async def test_a_remote_source_is_looked_at_elsewhere(video, identity):
    system = FakeSystem()
    system.remote = True
    ref = await capture_async(video, identity, system=system)

    assert ref == capture(video, identity)
    assert system.calls
    assert threading.get_ident() not in system.threads()
    assert not await changed_async(ref, system=system)
    assert threading.get_ident() not in system.threads()


async def test_both_paths_of_a_file_uri_are_looked_at_elsewhere(tmp_path):
    (tmp_path / "a%20b").write_bytes(b"x")
    system = FakeSystem()
    system.remote = True

    assert (await capture_async(f"file://{tmp_path}/a%20b", system=system)).kind == "stat"
    assert threading.get_ident() not in system.threads()


async def test_the_errors_are_those_of_the_plain_form(tmp_path, video):
    for remote in (False, True):
        system = FakeSystem()
        system.remote = remote
        system.errors[os.fsencode(video)] = errno.ESTALE
        with pytest.raises(SourceUnavailableError) as caught:
            await capture_async(video, system=system)
        assert caught.value.errno == errno.ESTALE
        with pytest.raises(ValueError, match="source_id="):
            await capture_async(tmp_path, system=system)
        with pytest.raises(ValueError, match="did you mean"):
            await capture_async(video, "contents", system=system)
        with pytest.raises(TypeError):
            await capture_async(5, system=system)


async def test_a_relative_path_is_anchored_before_the_first_await(video, monkeypatch, tmp_path):
    monkeypatch.chdir(video.parent)
    system = FakeSystem()
    system.remote = True
    system.hang = threading.Event()
    task = asyncio.create_task(capture_async("v.mp4", system=system))
    await asyncio.sleep(0)
    monkeypatch.chdir("/")
    system.hang.set()

    assert await task == capture(video)


@pytest.mark.parametrize("identity", ["stat", "content"])
async def test_a_server_that_gives_no_answer_is_unavailable(video, identity):
    system = FakeSystem()
    system.remote = True
    system.hang = threading.Event()
    try:
        with pytest.raises(SourceUnavailableError) as caught:
            await capture_async(video, identity, timeout_seconds=0.05, system=system)
        assert caught.value.errno == errno.ETIMEDOUT
    finally:
        system.hang.set()


async def test_the_loop_runs_on_while_a_server_hangs(video):
    system = FakeSystem()
    system.remote = True
    system.hang = threading.Event()
    task = asyncio.create_task(capture_async(video, system=system))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert not task.done()
    system.hang.set()

    assert await task == capture(video)


async def test_slow_but_steady_reading_is_no_hang(tmp_path, monkeypatch):
    video = tmp_path / "v.mp4"
    video.write_bytes(bytes(4 << 20))
    begun, turn = threading.Semaphore(0), threading.Semaphore(0)
    limits = 0

    class Slow(FakeSystem):
        def read(self, fd, room, offset):
            begun.release()
            assert turn.acquire(timeout=300)
            return super().read(fd, room, offset)

    async def wait(waiting, *, timeout):
        """The time limit has passed whenever one more block was read."""
        nonlocal limits
        (waiter,) = waiting
        while limits == 0 and not begun.acquire(blocking=False):
            await asyncio.sleep(0)
        limits += 1
        turn.release()
        while not waiter.done() and not begun.acquire(blocking=False):
            await asyncio.sleep(0)
        return ({waiter}, set()) if waiter.done() else (set(), {waiter})

    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "wait", wait)
        ref = await capture_async(video, "content", timeout_seconds=1.0, system=Slow())

    assert limits > 3
    assert ref == capture(video, "content")


async def test_a_cancelled_capture_stops_reading(video):
    started, go_on = threading.Event(), threading.Event()

    class Watched(FakeSystem):
        def read(self, fd, room, offset):
            started.set()
            go_on.wait(60)
            return super().read(fd, room, offset)

    system = Watched()
    task = asyncio.create_task(capture_async(video, "content", system=system))
    while not started.is_set():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    # The thread is free again for other work, after one block of three.
    await capture_async(video, "content")
    for _ in range(100_000):
        if _offload._pool._waiting == 0:
            break
        await asyncio.sleep(0.001)

    assert _offload._pool._waiting == 0
    assert system.called("read") == 1


async def test_many_captures_share_a_few_threads(video):
    systems = [FakeSystem() for _ in range(50)]
    refs = await asyncio.gather(
        *(capture_async(video, "content", system=system) for system in systems)
    )

    assert len(set(refs)) == 1
    readers = {t for system in systems for call, t in system.calls if call == "read"}
    assert 1 <= len(readers) <= _offload._THREADS


async def test_more_hung_calls_than_threads_all_come_back(video):
    system = FakeSystem()
    system.remote = True
    system.hang = threading.Event()
    try:
        answers = await asyncio.gather(
            *(capture_async(video, timeout_seconds=0.05, system=system) for _ in range(20)),
            return_exceptions=True,
        )
    finally:
        system.hang.set()

    assert all(isinstance(answer, SourceUnavailableError) for answer in answers)
    assert await capture_async(video, "content") == capture(video, "content")


async def test_settling_a_young_file_is_an_await(video):
    system = FakeSystem()
    system.now = os.stat(video).st_mtime_ns + 9_999_000
    ref = await capture_async(video, system=system)

    assert ref.young_ns
    assert await settle_async(ref, system=system)
    video.write_bytes(os.urandom(3_000_000))
    os.utime(video, ns=(ref.mtime_ns, ref.mtime_ns))
    assert not await settle_async(ref, system=system)


def test_captures_from_several_loops(video):
    refs = [asyncio.run(capture_async(video, "content")) for _ in range(3)]

    assert len(set(refs)) == 1


@pytest.mark.parametrize("identity", ["content", "stat"])
async def test_no_thread_is_a_source_that_cannot_be_looked_at_now(video, identity, monkeypatch):
    system = FakeSystem()
    system.remote = True

    def refuses(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_offload, "_pool", _offload._Pool())
    with monkeypatch.context() as none:
        none.setattr(threading.Thread, "start", refuses)
        with pytest.raises(SourceUnavailableError, match="can't start new thread"):
            await capture_async(video, identity, system=system)
    refs = [capture_async(video, identity, system=system) for _ in range(_offload._THREADS + 1)]
    assert len(set(await asyncio.gather(*refs))) == 1
    assert 1 <= _offload._pool._threads <= _offload._THREADS


async def test_who_stops_waiting_at_the_last_moment_costs_no_thread(monkeypatch):
    """The result is there, and is no longer wanted when it is to be handed over."""

    class Given(_offload.Future):
        def set_result(self, result):
            self.cancel()
            super().set_result(result)

    monkeypatch.setattr(_offload, "_pool", _offload._Pool())
    monkeypatch.setattr(_offload, "Future", Given)
    for _ in range(3 * _offload._THREADS):
        with pytest.raises(asyncio.CancelledError):
            await _offload.offload(lambda beat: 1, timeout_seconds=None)
    monkeypatch.undo()
    assert await _offload.offload(lambda beat: 2, timeout_seconds=None) == 2


PROGRAM_HUNG = """
import asyncio, sys, threading
from support.fakesystem import FakeSystem
from cogcache.sources import SourceUnavailableError, capture_async

async def main():
    system = FakeSystem()
    system.remote = True
    system.hang = threading.Event()
    try:
        await capture_async(sys.argv[1], timeout_seconds=0.01, system=system)
    except SourceUnavailableError:
        print("unavailable")

asyncio.run(main())
"""


def run(program, *args):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *args],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )


def test_a_process_ends_although_a_server_hangs(video):
    done = run(PROGRAM_HUNG, video)

    assert (done.returncode, done.stdout, done.stderr) == (0, "unavailable\n", "")


PROGRAM_FORK = """
import asyncio, os, sys, warnings
from cogcache.sources import capture_async
first = asyncio.run(capture_async(sys.argv[1], "content"))
warnings.simplefilter("ignore", DeprecationWarning)
child = os.fork()
if child == 0:
    os._exit(0 if asyncio.run(capture_async(sys.argv[1], "content")) == first else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_captures_go_on_after_a_fork(video):
    done = run(PROGRAM_FORK, video)

    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
