"""The programs of docs/examples/programs: what a pipeline team writes, run as it would be."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest
from support.servers.s3 import S3Place

from cogcache import _core

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "docs" / "examples" / "programs"
PATIENCE = 240.0


def start(name: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    python = [sys.executable, "-W", "error", str(PROGRAMS / name)]
    return subprocess.Popen(
        [*python, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def ended(program: subprocess.Popen[str], status: int = 0) -> str:
    out, err = program.communicate(timeout=PATIENCE)
    assert program.returncode == status, out + err
    assert err == ""
    return out


def run(name: str, *arguments: object, **environment: str) -> str:
    return ended(start(name, *arguments, **environment))


def videos_in(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(f"video {number}".encode() * 1000)
    return paths


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return videos_in(tmp_path, 1)[0]


@pytest.mark.parametrize(
    "program",
    [*sorted(PROGRAMS.glob("*.*")), PROGRAMS.parent / "serve_values.py"],
    ids=lambda path: path.name,
)
def test_no_program_is_longer_than_forty_lines(program: Path) -> None:
    assert len(program.read_text().splitlines()) <= 40


def test_a_pipeline_finds_on_its_second_run_that_everything_is_complete(
    tmp_path: Path, video: Path
) -> None:
    assert run("drop_in.py", tmp_path / "cache", video) == "computed: keyframes, audio_transcript\n"
    assert run("drop_in.py", tmp_path / "cache", video) == "computed: nothing\n"


def test_whoever_waits_for_the_gpu_finds_what_another_task_computed(tmp_path: Path) -> None:
    out = run("gpu_gate.py", tmp_path / "cache", *videos_in(tmp_path, 3))
    assert out == "12 answers, 3 computed\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_a_training_loop_share_a_cache_however_they_are_started(
    tmp_path: Path, method: str
) -> None:
    out = run("training_loop.py", tmp_path / "cache", method)
    assert out == f"rows of length one: 64\n{method}: rows of length one: 64\n"


@pytest.mark.parametrize("table_less", [False, True], ids=["indexed", "table-less"])
def test_eight_processes_on_a_shared_root_compute_each_value_once(
    tmp_path: Path, table_less: bool
) -> None:
    root, videos = tmp_path / "cache", videos_in(tmp_path, 64)
    _core.Store(str(root), group_shared=True, table_less=table_less).close()
    tasks = [start("shared_root.py", root, *videos) for _ in range(8)]
    lines = [line for task in tasks for line in ended(task).splitlines()]
    assert sorted(lines) == sorted(["done 64"] * 8 + [f"computed {path}" for path in videos])
    assert (root / "v1" / "index").exists() is not table_less
    for path in (root / "v1").rglob("*"):
        assert path.stat().st_mode & stat.S_IWGRP or not path.is_dir(), path
        assert path.stat().st_mode & stat.S_IRGRP, path


@pytest.mark.s3("weed")
def test_what_one_pod_computed_the_next_one_finds(tmp_path: Path, s3_place: S3Place) -> None:
    options = {"endpoint_url": s3_place.endpoint_url, "region": s3_place.region}
    bucket = f"s3://{s3_place.bucket}/{s3_place.prefix}pods?{urlencode(options)}"
    secrets = {"AWS_ACCESS_KEY_ID": s3_place.access_key}
    secrets |= {"AWS_SECRET_ACCESS_KEY": s3_place.secret_key}
    told = []
    for number in range(2):
        folder = tmp_path / f"pod-{number}"
        folder.mkdir()
        [path] = videos_in(folder, 1)
        os.utime(path, (number * 1000, number * 1000))  # downloaded at different times
        told.append(run("pod.py", folder / "cache", bucket, path, **secrets))
    assert told == [
        f"computed {tmp_path}/pod-0/0.mp4\nwhat was said\nwaiting to be sent: 0\n",
        "what was said\nwaiting to be sent: 0\n",
    ]


def test_a_miss_is_explained_and_a_selection_shown_before_it_is_deleted(
    tmp_path: Path, video: Path
) -> None:
    out = run("why_a_miss.py", tmp_path / "cache", video)
    assert "prompt" in out.splitlines()[0]
    assert "1 entry" in out
    assert out.endswith("deleted: 1\n")


def test_prompts_and_weights_are_part_of_a_key_and_a_wrong_name_is_told(
    tmp_path: Path, video: Path
) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"weights")
    out = run("prompts_and_revisions.py", tmp_path / "cache", video, weights).splitlines()
    assert out[:2] == [
        "the answer to: Describe the picture.",
        "the answer to: Name what is in the picture.",
    ]
    assert out[2].endswith("did you mean 'prompt'?")


def test_a_long_run_that_died_goes_on_with_the_batch_that_is_not_there(
    tmp_path: Path, video: Path
) -> None:
    root = tmp_path / "cache"
    assert ended(start("long_video.py", root, video, DIE_AT="450"), status=9) == ""
    assert run("long_video.py", root, video) == "720 described, 360 of them now\n"
    assert run("long_video.py", root, video) == "720 described, 0 of them now\n"


def test_what_one_site_computed_is_found_at_another_under_its_own_paths(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    [video] = videos_in(here, 1)
    run("drop_in.py", tmp_path / "cache", video)
    there.mkdir()
    shutil.copy2(video, there)
    archive = tmp_path / "site.tar"
    assert run("site_to_site.py", "send", tmp_path / "cache", archive).startswith("1 entry")
    out = run("site_to_site.py", "receive", tmp_path / "new", archive, f"{here}/", f"{there}/")
    assert out.startswith("1 entry")
    computed = run("drop_in.py", tmp_path / "new", there / video.name)
    assert computed == "computed: keyframes\n"  # and not the transcript, which came along


def test_a_cache_is_looked_into_from_a_shell(tmp_path: Path, video: Path) -> None:
    run("drop_in.py", tmp_path / "a cache", video)
    command = tmp_path / "bin" / "cogcache"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m cogcache \"$@\"\n")
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", str(PROGRAMS / "look_into.sh"), str(tmp_path / "a cache")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"schema": 1' in done.stdout
    assert done.stderr == "cogcache: nothing to delete\n"


def test_the_tests_of_a_pipeline_pass_with_a_cache_in_memory() -> None:
    plain = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-c", os.devnull]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plain, str(PROGRAMS / "cached_tests.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
