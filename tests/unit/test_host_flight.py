"""``single_flight="host"``: the processes of a host compute a missing value once."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig
from cogcache.hostlock import HostLocks

# Says "in" when it computes and goes on when it is told to; says "out <value>" at its end.
PROGRAM = textwrap.dedent("""
    import os, sys
    from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig

    root, name, how = sys.argv[1:]
    manager = CacheManager(CacheConfig([FilesystemCacheConfig(root, single_flight="host")]))

    def compute():
        print("in", flush=True)
        if sys.stdin.readline().strip() == "fail":
            raise ValueError("failed")
        return name

    try:
        if how == "sync":
            value = manager.sync.get_or_compute("key", compute)
        else:
            import asyncio
            value = asyncio.run(manager.get_or_compute("key", compute))
        print("out", value, flush=True)
    except ValueError as error:
        print("out", error, flush=True)
""")


class Worker:
    """A process that asks for the key."""

    def __init__(self, root: Path, name: str, how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(root), name, how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    @property
    def stdout(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def hears(self) -> str:
        return self.stdout.readline().strip()

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def who_speaks(workers: list[Worker]) -> list[Worker]:
    """Those of the workers who have said something, of whom there is at least one."""
    by_stream = {worker.stdout: worker for worker in workers}
    heard, _, _ = select.select(list(by_stream), [], [], 120)
    assert heard
    return [by_stream[stream] for stream in heard]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    workers: list[Worker] = []

    def begin(name: str, how: str = "sync") -> Worker:
        workers.append(Worker(tmp_path / "cache", name, how))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.close()


def locks_of(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "cache" / "v1" / "locks")


@pytest.mark.parametrize("how", ["sync", "async"])
def test_eight_processes_compute_once(start: Any, tmp_path: Path, how: str) -> None:
    workers = [start(f"w{number}", how) for number in range(8)]
    (leader,) = who_speaks(workers)
    assert leader.hears() == "in"
    leader.tell("go on")
    words = {worker.hears() for worker in workers}
    assert words == {f"out w{workers.index(leader)}"}
    assert locks_of(tmp_path) == []


def test_a_killed_one_is_followed_by_one_who_waits(start: Any) -> None:
    workers = [start(f"w{number}") for number in range(3)]
    (leader,) = who_speaks(workers)
    assert leader.hears() == "in"
    leader.kill()
    workers.remove(leader)
    (heir,) = who_speaks(workers)
    assert heir.hears() == "in"
    heir.tell("go on")
    assert len({worker.hears() for worker in workers}) == 1


def test_one_that_failed_is_followed_by_one_who_waits(start: Any) -> None:
    workers = [start("a"), start("b", "async")]
    (leader,) = who_speaks(workers)
    assert leader.hears() == "in"
    leader.tell("fail")
    assert leader.hears() == "out failed"
    workers.remove(leader)
    assert workers[0].hears() == "in"
    workers[0].tell("go on")
    assert workers[0].hears().startswith("out ")


def over(tmp_path: Path) -> CacheManager:
    tier = FilesystemCacheConfig(tmp_path / "cache", single_flight="host")
    return CacheManager(CacheConfig([tier]))


@contextmanager
def locked_elsewhere(manager: CacheManager) -> Iterator[subprocess.Popen[str]]:
    """Every lock of the key is held by another process."""
    locks = manager.backends[0].host_locks
    assert locks is not None
    program = textwrap.dedent("""
        import sys
        from cogcache.hostlock import HostLocks
        lock = HostLocks(sys.argv[1])._try(sys.argv[2])
        print("held", flush=True)
        sys.stdin.readline()
    """)
    from cogcache import _core
    from cogcache.keys import key_bytes

    with subprocess.Popen(
        [sys.executable, "-c", program, locks._folder, _core.hash128(key_bytes("key")).hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


async def test_who_stops_waiting_leaves_no_lock(tmp_path: Path) -> None:
    async with over(tmp_path) as manager:
        with locked_elsewhere(manager):
            waiting = asyncio.create_task(manager.get_or_compute("key", lambda: 1))
            looks = 0
            locks = manager.backends[0].host_locks
            assert locks is not None
            real = locks._try

            def counted(name: str) -> Any:
                nonlocal looks
                looks += 1
                return real(name)

            locks._try = counted  # type: ignore[method-assign]
            while looks < 3:
                await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert await manager.get_or_compute("key", lambda: 2) == 2
    assert locks_of(tmp_path) == []


async def test_a_computation_within_another_never_waits(tmp_path: Path) -> None:
    async with over(tmp_path) as manager:

        async def outer() -> int:
            return 1 + await manager.get_or_compute("key", lambda: 1)

        with locked_elsewhere(manager):
            assert await manager.get_or_compute("outer", outer) == 2


def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    manager = over(tmp_path)
    locks = manager.backends[0].host_locks
    assert locks is not None
    held = locks._try("name")
    assert held is not None
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(go[0], 1)  # alive while its parent gives the lock back
        os._exit(0)
    os.read(ready[0], 1)
    assert locks._try("name") is None
    held.release()
    again = locks._try("name")
    assert again is not None
    again.release()
    os.write(go[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    for end in (*ready, *go):
        os.close(end)
    manager.sync.aclose()


def test_a_lock_that_nobody_has_any_more_is_given_back(tmp_path: Path) -> None:
    locks = HostLocks(str(tmp_path / "locks"))
    held = locks._try("name")
    assert held is not None
    del held
    assert os.listdir(tmp_path / "locks") == []


@pytest.mark.parametrize("what", ["file", "link", "fifo"])
async def test_without_locks_it_computes_all_the_same_and_says_so_once(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with over(tmp_path) as manager:
        folder = tmp_path / "cache" / "v1" / "locks"
        if what == "file":
            folder.write_bytes(b"")
        elif what == "link":
            folder.symlink_to(tmp_path)
        else:
            from cogcache import _core
            from cogcache.keys import key_bytes

            folder.mkdir()
            for key in ("a", "b"):
                os.mkfifo(folder / _core.hash128(key_bytes(key)).hex())
        with caplog.at_level(logging.WARNING, logger="cogcache"):
            for key in ("a", "b"):
                assert await manager.get_or_compute(key, lambda: 1) == 1
        said = [r for r in caplog.records if "single_flight='host'" in r.getMessage()]
        assert len(said) == 1


def test_the_folder_is_its_owners_or_the_groups(tmp_path: Path) -> None:
    for shared, folder_mode, file_mode in ((False, 0o700, 0o600), ("group", 0o2770, 0o660)):
        root = tmp_path / str(shared)
        config = FilesystemCacheConfig(root, single_flight="host", shared=shared)  # type: ignore[arg-type]
        manager = CacheManager(CacheConfig([config]))
        modes = []

        def compute(root: Path = root, modes: list[int] = modes) -> int:
            folder = root / "v1" / "locks"
            (file,) = folder.iterdir()
            modes[:] = [folder.stat().st_mode & 0o7777, file.stat().st_mode & 0o7777]
            return 1

        umask = os.umask(0o022 if shared is False else 0o002)
        try:
            assert manager.sync.get_or_compute("key", compute) == 1
        finally:
            os.umask(umask)
        assert modes == [folder_mode, file_mode]
        manager.sync.aclose()


def test_it_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    manager = CacheManager(CacheConfig([FilesystemCacheConfig(tmp_path / "cache")]))
    assert manager.sync.get_or_compute("key", lambda: 1) == 1
    assert not (tmp_path / "cache" / "v1" / "locks").exists()
    manager.sync.aclose()
