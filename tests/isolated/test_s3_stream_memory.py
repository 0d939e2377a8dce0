"""Values that go to S3 and back through a process that must stay small."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
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
    config = dataclasses.asdict(config_at(s3_place))
    options = json.dumps({name: config[name] for name in OPTIONS})
    answer = subprocess.run(
        [sys.executable, str(HERE / "s3_streams_in_bounded_memory.py"), options, str(megabytes)],
        capture_output=True,
        text=True,
        timeout=3500,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
    )
    assert answer.returncode == 0, answer.stderr
    up, down = json.loads(answer.stdout)
    assert max(up, down) <= MOST_KB, (up, down)
