"""What waits in the spool of a filesystem tier: kept through a kill, sent once, by anybody."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support_cache import HeldTier, manager_over

from cogcache import CacheManager, FilesystemCacheConfig, RedisCacheConfig, S3CacheConfig
from cogcache.backends.destination import destination_of
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.keys import key_bytes
from cogcache.spool import Claim, Spool


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogcache.backlog.FIRST_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr("cogcache.backlog.LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("cogcache.backlog.BUSY_SECONDS", 0.005)


def local_at(path: Path, **options: Any) -> FilesystemCacheBackend:
    return FilesystemCacheBackend(FilesystemCacheConfig(base_path=path, **options))


def over(path: Path, **policy: Any) -> tuple[CacheManager, HeldTier]:
    """A manager over a directory and a tier that is written behind; another of the same directory
    is like another process.
    """
    slow = HeldTier("slow", write_mode="behind", **policy)
    return manager_over(local_at(path), slow), slow


def files_of(path: Path) -> list[str]:
    spool = path / "v1" / "spool"
    return sorted(os.listdir(spool)) if spool.exists() else []


async def begun(tier: HeldTier) -> None:
    assert await asyncio.to_thread(tier.begun.acquire, timeout=20)


def kill_while_it_waits(path: Path, puts: str) -> None:
    """Let another process put entries whose tier never answers, and kill it."""
    code = f"""
import asyncio, sys
sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]!r}
from support_cache import HeldTier, manager_over
from cogcache import FilesystemCacheConfig
from cogcache.backends.filesystem import FilesystemCacheBackend
slow = HeldTier("slow", write_mode="behind")
slow.held = True
local = FilesystemCacheBackend(FilesystemCacheConfig(base_path={str(path)!r}))
manager = manager_over(local, slow)
async def main():
    {puts}
    print("put", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "put\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


async def test_what_was_put_survives_a_kill_and_is_sent_by_the_next_process_once(
    tmp_path: Path,
) -> None:
    kill_while_it_waits(
        tmp_path, "for n in range(20): assert (await manager.store(f'key:{n}', [n])).later"
    )
    assert len(files_of(tmp_path)) == 40
    manager, slow = over(tmp_path)
    while len(slow.written) < 20:  # it looks by itself
        await begun(slow)
    assert await manager.flush(60) == 0
    assert sorted(slow.written) == sorted(key_bytes(f"key:{n}") for n in range(20))
    assert await slow.get("key:7") == [7]
    assert files_of(tmp_path) == []
    await manager.aclose()


async def test_an_entry_that_was_evicted_while_it_waited_is_sent_all_the_same(
    tmp_path: Path,
) -> None:
    manager, slow = over(tmp_path)
    slow.word = "unavailable"
    value = os.urandom(100_000)
    assert (await manager.store("key", value)).later == ("slow",)
    assert await manager.backends[0].discard(key_bytes("key"))
    slow.word = None
    assert await manager.flush(60) == 0
    assert await slow.get("key") == value
    assert files_of(tmp_path) == []
    await manager.aclose()


async def test_two_processes_send_each_job_once(tmp_path: Path) -> None:
    first, slow = over(tmp_path)
    slow.held = True
    for n in range(10):
        await first.set(f"key:{n}", n)
    await begun(slow)
    second, other = over(tmp_path)
    queue = next(iter(second._tiers.queues.values()))
    await queue._look_for_others(0)
    while len(other.written) + 4 < 10:  # the first holds four of them
        await begun(other)
    slow.let_go()
    assert await first.flush(60) == 0
    assert await second.flush(60) == 0
    assert sorted(slow.written + other.written) == sorted(key_bytes(f"key:{n}") for n in range(10))
    await first.aclose()
    await second.aclose()


async def test_a_job_that_was_invalidated_is_discarded_by_whoever_finds_it(tmp_path: Path) -> None:
    kill_while_it_waits(
        tmp_path,
        "await manager.store('a', 1, tags=['t']); await manager.store('b', 1);"
        "await manager.store('c', 1, ttl=1000)",
    )
    local = local_at(tmp_path)
    await local.invalidate_tags(["t"])
    slow = HeldTier("slow", write_mode="behind")
    manager = manager_over(local, slow)
    local.set_clock_offset(2_000_000)  # the life of "c" is over
    assert await manager.flush(60) == 0
    assert slow.written == [key_bytes("b")]
    assert files_of(tmp_path) == []
    await manager.aclose()


async def test_deleting_withdraws_the_job_of_another_process(tmp_path: Path) -> None:
    first, slow = over(tmp_path)
    slow.held = True
    await first.set("key", 1)
    await begun(slow)
    second, other = over(tmp_path)
    other.word = "unavailable"
    await second.delete("key")
    assert files_of(tmp_path) == []
    slow.let_go()
    assert await first.flush(60) == 0
    assert slow.images == {}  # it was on its way, and came too late
    await first.aclose()
    await second.aclose()


async def test_what_is_deleted_while_it_is_sent_in_vain_is_not_sent_later(tmp_path: Path) -> None:
    manager, slow = over(tmp_path)
    slow.held = True
    await manager.set("key", 1)
    await begun(slow)
    slow.word = "unavailable"
    deleting = asyncio.create_task(manager.delete("key"))
    jobs = next(iter(manager._tiers.queues.values()))._jobs
    while not any(job.withdrawn for job in jobs._sending.values()):
        await asyncio.sleep(0)
    slow.let_go()
    await deleting
    assert files_of(tmp_path) == []
    slow.word = None
    assert await manager.flush(60) == 0
    assert slow.written == []
    await manager.aclose()


async def test_a_newer_put_replaces_the_job_of_its_key(tmp_path: Path) -> None:
    manager, slow = over(tmp_path)
    slow.word = "unavailable"
    for n in range(5):
        assert (await manager.store("key", n)).later == ("slow",)
    slow.word = None
    assert await manager.flush(60) == 0
    assert await slow.get("key") == 4
    while files_of(tmp_path):  # those of the older ones go in the background
        await asyncio.sleep(0)
    await manager.aclose()


async def test_a_look_into_the_spool_in_the_middle_of_a_put_does_no_harm(tmp_path: Path) -> None:
    manager, slow = over(tmp_path)
    queue = next(iter(manager._tiers.queues.values()))
    assert queue.spool is not None
    keep = queue.spool.keep

    async def keep_and_look(*about: Any) -> Any:
        kept = await keep(*about)
        await queue._look_for_others(0)
        return kept

    slow.held = True
    queue.spool.keep = keep_and_look  # type: ignore[method-assign]
    for n in range(8):
        assert (await manager.store(f"key:{n}", n)).later == ("slow",)
    slow.let_go()
    assert await manager.flush(60) == 0
    assert sorted(slow.written) == sorted(key_bytes(f"key:{n}") for n in range(8))
    await manager.aclose()


async def test_what_a_dead_process_put_does_not_replace_what_was_put_since(tmp_path: Path) -> None:
    kill_while_it_waits(tmp_path, "await manager.store('key', 'old')")
    manager, slow = over(tmp_path)
    slow.held = True
    await manager.set("key", "new")
    await next(iter(manager._tiers.queues.values()))._look_for_others(0)
    slow.let_go()
    assert await manager.flush(60) == 0
    assert await slow.get("key") == "new"
    while files_of(tmp_path):
        await asyncio.sleep(0)
    await manager.aclose()


async def test_what_closing_could_not_send_stays_for_the_next_process(tmp_path: Path) -> None:
    manager, slow = over(tmp_path)
    slow.word = "unavailable"
    await manager.set("key", 1)
    await manager.aclose(0.01)
    assert len(files_of(tmp_path)) == 2
    again, slow = over(tmp_path)
    assert await again.flush(60) == 0  # it need not have looked before
    assert slow.written == [key_bytes("key")]
    await again.aclose()


@pytest.mark.parametrize("policy", ["sync", "drop"])
async def test_a_full_spool_does_what_the_policy_says(tmp_path: Path, policy: str) -> None:
    manager, slow = over(tmp_path, behind_items=1, behind_when_full=policy)
    slow.held = True
    assert (await manager.store("a", 1)).later == ("slow",)
    await begun(slow)
    second = asyncio.create_task(manager.store("b", 1))
    if policy == "sync":
        await begun(slow)
    else:
        assert (await second).tiers == (manager.backends[0].name,)
    slow.let_go()
    await second
    assert await manager.flush(60) == 0
    assert (key_bytes("b") in slow.images) is (policy == "sync")
    await manager.aclose()


async def test_where_the_spool_takes_nothing_the_put_sends_itself_or_says_so(
    tmp_path: Path,
) -> None:
    manager, slow = over(tmp_path, required=True)
    (tmp_path / "v1" / "spool").write_text("no directory")
    stored = await manager.store("a", 1)
    assert (stored.stored, stored.later) == (True, ())
    assert slow.written == [key_bytes("a")]
    slow.word = "unavailable"
    stored = await manager.store("b", 1)
    assert (stored.stored, stored.reason) == (False, "unavailable")
    assert await manager.get("b") == 1  # reads go on
    slow.word = None
    await manager.aclose()


async def test_unsent_entries_do_not_push_out_everything_else(tmp_path: Path) -> None:
    slow = HeldTier("slow", write_mode="behind")
    slow.word = "unavailable"
    local = local_at(tmp_path, max_size_mb=17)
    manager = manager_over(local, slow)
    values = [os.urandom(500_000) for _ in range(20)]
    stored = await manager.store("key:0", values[0])
    later = 0
    while stored.later:
        later += 1
        stored = await manager.store(f"key:{later}", values[later])
    assert 5 <= later <= 8  # a quarter of the limit
    assert stored.tiers == (local.name,)  # it was sent at once, in vain
    assert await manager.get(f"key:{later}") == values[later]
    slow.word = None
    assert await manager.flush(60) == 0
    assert len(slow.images) == later
    assert files_of(tmp_path) == []
    await manager.aclose()


async def test_what_the_directory_does_not_take_is_sent_at_once(tmp_path: Path) -> None:
    slow = HeldTier("slow", write_mode="behind")
    manager = manager_over(local_at(tmp_path, max_value_size=1000), slow)
    stored = await manager.store("key", os.urandom(5000))
    assert (stored.tiers, stored.later) == (("slow",), ())
    await manager.aclose()


async def test_what_is_sent_is_the_container_of_the_directory(tmp_path: Path) -> None:
    manager, slow = over(tmp_path)
    local = manager.backends[0]
    local.enable_compression, slow.enable_compression = False, True
    assert local.draft_kind != slow.draft_kind
    assert (await manager.store("key", "text " * 50_000)).later == ("slow",)
    assert await manager.flush(60) == 0
    assert await slow.get("key") == "text " * 50_000
    kept = await local.fetch(key_bytes("key"))
    assert not isinstance(kept, str)
    assert slow.images[key_bytes("key")] == kept.tobytes()
    await manager.aclose()


async def test_what_is_not_to_be_durable_waits_in_memory(tmp_path: Path) -> None:
    manager, slow = over(tmp_path, behind_durable=False)
    slow.held = True
    assert (await manager.store("a", 1)).later == ("slow",)
    assert files_of(tmp_path) == []
    slow.let_go()
    await manager.aclose()


async def test_a_damaged_job_is_thrown_away_and_counted(tmp_path: Path) -> None:
    kill_while_it_waits(tmp_path, "import os; await manager.store('key', os.urandom(100_000))")
    (entry,) = (tmp_path / "v1" / "spool").glob("*.entry")
    with open(entry, "r+b") as file:
        file.seek(200)
        file.write(b"damage")
    manager, slow = over(tmp_path)
    queue = next(iter(manager._tiers.queues.values()))
    await queue._look_for_others(0)
    assert await manager.flush(60) == 0
    assert slow.written == []
    assert queue.counters["damaged"] == 1
    assert files_of(tmp_path) == []
    await manager.aclose()


SPOILT = {
    "cut": lambda record: record[: len(record) // 2],
    "empty": lambda record: b"",
    "garbage": lambda record: bytes(255 - byte for byte in record),
    "no record of ours": lambda record: b"[1]",
    "a field is lost": lambda record: record.replace(b'"kind"', b'"kand"'),
    "a bit of the key": lambda record: record.replace(b'"key": "', b'"key": "00'),
}


@pytest.mark.parametrize("how", SPOILT)
async def test_a_job_whose_record_cannot_be_read_is_thrown_away_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    local = local_at(tmp_path)
    queue_less = Spool(local.store, destination_of(HeldTier("slow", write_mode="behind")))
    for key in ("spoilt", "whole"):
        assert await local.set(key, key)
        entry = await local.fetch(key_bytes(key))
        assert not isinstance(entry, str)
        job = await queue_less.keep(entry.key, entry.token, 0, 0)
        assert not isinstance(job, str)
        if key == "spoilt":
            path = Path(queue_less.path(f"{job.name}.job"))
            path.write_bytes(SPOILT[how](path.read_bytes()))
    await local.aclose()
    manager, slow = over(tmp_path)
    for _ in range(2):
        assert await manager.flush(60) == 0
    assert slow.written == [key_bytes("whole")]
    assert files_of(tmp_path) == []
    queue = next(iter(manager._tiers.queues.values()))
    assert queue.counters["damaged"] == 1
    assert caplog.text.count("the record of a waiting entry is damaged") == 1
    await manager.aclose()


async def test_a_job_of_a_later_version_is_left_to_those_who_know_it(tmp_path: Path) -> None:
    local = local_at(tmp_path)
    spool = Spool(local.store, "d" * 16)
    assert await local.set("key", 1)
    entry = await local.fetch(key_bytes("key"))
    assert not isinstance(entry, str)
    job = await spool.keep(entry.key, entry.token, 0, 0)
    assert not isinstance(job, str)
    Path(spool.path(f"{job.name}.job")).write_text('{"version": 2, "what": "ever"}')
    assert await spool.jobs() == []
    assert len(files_of(tmp_path)) == 2
    await local.aclose()


def no_locks(fd: Any, how: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


async def test_where_nothing_can_be_locked_each_put_sends_its_own_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager, slow = over(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("cogcache.spool.fcntl.flock", no_locks)
        for key in ("one", "two"):
            stored = await manager.store(key, key)
            assert (stored.later, stored.tiers[-1]) == ((), "slow")
            assert await slow.get(key) == key
        assert files_of(tmp_path) == []
        assert caplog.text.count("No locks available") == 1
        assert "behind_durable=False" in caplog.text
    assert (await manager.store("three", 3)).later == ("slow",)
    assert await manager.flush(60) == 0
    await manager.aclose()


async def test_what_waits_already_and_cannot_be_locked_stays_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kill_while_it_waits(tmp_path, "await manager.store('key', 'value')")
    with monkeypatch.context() as patch:
        patch.setattr("cogcache.spool.fcntl.flock", no_locks)
        manager, slow = over(tmp_path)
        while "cannot be claimed for sending" not in caplog.text:
            await asyncio.sleep(0.001)
        assert await manager.flush(0.05) == 1
        assert caplog.text.count("cannot be claimed for sending") == 1
        assert len(files_of(tmp_path)) == 2
    assert await manager.flush(60) == 0
    assert await slow.get("key") == "value"
    await manager.aclose()


async def test_a_claim_excludes_others_until_it_is_released_or_its_process_dies(
    tmp_path: Path,
) -> None:
    local = local_at(tmp_path)
    spool = Spool(local.store, "d" * 16)
    assert await local.set("key", 1)
    entry = await local.fetch(key_bytes("key"))
    assert not isinstance(entry, str)
    job = await spool.keep(entry.key, entry.token, 0, 0)
    assert not isinstance(job, str)
    assert await spool.keep(entry.key, entry.token + 1, 0, 0) == "absent"
    assert [found.name for found in await spool.jobs()] == [job.name]
    claim = spool.claim(job.name)
    assert isinstance(claim, Claim)
    assert spool.claim(job.name) == "busy"
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, b"x")
        time.sleep(600)  # it lives on; killed below
        os._exit(0)
    assert os.read(ready, 1) == b"x"
    claim.release()
    again = spool.claim(job.name)  # the child of the fork does not hold it
    assert isinstance(again, Claim)
    again.release()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pid = os.fork()
    if pid == 0:
        taken = spool.claim(job.name)
        os.write(tell, b"y" if isinstance(taken, Claim) else b"n")
        time.sleep(600)
        os._exit(0)
    assert os.read(ready, 1) == b"y"
    assert spool.claim(job.name) == "busy"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    last = spool.claim(job.name)
    assert isinstance(last, Claim)
    assert last.stands()
    await last.finish()
    assert not last.stands()
    assert spool.claim(job.name) == "absent"
    last.release()
    os.close(ready)
    os.close(tell)
    await local.aclose()


async def test_a_link_that_a_killed_put_left_is_removed_when_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = local_at(tmp_path)
    spool = Spool(local.store, "d" * 16)
    assert await local.set("key", 1)
    entry = await local.fetch(key_bytes("key"))
    assert not isinstance(entry, str)
    label = f"{entry.token:016x}-{'d' * 16}.entry"
    assert local.store.spool_link(entry, label) is None
    assert await spool.jobs() == []
    assert len(files_of(tmp_path)) == 1  # its record may be about to come
    monkeypatch.setattr("cogcache.spool.ORPHAN_SECONDS", -1.0)
    assert await spool.jobs() == []
    assert files_of(tmp_path) == []
    await local.aclose()


def test_a_destination_is_a_place_and_tells_no_secret(tmp_path: Path) -> None:
    slow = HeldTier("slow", write_mode="behind")
    assert destination_of(slow) == destination_of(HeldTier("other"))
    here, there = local_at(tmp_path / "a"), local_at(tmp_path / "b")
    assert destination_of(here) != destination_of(there)
    assert len(destination_of(here)) == 16
    places = [
        S3CacheConfig("bucket", "prefix"),
        S3CacheConfig("bucket", "other"),
        S3CacheConfig("tekcub", "prefix"),
        S3CacheConfig("bucket", "prefix", endpoint_url="http://h"),
        RedisCacheConfig("redis://h"),
        RedisCacheConfig("redis://h", prefix="p"),
        RedisCacheConfig("redis://h/1"),
    ]
    assert len({destination_of(cast(Any, SimpleNamespace(config=at))) for at in places}) == 7
    secret = [S3CacheConfig("b", access_key="a", secret_key=key) for key in ("x", "y")]
    assert len({destination_of(cast(Any, SimpleNamespace(config=at))) for at in secret}) == 1
