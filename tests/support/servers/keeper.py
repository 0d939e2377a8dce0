"""Holds the processes of one server and ends them when the test run ends, however it ends.

Run as a process of its own. It reads requests from its standard input, one JSON object a line, and
answers each with one line. When the input closes (the tests are through, or were killed), it kills
what it holds, removes its folder and ends; so no server outlives a test run.

Requests: ``start`` (commands, cwd, env, log, litter), ``status``, ``stop`` (grace), ``kill``. The
first line that it writes names the folder that it made, short enough for socket paths.
"""

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

Processes = list["subprocess.Popen[bytes]"]


def short_folder() -> str:
    """A new folder; the names of sockets in it must stay below 104 bytes."""
    root = "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else None
    return tempfile.mkdtemp(prefix="cogs-", dir=root)


def start(held: Processes, request: dict[str, Any]) -> None:
    with open(request["log"], "ab") as log:
        for command in request["commands"]:
            held.append(
                subprocess.Popen(
                    command["argv"],
                    executable=command.get("executable"),
                    cwd=request["cwd"],
                    env=request["env"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )


def end(held: Processes, number: int, patience: float) -> None:
    """Send a signal to all, SIGKILL to those that are still there after ``patience`` seconds."""
    for process in held:
        if process.poll() is None:
            os.killpg(process.pid, number)
    until = time.monotonic() + patience
    for process in held:
        try:
            process.wait(max(until - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    held.clear()


def main() -> None:
    held: Processes = []
    litter: list[str] = []
    folder = short_folder()
    try:
        print(json.dumps({"folder": folder}), flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            answer: dict[str, Any] = {}
            try:
                match request["do"]:
                    case "start":
                        litter = request["litter"]
                        start(held, request)
                        answer["pids"] = [process.pid for process in held]
                    case "status":
                        answer["codes"] = [process.poll() for process in held]
                    case "stop":
                        end(held, signal.SIGTERM, request["grace"])
                    case "kill":
                        end(held, signal.SIGKILL, 60)
            except OSError as error:
                answer["error"] = str(error)
            print(json.dumps(answer), flush=True)
    except BrokenPipeError:
        pass
    finally:
        end(held, signal.SIGKILL, 60)
        for path in litter:
            for found in glob.glob(path):
                os.unlink(found)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    main()
