"""The fleet example: real processes, a real store, a proxy that counts what the pods claim.

The pods run quick stages; where ``make demo`` has installed the models, those as well.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.quickstages import EXAMPLES
from support.servers.proxy import Proxy

sys.path.insert(0, str(EXAMPLES))

from ingest.terminal import Teller
from pods import store as stores
from pods import story
from pods.store import Store

pytestmark = pytest.mark.timeout(600)  # models, on machines that may be busy

TESTS = Path(__file__).resolve().parents[1]
SPEECH = TESTS.parent / ".demo" / "speech"
HEAVY = ("av", "cv2", "pocketsphinx", "safetensors", "tokenizers")
LIVES = ("pod a", "pod b", "pod b again", "pod a killed", "pod a back", "pod c")

# A pod whose reports are written down, with stages and a change of the test.
POD = """
import json, sys
sys.path.insert(0, {tests!r})
from pods import pod
from support.quickstages import LargeStages, WaitingStages
from cogcache import S3CacheConfig
tell = pod.tell
def tell_and_keep(event, **about):
    with open({log!r}, "a") as log:
        log.write(json.dumps(dict(about, event=event)) + "\\n")
    tell(event, **about)
pod.tell = tell_and_keep
def changed(**options):
    pod.S3CacheConfig = lambda *args, **named: S3CacheConfig(*args, **(named | options))
{change}
sys.exit(pod.main({stages}))
"""
PATIENT = "changed(timeout_seconds=60)"  # what takes a busy machine seconds would be asked twice


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42" + os.urandom(5000) + b"x264 - core 165" + b"\1" * 5000)
    return path


def plan_of(tmp_path: Path, video: Path, **about: Any) -> story.Plan:
    given = {"stages": "LargeStages()", "change": PATIENT, "store": Store, **about}
    log = str(tmp_path / "events")
    code = POD.format(tests=str(TESTS), log=log, stages=given["stages"], change=given["change"])
    work = tmp_path / "work"
    return story.Plan(video, "2.0 s", (), work, given["store"], (sys.executable, "-c", code))


def lives_in(tmp_path: Path) -> list[list[dict[str, Any]]]:
    """What each pod reported."""
    lives: list[list[dict[str, Any]]] = []
    for line in (tmp_path / "events").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "opened":
            lives.append([])
        if event["event"] in ("opened", "stage"):
            lives[-1].append(event)
    return lives


def total(life: list[dict[str, Any]], what: str) -> int:
    return sum(event[what] for event in life)


def requests(life: list[dict[str, Any]]) -> Counter[str]:
    """Requests by S3's names."""
    names: Counter[str] = Counter()
    for event in life:
        for name, count in event["requests"].items():
            names[name.title().replace("_", "")] += count
    return names


class Counting:
    """The example's store behind the proxy, and what passed it in each pod's life."""

    def __init__(self, store: Store, proxy: Proxy) -> None:
        self.bucket, self.credentials = store.bucket, store.credentials
        self.endpoint_url = proxy.endpoint_url
        self.start, self.kill = store.start, store.kill


class CountingTeller(Teller):
    """Notes what passed the proxy whenever a new life begins."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.proxy: Proxy | None = None
        self.counted: list[dict[str, Any]] = []

    def say(self, text: str = "") -> None:
        super().say(text)
        if self.proxy is not None and (re.match(r"\n\d\. ", text) or "own disk  S3" in text):
            self.counted.append(self.proxy.counts())
            self.proxy.zero()

    @asynccontextmanager
    async def store(self, folder: Path) -> AsyncIterator[Counting]:
        async with Store(folder) as store:
            port = int(store.endpoint_url.rpartition(":")[2])
            keys = store.credentials
            with Proxy(
                port,
                "s3",
                access_key=keys["AWS_ACCESS_KEY_ID"],
                secret_key=keys["AWS_SECRET_ACCESS_KEY"],
            ) as self.proxy:
                yield Counting(store, self.proxy)
                self.proxy = None

    @property
    def text(self) -> str:
        out = self.out
        assert isinstance(out, io.StringIO)
        return out.getvalue()


def without_lists(counts: dict[str, Any]) -> Counter[str]:
    """Requests that passed the proxy, but for those of ``get_stats``."""
    return Counter({k: v for k, v in counts["kinds"].items() if not k.startswith("List")})


@pytest.mark.parametrize("stages", ["quick", "real"])
async def test_the_second_pod_computes_nothing_and_nothing_is_missing_after_the_kills(
    tmp_path: Path, video: Path, stages: str
) -> None:
    teller = CountingTeller()
    plan = plan_of(tmp_path, video, store=teller.store)
    if stages == "real":
        if not all(map(importlib.util.find_spec, HEAVY)) or not SPEECH.is_dir():
            pytest.skip("run `make demo` first: it installs the example's packages")
        from ingest import media

        real = media.demo_video(tmp_path / "demo", SPEECH)
        plan = plan_of(
            tmp_path, real, store=teller.store, stages="__import__('ingest.stages').stages"
        )
    assert await story.tell(plan, teller) == 0, teller.text
    lives = dict(zip(LIVES, lives_in(tmp_path), strict=True))
    counted = dict(zip(LIVES, teller.counted[1:], strict=True))
    by = {name: [event["by"] for event in life[1:]] for name, life in lives.items()}
    assert by == {
        "pod a": ["computed"] * 4,
        "pod b": ["S3"] * 4,
        "pod b again": ["own disk"] * 4,
        "pod a killed": ["computed"] * 4,
        "pod a back": ["own disk"] * 4,
        "pod c": ["S3"] * 4,
    }

    # What the pods claim is what passed the proxy.
    for name, life in lives.items():
        if name == "pod a killed":  # it tried on after its last report, until it was killed
            assert requests(life) <= without_lists(counted[name])
            assert total(life, "sent") <= counted[name]["bytes_up"]
            continue
        assert requests(life) == without_lists(counted[name]), name
        assert total(life, "sent") == counted[name].get("bytes_up", 0), name
        if "computed" not in by[name]:  # else the texts of misses came as well
            body = counted[name]["body_down"].get("GetObject", 0)
            assert total(life, "received") == body, name

    # A hit is one request, beyond 64 KiB two, and one for each 8 MiB of what is larger.
    for event in lives["pod b"][1:] + lives["pod c"][1:]:
        size = event["received"]
        ranges = -(-(size - 65_536) // (8 << 20)) if size > 8 << 20 else int(size > 65_536)
        assert event["requests"] == {"get_object": 1 + ranges}, event
        assert event["sent"] == 0
    assert requests(lives["pod b again"]) == {}

    # Each result travels once in each direction. Who writes sends 16 bytes more, to try the store.
    assert total(lives["pod a"], "sent") - 16 == total(lives["pod b"], "received")
    sent = [lives["pod a killed"][1]["sent"] - 16, total(lives["pod a back"], "sent") - 16]
    assert sum(sent) == total(lives["pod c"], "received")

    # The kill came while results waited, and all of them were sent afterwards.
    assert lives["pod a killed"][-1]["waiting"] == 3
    assert total(lives["pod a back"], "replicated") == 3
    assert list(plan.work.iterdir()) == []


async def test_results_that_a_kill_loses_are_told_of_and_fail_the_example(
    tmp_path: Path, video: Path
) -> None:
    teller = Teller(io.StringIO())
    plan = plan_of(tmp_path, video, change="changed(timeout_seconds=60, behind_durable=False)")
    assert await story.tell(plan, teller) == 1
    assert isinstance(teller.out, io.StringIO)
    told = teller.out.getvalue()
    assert "WRONG: 3 waited, 0 were sent" in told
    for artifact in ("transcript", "descriptions", "embeddings"):
        assert f"WRONG: pod c: {artifact} was answered by: computed, not S3" in told


async def test_a_pod_that_fails_ends_the_example_with_a_message(
    tmp_path: Path, video: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    teller = Teller(io.StringIO())
    plan = plan_of(tmp_path, video, change="raise SystemExit('no such stage')")
    assert await story.tell(plan, teller) == 1
    assert isinstance(teller.out, io.StringIO)
    assert "error: pod a ended with status 1" in teller.out.getvalue()
    assert "no such stage" in capfd.readouterr().err
    assert running(tmp_path) == []


async def test_a_store_that_is_not_installed_or_does_not_start_is_told_of(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in ("nowhere", "broken"):
        (tmp_path / where).mkdir()
    broken = tmp_path / "broken" / "weed"
    broken.write_text("#!/bin/sh\necho 'the disk is on fire' >&2\nexit 3\n")
    broken.chmod(0o755)
    told = {}
    monkeypatch.setattr(stores.sysconfig, "get_path", lambda name: str(tmp_path / "nowhere"))
    for where in ("nowhere", "broken"):
        monkeypatch.setenv("PATH", f"{tmp_path / where}:/usr/bin:/bin")
        teller = Teller(io.StringIO())
        assert await story.tell(plan_of(tmp_path, video), teller) == 1
        assert isinstance(teller.out, io.StringIO)
        told[where] = teller.out.getvalue()
    assert "weed (SeaweedFS) is not installed; `make demo-fleet` brings" in told["nowhere"]
    assert "ended at its start" in told["broken"]
    assert "the disk is on fire" in told["broken"]
    assert list((tmp_path / "work").iterdir()) == []


# --- ends -----------------------------------------------------------------------------------------

# The example as a program, whose first pod waits for ever in a stage.
PROGRAM = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from ingest.command import run
from ingest.terminal import Teller
from pods import story
from pods.store import Store
plan = story.Plan(Path({video!r}), "2 s", (), Path({work!r}), Store, {pod!r})
teller = Teller()
sys.exit(run(lambda: story.tell(plan, teller), teller, "make demo-fleet"))
"""


def running(folder: Path) -> list[str]:
    """The processes, other than this one, that name a folder."""
    if Path("/proc/self/cmdline").exists():  # a small container has no ps
        lines = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = path.joinpath("cmdline").read_bytes().decode(errors="replace")
                lines.append(f"{path.name} {words}")
    else:
        listed = subprocess.run(
            ["ps", "-axww", "-o", "pid=,args="], capture_output=True, text=True, check=True
        )
        lines = listed.stdout.splitlines()
    own = str(os.getpid())
    return [line for line in lines if str(folder) in line and line.split()[0] != own]


def started(tmp_path: Path, video: Path) -> subprocess.Popen[str]:
    """The program, once its first pod is in its second stage."""
    plan = plan_of(tmp_path, video, stages="WaitingStages()")
    code = PROGRAM.format(
        paths=[str(EXAMPLES), str(TESTS.parent)],
        video=str(video),
        work=str(plan.work),
        pod=tuple(plan.pod),
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "   log: transcribing\n":
            break
    return process


async def test_ctrl_c_ends_the_store_and_the_pods_and_leaves_nothing(
    tmp_path: Path, video: Path
) -> None:
    process = started(tmp_path, video)
    assert len(running(tmp_path)) >= 4  # the program, a pod, the store and its guard
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "interrupted" in out
    assert errors == ""
    assert running(tmp_path) == []
    assert list((tmp_path / "work").iterdir()) == []


async def test_killing_the_example_leaves_nothing_running(tmp_path: Path, video: Path) -> None:
    process = started(tmp_path, video)
    process.kill()
    process.communicate(timeout=300)
    eventually(lambda: running(tmp_path) == [])
    # What it left on the disk goes with the next run, here one that cannot begin.
    assert len(list((tmp_path / "work").iterdir())) == 1
    plan = plan_of(tmp_path, video, change="raise SystemExit(1)")
    assert await story.tell(plan, Teller(io.StringIO())) == 1
    assert list((tmp_path / "work").iterdir()) == []


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for other processes to have ended; a hang fails."""
    until = time.monotonic() + 120
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < until
        pause.wait(0.05)
