"""What other hosts have stored in a bucket, brought onto this disk before it is needed (M08)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from support.servers.s3 import S3Place
from support_cache import manager_over
from support_s3 import tier_at

from cogcache import FilesystemCacheConfig
from cogcache.backends.filesystem import FilesystemCacheBackend

ROOT = Path(__file__).parents[2]
SECONDS = 120
LARGE = 5_000_000  # more than comes at once: it is copied in pieces


INTERRUPTED = f"""
import os, signal, sys
sys.path[:0] = {[str(ROOT)]!r}
from cogcache import warming
from cogcache.cli import run

original = warming.copy_pieces

async def interrupted(*arguments):
    if not os.path.exists(MARK):
        open(MARK, "w").close()
        os.kill(os.getpid(), signal.SIGINT)
    return await original(*arguments)

warming.copy_pieces = interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(run(sys.argv[1:]))
"""


def files_at(path: Path) -> FilesystemCacheBackend:
    return FilesystemCacheBackend(FilesystemCacheConfig(path, cleanup_on_startup=False))


def program(*arguments: str, place: S3Place, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command line on a new host: nothing but the bucket and an empty disk."""
    options = {"endpoint_url": place.endpoint_url, "region": place.region, "timeout_seconds": 60}
    kept = {name: v for name, v in os.environ.items() if not name.startswith("COGCACHE_")}
    return subprocess.run(
        [
            *(sys.executable, "-m", "cogcache", *arguments),
            *("-t", str(folder / "disk")),
            *("-t", f"s3://{place.bucket}/{place.prefix}?{urlencode(options)}"),
        ],
        env={
            **kept,
            "PYTHONPATH": str(ROOT),
            "AWS_ACCESS_KEY_ID": place.access_key,
            "AWS_SECRET_ACCESS_KEY": place.secret_key,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.s3("weed")
async def test_a_new_host_brings_what_it_will_need(s3_place: S3Place, tmp_path: Path) -> None:
    embeddings = np.random.default_rng(1).random(LARGE // 8)
    async with manager_over(tier_at(s3_place)) as host:
        for number in range(12):
            assert await host.store(f"small:{number}", {"n": number}, ttl="1h")
        assert await host.set("large", embeddings)

    dry = program("warm", "--dry-run", "--json", place=s3_place, folder=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert (json.loads(dry.stdout)["count"], (tmp_path / "disk").exists()) == (13, False)
    one = program("warm", "small:1", "--json", place=s3_place, folder=tmp_path)
    assert one.returncode == 0, one.stderr
    answer = json.loads(one.stdout)
    assert (answer["schema"], answer["brought"], answer["skipped"], answer["refused"]) == (
        1,
        1,
        {},
        {},
    )
    rest = program("warm", place=s3_place, folder=tmp_path)
    assert rest.returncode == 0 and "large" in rest.stdout
    assert "12 entries" in rest.stderr and "brought into FilesystemCacheBackend" in rest.stderr

    # Without the bucket.
    async with manager_over(files_at(tmp_path / "disk")) as here:
        assert np.array_equal(await here.get("large"), embeddings)
        assert [await here.get(f"small:{number}") for number in range(12)] == [
            {"n": number} for number in range(12)
        ]
        assert (await here.verify()).ok


@pytest.mark.s3("weed")
def test_ctrl_c_leaves_what_is_there_and_the_next_one_goes_on(
    s3_place: S3Place, tmp_path: Path
) -> None:
    host = manager_over(tier_at(s3_place))
    for number in range(2):
        assert host.sync.set(f"large:{number}", os.urandom(LARGE))
    host.sync.aclose()
    script = INTERRUPTED.replace("MARK", repr(str(tmp_path / "once")))
    options = {
        "endpoint_url": s3_place.endpoint_url,
        "region": s3_place.region,
        "timeout_seconds": 60,
    }
    bucket = f"s3://{s3_place.bucket}/{s3_place.prefix}?{urlencode(options)}"
    kept = {name: v for name, v in os.environ.items() if not name.startswith("COGCACHE_")}
    keys = {"AWS_ACCESS_KEY_ID": s3_place.access_key, "AWS_SECRET_ACCESS_KEY": s3_place.secret_key}

    def warm() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, "warm", "-t", str(tmp_path / "disk"), "-t", bucket],
            env={**kept, **keys},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    broken_off = warm()
    assert (broken_off.returncode, broken_off.stderr) == (130, "cogcache: interrupted\n")
    temporary = tmp_path / "disk" / "v1" / "tmp"
    assert list(temporary.iterdir()) == []
    finished = warm()
    assert finished.returncode == 0 and "brought into" in finished.stderr
    here = manager_over(files_at(tmp_path / "disk"))
    assert sorted(key for key, _ in here.sync.list_keys()) == [f"large:{n}" for n in range(2)]
    assert here.sync.verify().ok
    here.sync.aclose()
