"""Streams that are killed at moments that nobody chose: nothing half is ever seen, nothing stays
behind for longer than it is said to, and the next put works.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.servers.redis import RedisServer
from support.servers.s3 import S3Place
from support_redis import base_of, redis_config, slices_of
from support_s3 import config_at, names_in

from cogcache import CacheManager, _core
from cogcache.backends.redis.writing import STAGED_MS
from cogcache.keys import key_bytes

ISOLATED = Path(__file__).parents[1] / "isolated"
ROOT = Path(__file__).parents[2]
sys.path.append(str(ISOLATED))

Tiers = list[dict[str, Any]]


def counts(short: int) -> pytest.MarkDecorator:
    """Run a test with so many kills, and with many."""
    long = pytest.param(300, marks=[pytest.mark.torture, pytest.mark.timeout(1800)])
    return pytest.mark.parametrize("kills", [short, long], ids=["short", "long"])


def files_at(path: Path) -> dict[str, Any]:
    return {"backend_type": "filesystem", "base_path": str(path), "max_size_mb": 500}


def s3_at(place: S3Place) -> dict[str, Any]:
    fields = dataclasses.asdict(config_at(place, priority=1))
    names = ("bucket", "prefix", "endpoint_url", "access_key", "secret_key", "region", "priority")
    return {"backend_type": "s3", **{name: fields[name] for name in (*names, "timeout_seconds")}}


def uploads_in(place: S3Place) -> list[Any]:
    answer = place.client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix)
    return list(answer.get("Uploads", []))


async def kill(tiers: Tiers, size: int, kills: int) -> int:
    """Kill so many processes that put streams; the last put that one of them was told of."""
    ran = await asyncio.to_thread(
        subprocess.run,
        [
            *(sys.executable, str(ISOLATED / "stream_until_killed.py")),
            *(json.dumps({"backends": tiers}), str(size), str(kills), "5"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        timeout=1200,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0
    acknowledged: int = json.loads(ran.stdout)
    assert acknowledged > 0  # some came through
    return acknowledged


async def see(tier: Any, size: int, acknowledged: int) -> None:
    """What is there is one put whole, and none before the one that was acknowledged."""
    from stream_until_killed import value_of

    value = await tier.get("key")
    assert value is not None
    number = int.from_bytes(value[:8], "big")
    assert number >= acknowledged
    assert value == value_of(number, size)


async def put_again(manager: CacheManager) -> None:
    value = os.urandom(20_000_000)
    result = await manager.put_stream("key", value)
    assert result.stored and not result.refused, result
    for tier in manager.backends:
        assert await tier.get("key") == value


@counts(20)
async def test_killed_streams_into_a_directory(tmp_path: Path, kills: int) -> None:
    size = 4_000_000
    acknowledged = await kill([files_at(tmp_path)], size, kills)
    manager = CacheManager({"backends": [files_at(tmp_path)]})
    tier: Any = manager.backends[0]
    await see(tier, size, acknowledged)
    await put_again(manager)
    tier.store.sweep(True)
    assert [path for path in tmp_path.rglob("*") if "tmp" in path.name and path.is_file()] == []
    assert (tier.store.stats()["entries"], tier.store.stats()["held_bytes"]) == (1, 0)
    await manager.aclose()


@counts(8)
@pytest.mark.s3("weed")
async def test_killed_streams_into_a_bucket(s3_place: S3Place, kills: int) -> None:
    size = 20_000_000  # two parts
    acknowledged = await kill([s3_at(s3_place)], size, kills)
    manager = CacheManager({"backends": [s3_at(s3_place)]})
    tier: Any = manager.backends[0]
    await see(tier, size, acknowledged)
    await put_again(manager)
    await tier.gc(-3600)  # as an hour later, of uploads that began at any time
    assert uploads_in(s3_place) == []
    assert len(names_in(s3_place)) == 1
    await manager.aclose()


@counts(8)
@pytest.mark.s3("weed")
async def test_killed_streams_into_a_directory_and_a_bucket(
    s3_place: S3Place, tmp_path: Path, kills: int
) -> None:
    size = 20_000_000
    tiers = [files_at(tmp_path), s3_at(s3_place)]
    acknowledged = await kill(tiers, size, kills)
    manager = CacheManager({"backends": tiers})
    for tier in manager.backends:
        await see(tier, size, acknowledged)
    assert len(list(tmp_path.rglob("*.upload"))) <= 1  # of the one key, whatever was killed
    await put_again(manager)
    assert list(tmp_path.rglob("*.upload")) == []
    bucket: Any = manager.backends[1]
    await bucket.gc(-3600)  # what was killed between the store's answer and the record
    assert uploads_in(s3_place) == []
    await manager.aclose()


@counts(20)
async def test_killed_streams_into_redis(redis_server: RedisServer, kills: int) -> None:
    size = 6_000_000
    fields = redis_config(redis_server, slice_size=64 << 10, max_value_size=None)
    tiers = [
        {
            "backend_type": "redis",
            "url": fields.url,
            "slice_size": 64 << 10,
            "max_value_size": None,
            "timeout_seconds": 20,
        }
    ]
    acknowledged = await kill(tiers, size, kills)
    manager = CacheManager({"backends": tiers})
    tier: Any = manager.backends[0]
    await see(tier, size, acknowledged)
    await put_again(manager)
    found = await tier.fetch(key_bytes("key"), index_only=True)
    assert isinstance(found, _core.Entry)
    with redis_server.client() as client:
        names = slices_of(client, base_of(tier, "key"))
        ours = [name for name in names if b":%016x:" % found.token in name]
        staged = [name for name in names if name not in ours]
        assert staged and all(0 < client.pttl(name) <= STAGED_MS for name in staged)
    assert await tier.gc() == 0  # nothing that would stay
    await manager.aclose()
