"""Write-behind: a put is done before a slow tier has the entry, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_cache import DictTier, HeldTier, manager_over

from cogcache import CacheManager, ConfigError, MemoryCacheConfig
from cogcache.keys import key_bytes

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogcache.backlog.FIRST_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr("cogcache.backlog.LONGEST_PAUSE_SECONDS", 0.01)


def over(**policy: Any) -> tuple[CacheManager, HeldTier]:
    """A manager over a local tier and one that is written behind."""
    slow = HeldTier("slow", write_mode="behind", **policy)
    return manager_over(DictTier(), slow), slow


async def queue_of(manager: CacheManager, name: str = "slow") -> dict[str, Any]:
    queue: dict[str, Any] = (await manager.get_stats())["backends"][name]["queue"]
    return queue


async def begun(tier: HeldTier) -> None:
    """Wait until a write of the tier has begun."""
    assert await asyncio.to_thread(tier.begun.acquire, timeout=60)


async def test_b01_a_put_is_done_before_the_slow_tier_has_it() -> None:
    manager, slow = over()
    slow.held = True
    stored = await manager.store("key", "value")
    assert (stored.stored, stored.later) == (True, ("slow",))
    assert slow.images == {}
    assert await manager.set_many({"a": 1, "b": 2}) == {"a": True, "b": True}
    assert (await queue_of(manager))["items"] == 3
    slow.let_go()
    assert await manager.flush(60) == 0
    assert {*slow.images} == {key_bytes("key"), key_bytes("a"), key_bytes("b")}
    queue = await queue_of(manager)
    assert (queue["sent"], queue["items"], queue["bytes"]) == (3, 0, 0)
    await manager.aclose()


async def test_b02_a_tier_that_fails_is_tried_again_and_disturbs_nobody() -> None:
    manager, slow = over()
    slow.word = "unavailable"
    assert await manager.set("key", "value")
    assert await manager.get("key") == "value"
    for _ in range(3):
        await begun(slow)
    assert await manager.flush(0.001) == 1
    slow.word = None
    assert await manager.flush(60) == 0
    assert slow.written == [key_bytes("key")]
    assert (await queue_of(manager))["retried"] >= 3
    await manager.aclose()


async def test_what_a_tier_will_never_take_is_not_tried_again() -> None:
    manager, slow = over()
    slow.word = "too-large"
    assert await manager.set("key", "value")
    assert await manager.flush(60) == 0
    assert (await queue_of(manager))["refused"] == 1
    await manager.aclose()


@pytest.mark.parametrize(
    ("policy", "words"), [("sync", (True, ())), ("drop", (True, ())), ("block", (True, ("slow",)))]
)
async def test_b03_a_full_queue_does_what_its_policy_says(
    policy: str, words: tuple[bool, tuple[str, ...]]
) -> None:
    manager, slow = over(behind_items=2, behind_when_full=policy)
    slow.held = True
    for key in ("a", "b"):
        assert (await manager.store(key, 1)).later == ("slow",)
        await begun(slow)
    third = asyncio.create_task(manager.store("c", 1))
    if policy == "sync":
        await begun(slow)  # of the put itself
    elif policy == "block":
        while (await queue_of(manager))["blocked"] == 0:
            await asyncio.sleep(0)
    else:
        assert (await third).tiers == ("DictTier",)
    slow.let_go()
    stored = await third
    assert (stored.stored, stored.later) == words
    assert await manager.flush(60) == 0
    assert (key_bytes("c") in slow.images) is (policy != "drop")
    counted = {"sync": "sync", "block": "blocked", "drop": "dropped"}[policy]
    assert (await queue_of(manager))[counted] == 1
    await manager.aclose()


async def test_b03_what_waits_is_bounded_in_bytes() -> None:
    manager, slow = over(behind_mb=0.1, behind_when_full="drop")
    slow.held = True
    for n in range(2000):
        assert await manager.set(f"key:{n}", os.urandom(5000))
        assert (await queue_of(manager))["bytes"] <= 100_000 if n % 100 == 0 else True
    queue = await queue_of(manager)
    assert 15 <= queue["items"] <= 20
    assert queue["dropped"] == 2000 - queue["items"]
    slow.let_go()
    assert await manager.flush(60) == 0
    await manager.aclose()


async def test_of_one_key_only_the_newest_waits_and_none_overtakes() -> None:
    manager, slow = over()
    slow.held = True
    await manager.set("key", 0)
    await begun(slow)
    for n in range(1, 50):
        await manager.set("key", n)
    assert (await queue_of(manager))["items"] == 2
    assert (await queue_of(manager))["replaced"] == 48
    slow.let_go()
    assert await manager.flush(60) == 0
    assert slow.written == [key_bytes("key")] * 2
    assert await slow.get("key") == 49
    await manager.aclose()


async def test_b04_closing_sends_what_waits() -> None:
    manager, slow = over()
    slow.held = True
    for n in range(100):
        await manager.set(f"key:{n}", n)
    closing = asyncio.create_task(manager.aclose(60))
    await begun(slow)
    slow.let_go()
    await closing
    assert len(slow.images) == 100


async def test_b04_closing_ends_in_time_and_says_what_was_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager, slow = over()
    slow.word = "unavailable"
    await manager.set("key", 1)
    with caplog.at_level(logging.WARNING, "cogcache"):
        await manager.aclose(0.01)
    assert "1 entries were put but never sent" in caplog.text
    await manager.aclose()


async def test_b06_what_waits_is_a_copy_of_its_own() -> None:
    manager, slow = over()
    slow.held = True
    array = np.arange(100_000, dtype=np.int32)
    text = bytearray(os.urandom(300_000))
    digest = hashlib.sha256(text).digest()
    await manager.set("array", array)
    await manager.set("bytes", text)
    array[:] = 0
    text[:] = bytes(len(text))
    slow.let_go()
    assert await manager.flush(60) == 0
    assert (await slow.get("array") == np.arange(100_000, dtype=np.int32)).all()
    assert hashlib.sha256(await slow.get("bytes")).digest() == digest
    await manager.aclose()


async def test_who_put_it_finds_it_while_it_waits() -> None:
    slow = HeldTier("slow", write_mode="behind")
    slow.held = True
    manager = manager_over(slow)  # nothing above it
    assert await manager.set("key", "value")
    assert await manager.get("key") == "value"
    await manager.delete("other")
    slow.let_go()
    await manager.delete("key")
    assert await manager.get("key") is None
    assert await manager.flush(60) == 0
    assert slow.images == {}
    await manager.aclose()


async def test_what_was_forgotten_or_invalidated_while_it_waited_is_not_sent() -> None:
    manager, slow = over()
    slow.held = True
    await manager.set("first", 1)
    await begun(slow)
    for n in range(3):  # the other senders
        await manager.set(f"more:{n}", 1)
        await begun(slow)
    await manager.store("tagged", 1, tags=["t"])
    await manager.set("x:1", 1)
    await manager.invalidate_tags("t")
    clearing = asyncio.create_task(manager.clear("x:*"))
    deleting = asyncio.create_task(manager.delete("first"))
    await asyncio.sleep(0)
    slow.let_go()
    await clearing
    await deleting
    assert await manager.flush(60) == 0
    assert {*slow.images} == {key_bytes(f"more:{n}") for n in range(3)}
    await manager.aclose()


async def test_a_value_of_a_size_that_is_not_for_the_tier_does_not_wait() -> None:
    manager, slow = over(max_value_size=10_000)
    slow.held = True
    await manager.set("key", b"small")
    storing = asyncio.create_task(manager.store("key", os.urandom(20_000)))
    await asyncio.sleep(0)
    slow.let_go()
    stored = await storing
    assert (stored.stored, stored.later) == (True, ())
    assert await manager.flush(60) == 0
    assert slow.images == {}
    await manager.aclose()


async def test_a_required_tier_behind_fails_a_put_that_finds_no_room() -> None:
    manager, slow = over(required=True, behind_items=1, behind_when_full="drop")
    slow.held = True
    assert await manager.set("a", 1) is True
    assert await manager.set("b", 1) is False
    slow.let_go()
    await manager.aclose()


def test_it_outlives_the_loop_that_put_it() -> None:
    manager, slow = over()

    async def put() -> None:
        slow.held = True
        await manager.set("key", 1)

    asyncio.run(put())
    slow.let_go()
    assert asyncio.run(manager.flush(60)) == 0
    assert manager.sync.set("other", 2)
    assert manager.sync.flush(60) == 0
    assert len(slow.images) == 2
    manager.sync.aclose()


def test_local_tiers_may_be_written_behind_inline() -> None:
    manager = CacheManager(
        {
            "backends": [
                {"backend_type": "memory"},
                {"backend_type": "memory", "write_mode": "behind", "priority": 1},
            ]
        }
    )
    assert manager.sync.set("key", 1)
    assert manager.sync.flush(60) == 0
    assert manager.backends[1].counters["sets"] == 1
    manager.sync.aclose()


def test_a_child_does_not_send_what_its_parent_put() -> None:
    manager, slow = over()
    slow.held = True
    manager.sync.set("key", 1)
    assert slow.begun.acquire(timeout=60)
    pid = os.fork()
    if pid == 0:
        try:
            left = sum(queue.left for queue in manager._tiers.queues.values())
            slow.held = False
            again = manager.sync.set("child", 1) and manager.sync.flush(30) == 0
            os._exit(0 if left == 0 and again and len(slow.images) == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    slow.let_go()
    assert manager.sync.flush(60) == 0
    assert {*slow.images} == {key_bytes("key")}
    manager.sync.aclose()


@pytest.mark.parametrize(
    "wrong",
    [{"behind_items": 0}, {"behind_mb": 0}, {"behind_when_full": "wait"}, {"behind_durable": 1}],
)
def test_bounds_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MemoryCacheConfig(write_mode="behind", **wrong)


SCRIPT = """
import asyncio, sys
sys.path[:0] = {paths!r}
from support_cache import DictTier, HeldTier, manager_over
slow = HeldTier("slow", write_mode="behind")
manager = manager_over(DictTier(), slow)
"""


def run_script(code: str, *, signal_when: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script over such a manager, and terminate it once it prints a line."""
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", SCRIPT.format(paths=paths) + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONASYNCIODEBUG": "1"},
    )
    assert process.stdout is not None
    first = ""
    if signal_when is not None:
        while signal_when not in first:
            line = process.stdout.readline()
            assert line, process.communicate()
            first += line
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    # On a busy machine asyncio's debug mode finds everything slow; that is none of the warnings.
    err = "".join(line for line in err.splitlines(True) if not line.startswith("Executing <"))
    return subprocess.CompletedProcess([], process.returncode, first + out, err)


def test_b08_a_process_that_just_ends_sends_what_waits_and_leaves_no_warnings() -> None:
    ran = run_script(
        """
async def main():
    for n in range(20):
        await manager.set(f"key:{n}", n)
asyncio.run(main())
queue = next(iter(manager._tiers.queues.values()))
drain = queue.end_at_exit
def said(until):
    drain(until)
    print("sent", len(slow.images), flush=True)
queue.end_at_exit = said
"""
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "sent 20\n"
    assert ran.stderr == ""


def test_b04_a_terminated_process_sends_what_waits_with_the_documented_handler() -> None:
    handler = (DOCS / "examples" / "drain_on_sigterm.py").read_text()
    ran = run_script(
        handler
        + """
async def work():
    slow.held = True
    for n in range(20):
        await manager.set(f"key:{n}", n)
    print("putting", flush=True)
    slow.let_go()
    await asyncio.Event().wait()

asyncio.run(run_until_terminated(work(), manager))
print("sent", len(slow.images), flush=True)
""",
        signal_when="putting",
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "putting\nsent 20\n"
    assert ran.stderr == ""
