"""What may go wrong on this side of write-behind: order, threads, descriptors, closing."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from support_cache import DictTier, HeldTier, manager_over
from test_spool import begun, files_of, kill_while_it_waits, local_at, over

from cogcache import CacheManager, _core
from cogcache._offload import NoAnswerError, offload
from cogcache.backends.faults import UnavailableError
from cogcache.backends.lanes import Lane
from cogcache.behind import WriteBehind
from cogcache.keys import key_bytes
from cogcache.spool import Spool


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogcache.backlog.FIRST_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr("cogcache.backlog.LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("cogcache.backlog.BUSY_SECONDS", 0.005)


def queue_of(manager: CacheManager) -> WriteBehind:
    return next(iter(manager._tiers.queues.values()))


async def all_gone(path: Path) -> None:
    while files_of(path):
        await asyncio.sleep(0)


async def test_what_a_process_left_that_died_is_not_sent_over_what_was_put_and_sent_since(
    tmp_path: Path,
) -> None:
    manager, slow = over(tmp_path)
    await manager.flush(60)  # it has had its look
    kill_while_it_waits(tmp_path, "await manager.store('key', 'old')")
    assert (await manager.store("key", "new")).later == ("slow",)
    while queue_of(manager).left:
        await asyncio.sleep(0)
    assert await slow.get("key") == "new"
    assert await manager.flush(60) == 0  # which finds the older one
    assert slow.written == [key_bytes("key")]
    assert await slow.get("key") == "new"
    assert queue_of(manager).counters["replaced"] == 1
    await all_gone(tmp_path)
    await manager.aclose()


@pytest.mark.parametrize("behind", [0, 3_600_000])
async def test_a_clock_that_was_set_back_does_not_bring_back_an_older_value(
    tmp_path: Path, behind: int
) -> None:
    local = local_at(tmp_path)
    spool = Spool(local.store, _destination())  # type: ignore[arg-type]
    for value in ("old", "new"):
        image = local.draft(key_bytes("key"), value, ttl_ms=None).compose()
        assert await local.write(image) is None
        assert not isinstance(await spool.keep(image.key, image.token, 0, 0), str)
        record = tmp_path / "v1" / "spool" / f"{_core.hash128(image.key).hex()}"
        path = Path(f"{record}-{image.token:016x}-{_destination()}.job")
        said = json.loads(path.read_text())
        said["made_ms"] = 1_000_000_000_000 - (behind if value == "new" else 0)
        path.write_text(json.dumps(said))
    await local.aclose()
    manager, slow = over(tmp_path)
    assert await manager.flush(60) == 0
    assert await manager.flush(60) == 0
    assert await slow.get("key") == "new"
    await all_gone(tmp_path)
    await manager.aclose()


def _destination() -> str:
    from cogcache.backends.destination import destination_of

    return destination_of(HeldTier("slow", write_mode="behind"))


class PickyTier(HeldTier):
    """A tier that fails again and again for one key."""

    tries = 0

    async def write(self, what: Any, *, source: int = 0, kind: int = 0) -> str | None:
        if what.key == key_bytes("poison"):
            self.tries += 1
            return "unavailable"
        return await super().write(what, source=source, kind=kind)


async def test_an_entry_that_cannot_be_sent_does_not_hold_up_the_others() -> None:
    slow = PickyTier("slow", write_mode="behind")
    manager = manager_over(DictTier(), slow)
    keys = [f"key:{n}" for n in range(30)]
    for key in ["poison", *keys]:
        assert (await manager.store(key, 1)).later == ("slow",)
    while len(slow.written) < len(keys):
        assert slow.tries < 500
        await asyncio.sleep(0.001)
    assert await manager.flush(0.01) == 1
    await manager.aclose(0)


@pytest.mark.parametrize(
    "fault", [OSError(errno.EMFILE, "too many files"), RuntimeError("no thread"), MemoryError()]
)
async def test_a_spool_that_cannot_be_used_makes_the_put_send_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    manager, slow = over(tmp_path)

    async def keep(*_: Any) -> Any:
        raise fault

    monkeypatch.setattr(Spool, "keep", keep)
    stored = await manager.store("key", "value")
    assert (stored.stored, stored.later) == (True, ())
    assert await slow.get("key") == "value"
    assert queue_of(manager).left == 0
    await manager.aclose()


async def test_without_a_thread_for_sending_a_put_is_kept_and_a_later_one_sends_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, slow = over(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("cogcache.behind.call_in_background", _no_thread)
        for n in range(6):  # more than there are senders
            assert (await manager.store(f"key:{n}", n)).later == ("slow",)
        assert queue_of(manager).left == 6
    assert (await manager.store("last", 1)).later == ("slow",)
    assert await manager.flush(60) == 0
    assert len(slow.written) == 7
    await manager.aclose()


def _no_thread(*_: Any) -> None:
    raise RuntimeError("can't start new thread")


class _NoThreads:
    """Threads that the system does not give, so often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.left = times
        self._start = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", lambda thread: self.start(thread))

    def start(self, thread: threading.Thread) -> None:
        if thread.name.startswith(("cogcache-s3", "cogcache-source")) and self.left > 0:
            self.left -= 1
            raise RuntimeError("can't start new thread")
        self._start(thread)


async def test_a_lane_works_again_when_the_system_gives_threads_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lane = Lane("small", 2)
    _NoThreads(monkeypatch, 5)
    for _ in range(5):
        with pytest.raises(UnavailableError, match="can't start new thread"):
            await lane.run(lambda call: 1, seconds=60)
    assert await lane.run(lambda call: 1, seconds=60) == 1
    assert (
        await asyncio.gather(*(lane.run(lambda call: 2, seconds=60) for _ in range(8))) == [2] * 8
    )
    while lane.describe()["under_way"]:
        await asyncio.sleep(0)


async def test_offloading_works_again_when_the_system_gives_threads_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cogcache._offload._pool", type(_offload_pool())())
    _NoThreads(monkeypatch, 12)
    done: list[int] = []
    for number in range(12):
        with pytest.raises(NoAnswerError, match="can't start new thread"):
            await offload(lambda beat, number=number: done.append(number), timeout_seconds=60)  # type: ignore[misc]
    assert await offload(lambda beat: 1, timeout_seconds=60) == 1
    assert done == []  # what was refused is not done later


def _offload_pool() -> Any:
    from cogcache import _offload

    return _offload._pool


async def test_a_close_that_is_cancelled_ends_the_sending_all_the_same(tmp_path: Path) -> None:
    manager, slow = over(tmp_path)
    slow.held = True
    assert (await manager.store("key", "value")).later == ("slow",)
    await begun(slow)
    closing = asyncio.create_task(manager.aclose(60))
    while not manager._calls.closed:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    slow.let_go()
    queue = queue_of(manager)
    while queue._senders:
        await asyncio.sleep(0)
    assert queue._jobs.closed
    assert slow.written == []
    manager, slow = over(tmp_path)  # what was left is sent by the next one
    assert await manager.flush(60) == 0
    assert slow.written == [key_bytes("key")]
    await manager.aclose()


async def test_a_look_into_the_spool_is_not_made_on_the_loop_nor_for_what_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, _ = over(tmp_path, max_value_size=1000)
    while not queue_of(manager)._scan_planned:  # its first look is over
        await asyncio.sleep(0)
    threads: list[threading.Thread] = []
    files = Spool._files

    def noted(spool: Spool) -> Any:
        threads.append(threading.current_thread())
        return files(spool)

    monkeypatch.setattr(Spool, "_files", noted)
    for n in range(10):
        assert await manager.set(f"large:{n}", bytes(5000))
    assert threads == []
    await manager.delete("large:1")
    assert len(threads) == 1
    assert threads[0].name == "cogcache-source"
    await manager.aclose()


async def test_who_put_it_finds_it_in_the_spool_and_nothing_older(tmp_path: Path) -> None:
    manager, slow = over(tmp_path)
    assert await manager.set("key", "old")
    assert await manager.flush(60) == 0
    slow.held = True
    assert (await manager.store("key", "new")).later == ("slow",)
    await begun(slow)
    await manager.backends[0].discard(key_bytes("key"))  # evicted while it waits
    assert await slow.get("key") == "old"
    assert await manager.get("key") == "new"
    slow.let_go()
    assert await manager.flush(60) == 0
    assert await slow.get("key") == "new"
    await manager.aclose()
