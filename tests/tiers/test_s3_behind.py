"""Write-behind to S3 through kills and outages, and several S3 places that stand in for each
other.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.servers.proxy import Proxy
from support.servers.redis import RedisServer
from support.servers.s3 import S3Place, S3Server
from support_s3 import config_at, names_in, tier_at

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig
from cogcache.keys import key_bytes

pytestmark = pytest.mark.s3("weed")

ISOLATED = Path(__file__).parents[1] / "isolated"
ROOT = Path(__file__).parents[2]
sys.path.append(str(ISOLATED))


def behind_manager(path: Path, place: S3Place, **options: Any) -> CacheManager:
    return CacheManager(
        CacheConfig(
            [
                FilesystemCacheConfig(base_path=path, max_size_mb=100),
                config_at(place, **{"write_mode": "behind", **options}),
            ]
        )
    )


def jobs_in(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path / "v1" / "spool") if name.endswith(".job"))


async def sent_by_another(path: Path, place: S3Place) -> None:
    """What the next process of the directory does."""
    manager = behind_manager(path, place)
    assert await manager.flush(300) == 0
    await manager.aclose()


@pytest.mark.parametrize(
    "kills",
    [200, pytest.param(1000, marks=[pytest.mark.torture, pytest.mark.timeout(1800)])],
    ids=["short", "long"],
)
async def test_kills_lose_nothing_that_was_acknowledged(
    tmp_path: Path, s3_place: S3Place, s3_proxy: Proxy, kills: int
) -> None:
    from put_behind_until_killed import value_of

    with s3_place.at(endpoint_url=s3_proxy.endpoint_url) as place:
        config = dataclasses.asdict(config_at(place))
        wanted = ("bucket", "prefix", "endpoint_url", "access_key", "secret_key", "region")
        options = json.dumps({name: config[name] for name in (*wanted, "timeout_seconds")})
        script = str(ISOLATED / "put_behind_until_killed.py")
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, script, str(tmp_path), options, str(kills), "9"],
            stdout=subprocess.PIPE,
            text=True,
            timeout=1200,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert ran.returncode == 0
        acknowledged: list[int] = json.loads(ran.stdout)
        assert len(acknowledged) >= kills
        await sent_by_another(tmp_path, place)
        assert jobs_in(tmp_path) == []
        puts = Counter(r["path"] for r in s3_proxy.requests() if r["kind"] == "PutObject")
    tier = tier_at(s3_place)
    for number in acknowledged:
        assert await tier.get(f"key:{number}") == value_of(number), number
    listed = await tier.list_keys()
    assert len(listed) == len([name for name in names_in(s3_place) if "/v1/" in name])  # all whole
    entries = {path: count for path, count in puts.items() if "/v1/" in path}
    assert sum(count - 1 for count in entries.values()) <= kills  # sent twice
    uploads = s3_place.client.list_multipart_uploads(Bucket=s3_place.bucket, Prefix=s3_place.prefix)
    assert uploads.get("Uploads", []) == []
    await tier.aclose()


async def test_an_outage_costs_nothing_but_time(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    manager = behind_manager(tmp_path, proxied_place)
    assert await manager.set("before", 0)
    assert await manager.flush(60) == 0
    s3_proxy.set("refuse")
    for n in range(50):
        stored = await manager.store(f"key:{n}", n)
        assert (stored.stored, len(stored.later)) == (True, 1)
        assert await manager.get(f"key:{n}") == n
    assert await manager.flush(0.01) == 50
    s3_proxy.clear()
    assert await manager.flush(120) == 0
    assert jobs_in(tmp_path) == []
    tier = tier_at(s3_place)
    assert len(await tier.list_keys()) == 51
    await tier.aclose()
    await manager.aclose()


async def test_another_place_stands_in_for_one_that_died(
    tmp_path: Path, start_s3: Callable[[str], S3Server], s3_place: S3Place
) -> None:
    other = start_s3("bare")
    with other.place() as near:
        first = config_at(near, priority=1)
        second = config_at(s3_place, priority=2)
        manager = CacheManager(CacheConfig([first, second]))
        one, two = manager.backends
        assert (await manager.store("key", "value")).tiers == (one.name, two.name)
        assert (await manager.lookup("key")).tier == one.name
        other.close()
        for n in range(10):
            found = await manager.lookup("key")
            assert (found.value, found.tier) == ("value", two.name)
            assert (await manager.store(f"more:{n}", n)).tiers == (two.name,)
            assert await manager.get(f"more:{n}") == n
        stats = (await manager.get_stats())["backends"]
        assert stats[one.name]["state"] == "degraded"
        assert stats[two.name]["state"] == "works"
        assert stats[one.name]["lanes"]["small"]["rejected"] > 0  # the breaker spares the time-out
        await manager.aclose()


async def test_a_value_that_was_removed_while_it_was_uploaded_does_not_come_back(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    manager = behind_manager(tmp_path, proxied_place)
    assert await manager.set("before", 0)
    assert await manager.flush(60) == 0
    s3_proxy.set("hold", kind="PutObject", where="before")
    assert await manager.set("key", "value")
    await asyncio.to_thread(s3_proxy.wait_held)
    deleting = asyncio.create_task(manager.delete("key"))
    await asyncio.sleep(0)
    s3_proxy.clear()
    s3_proxy.release()
    await deleting
    assert await manager.flush(60) == 0
    tier = tier_at(s3_place)
    assert await tier.fetch(key_bytes("key")) == "absent"
    await tier.aclose()
    await manager.aclose()


@pytest.mark.parametrize("mode", ["behind", "through"])
@pytest.mark.parametrize("deleted", [False, True])
async def test_a_value_that_arrives_after_a_newer_one_of_another_process_does_not_stay(
    tmp_path: Path,
    proxied_place: S3Place,
    s3_place: S3Place,
    s3_proxy: Proxy,
    mode: str,
    deleted: bool,
) -> None:
    one = behind_manager(tmp_path, proxied_place)
    assert await one.set("before", 0)
    assert await one.flush(60) == 0
    s3_proxy.set("hold", kind="PutObject", where="before", times=1)
    assert await one.set("key", "old")
    await asyncio.to_thread(s3_proxy.wait_held)
    other = behind_manager(tmp_path, proxied_place, write_mode=mode)
    if deleted:  # which withdraws what is on its way
        await other.delete("key")
    assert await other.set("key", "new")
    assert await other.flush(60) == 0
    tier = tier_at(s3_place)
    assert await tier.get("key") == "new"
    s3_proxy.release()
    assert await one.flush(60) == 0
    tier._gone.clear()
    assert await tier.get("key") == "new"
    assert jobs_in(tmp_path) == []
    for manager in (one, other):
        await manager.aclose()


@pytest.mark.parametrize("fault", ["black_hole", "hold"])
async def test_a_local_put_does_not_wait_for_a_store_that_is_silent(
    tmp_path: Path, proxied_place: S3Place, s3_place: S3Place, s3_proxy: Proxy, fault: str
) -> None:
    manager = behind_manager(tmp_path, proxied_place, timeout_seconds=400)
    local, remote = manager.backends
    assert await manager.set("before", 0)
    assert await manager.flush(60) == 0
    known = names_in(s3_place)
    s3_proxy.set(fault, **({"where": "before"} if fault == "hold" else {}))
    for number in range(100):
        stored = await manager.store(f"key:{number}", number)
        assert (stored.tiers, stored.later) == ((local.name,), (remote.name,))
        assert await manager.get(f"key:{number}") == number
        if number == 0 and fault == "hold":  # a sender is waiting from here on
            await asyncio.to_thread(s3_proxy.wait_held)
    # All of that came to its end while no request of the store had: none well, none with a fault.
    assert names_in(s3_place) == known
    assert (remote.last_fault, remote.down_since) == (None, None)
    s3_proxy.clear()
    s3_proxy.release()
    s3_proxy.drop()
    assert await manager.flush(120) == 0
    assert len(names_in(s3_place)) == len(known) + 100
    await manager.aclose()


async def test_what_is_put_through_is_there_locally_before_a_silent_store_answers(
    tmp_path: Path, proxied_place: S3Place, s3_proxy: Proxy
) -> None:
    files = FilesystemCacheConfig(base_path=tmp_path, max_size_mb=100)
    manager = CacheManager(CacheConfig([files, config_at(proxied_place, timeout_seconds=400)]))
    local, remote = manager.backends
    assert await manager.set("before", 0)
    s3_proxy.set("hold", kind="PutObject", where="before")
    putting = asyncio.create_task(manager.store("key", "value"))
    await asyncio.to_thread(s3_proxy.wait_held)
    while await local.get("key") is None:  # it is written beside, not before
        await asyncio.sleep(0.01)
    assert await manager.get("key") == "value"
    assert not putting.done()
    s3_proxy.clear()
    s3_proxy.release()
    assert (await putting).tiers == (local.name, remote.name)
    await manager.aclose()


async def test_a_disk_that_runs_full_loses_nothing_that_was_acknowledged(
    tmp_path: Path, s3_place: S3Place, s3_proxy: Proxy
) -> None:
    from put_behind_on_a_full_disk import EARLY, value_of

    proxied = dataclasses.asdict(config_at(s3_place))
    names = ("bucket", "prefix", "access_key", "secret_key", "region", "timeout_seconds")
    options = {name: proxied[name] for name in names} | {"endpoint_url": s3_proxy.endpoint_url}
    s3_proxy.set("refuse")
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ISOLATED / "put_behind_on_a_full_disk.py"),
        str(tmp_path),
        json.dumps(options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        limit=1 << 20,
    )
    assert child.stdin is not None and child.stdout is not None
    out, go_on = child.stdout, child.stdin

    async def next_line() -> Any:
        return json.loads(await out.readline())

    try:
        first = await next_line()
        if "not run" in first:
            pytest.skip(f"not run: {first['not run']}")
        puts = {put["name"]: put for put in first["puts"]}
        later = [name for name, put in puts.items() if put["later"]]
        assert [f"early-{n}" for n in range(EARLY)] == later[:EARLY]
        # Where the disk does not take all of it, nobody says that it will be sent.
        without = [put for put in puts.values() if not put["later"]]
        assert puts["left-0"] in without and puts["left-39"] not in without
        assert all(put["tiers"] == [] or "S3Backend" not in put["tiers"] for put in without)
        assert all(put["stored"] == bool(put["tiers"]) for put in puts.values())

        # Killed meanwhile; the store is back, the disk still full: all is sent that was promised.
        assert await next_line() == {"killed": True}
        s3_proxy.clear()
        go_on.write(b"\n")
        assert await next_line() == {"left": 0}
        remote = tier_at(s3_place)
        for name in later:
            assert await remote.get(name) == value_of(name), name

        # On a full disk a put sends itself, and is read again.
        go_on.write(b"\n")
        full = await next_line()
        assert full["again"] is True
        assert (full["full"]["tiers"], full["full"]["later"]) == (["S3Backend"], [])
        assert await tier_at(s3_place).get("full") == value_of("full")

        # And when there is room, it waits in the spool as before.
        go_on.write(b"\n")
        room = await next_line()
        assert room["room"]["later"] == ["S3Backend"]
        assert room["left"] == 0
        assert await tier_at(s3_place).get("room") == value_of("room")
        go_on.write(b"\n")
        assert await child.wait() == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def test_closing_sends_all_that_waits_and_ends_without_a_warning(
    tmp_path: Path, s3_place: S3Place, redis_server: RedisServer
) -> None:
    config = dataclasses.asdict(config_at(s3_place))
    names = ("bucket", "prefix", "endpoint_url", "access_key", "secret_key", "region")
    options = {name: config[name] for name in names} | {"timeout_seconds": 60}
    strict = ["-X", "dev", "-W", "error::ResourceWarning", "-W", "error::RuntimeWarning"]
    script = str(ISOLATED / "exit_remote.py")
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, *strict, script, str(tmp_path), json.dumps(options), redis_server.url],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    said = [line for line in ran.stderr.splitlines() if not line.startswith("Executing ")]
    assert (ran.returncode, said) == (0, [])  # how long a step took is no warning
    assert json.loads(ran.stdout) == [["S3Backend"]] * 100
    assert jobs_in(tmp_path) == []
    remote = tier_at(s3_place)
    for number in range(100):
        assert await remote.get(f"k{number}") == f"value {number}" * 5000
