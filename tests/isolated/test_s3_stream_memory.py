"""Values that go to remote tiers and back through a process that must stay small."""

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
from support_s3 import config_at

HERE = Path(__file__).parent
MOST_KB = 96 << 10
OPTIONS = (
    *("bucket", "prefix", "endpoint_url", "access_key", "secret_key", "region"),
    "timeout_seconds",
)


@pytest.mark.s3("weed")
@pytest.mark.parametrize(
    "megabytes",
    [256, pytest.param(8192, marks=[pytest.mark.torture, pytest.mark.timeout(3600)])],
)
def test_streams_to_s3_and_back_leave_the_process_small(s3_place: S3Place, megabytes: int) -> None:
    up, down = growth([s3_at(s3_place)], megabytes)
    assert max(up, down) <= MOST_KB, (up, down)


@pytest.mark.s3("weed")
def test_one_pass_into_three_tiers_leaves_the_process_small(
    s3_place: S3Place, redis_server: RedisServer, tmp_path: Path
) -> None:
    files = {"backend_type": "filesystem", "base_path": str(tmp_path), "max_size_mb": 4000}
    redis = {
        "backend_type": "redis",
        "url": redis_server.url,
        "max_value_size": None,
        "timeout_seconds": 20,
        "priority": 1,
    }
    up, down = growth([files, redis, {**s3_at(s3_place), "priority": 2}], 160)
    assert up <= MOST_KB + (32 << 10)  # what each of them may hold
    assert down <= MOST_KB


def s3_at(place: S3Place) -> dict[str, Any]:
    config = dataclasses.asdict(config_at(place))
    return {"backend_type": "s3", **{name: config[name] for name in OPTIONS}}


def growth(tiers: list[dict[str, Any]], megabytes: int) -> tuple[int, int]:
    """Kilobytes by which a process grows that streams so much into the tiers, and out."""
    script = HERE / "s3_streams_in_bounded_memory.py"
    answer = subprocess.run(
        [sys.executable, str(script), json.dumps(tiers), str(megabytes)],
        capture_output=True,
        text=True,
        timeout=3500,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
    )
    assert answer.returncode == 0, answer.stderr
    up, down = json.loads(answer.stdout)
    return up, down
