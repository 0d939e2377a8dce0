"""How a process ends with work under way: in time, quietly, and with what was promised on disk."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support_pool import tier_at

from cogcache import _bridge

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
HANG_SECONDS = 100


def start(
    script: str, *arguments: object, options: tuple[str, ...] = (), **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *options, str(HERE / script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=HANG_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(scope="session")
def slow_io(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded library that makes a disk hang."""
    library = tmp_path_factory.mktemp("slow") / "slow_io.so"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    compiler = compiler if shutil.which(compiler) else "cc"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, HERE / "slow_io.c", "-ldl"], check=True
    )
    return library


@pytest.fixture
def hang(tmp_path: Path, slow_io: Path) -> dict[str, str]:
    """The environment of a process whose disk hangs."""
    flag = tmp_path / "hang"
    flag.touch()
    return {
        "LD_PRELOAD": " ".join(filter(None, (os.environ.get("LD_PRELOAD"), str(slow_io)))),
        "SLOW_IO_WHILE": str(flag),
        "SLOW_IO_HELD": str(tmp_path / "held"),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="preloads a library")
@pytest.mark.parametrize("how", ["leave", "forget"])
def test_a_write_that_hangs_does_not_keep_the_process(
    tmp_path: Path, hang: dict[str, str], how: str
) -> None:
    assert _bridge.EXIT_SECONDS == 5.0
    process = start("exit_hung.py", tmp_path / "cache", how, options=("-X", "dev"), **hang)
    out, err = finish(process)
    assert process.returncode == 0
    assert out == "held\n"
    assert err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="preloads a library")
def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path, hang: dict[str, str]) -> None:
    process = start("exit_hung.py", tmp_path / "cache", "wait", **hang)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert process.stdout.readline() == "exiting\n"
    for _ in range(10 * HANG_SECONDS):  # it may not have reached the wait yet
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=0.1)
            break
        except subprocess.TimeoutExpired:
            continue
    else:
        process.kill()
        pytest.fail("Ctrl-C does not end the wait for a hung write")
    finish(process)
    assert Path(hang["SLOW_IO_WHILE"]).exists()


def test_writes_that_nobody_awaited_are_there_after_exit(tmp_path: Path) -> None:
    process = start("exit_pending.py", tmp_path, options=("-X", "dev", "-W", "error"))
    assert finish(process) == ("", "")
    assert process.returncode == 0

    async def look() -> None:
        tier = tier_at(tmp_path)
        for number in range(100):
            value = await tier.get(f"key {number}")
            assert len(value) == 200_001 and value[0] == number
        await tier.aclose()

    asyncio.run(look())


@pytest.mark.parametrize(
    "rounds", [8, pytest.param(100, marks=[pytest.mark.torture, pytest.mark.timeout(1200)])]
)
def test_what_a_killed_process_leaves_is_right(tmp_path: Path, rounds: int) -> None:
    async def look() -> None:
        tier = tier_at(tmp_path, max_size_mb=60)
        for which in range(8):
            value = await tier.get(f"key {which}")
            if value is not None:
                number, data = value[1], value[2]
                assert value == [which, number, bytes([which]) * (which * 40_000)]
                assert len(data) == which * 40_000
        assert await tier.set("new", 1)
        await tier.aclose()

    for round_ in range(rounds):
        process = start("write_until_killed.py", tmp_path)
        assert process.stdout is not None
        for _ in range(1 + round_ % 5):
            assert process.stdout.readline().strip().isdigit()
        process.kill()
        _, err = finish(process)
        assert process.returncode == -signal.SIGKILL
        assert err == ""
        asyncio.run(look())


def test_work_in_every_way_leaves_nothing_behind(tmp_path: Path) -> None:
    process = start("work_without_leaks.py", tmp_path, options=("-W", "error"))
    out, err = finish(process)
    assert err == "" and process.returncode == 0
    blocks, descriptors, kilobytes = map(int, out.split())
    assert blocks < 500  # of 120 rounds
    assert descriptors <= 0
    assert kilobytes < 20_000
