"""The story of the fleet: pods that share what they compute, and one that is killed.

Every pod says what it did; here it is compared with what it must have done, so that the example
fails, with a message and an exit status, if the cache ever does anything else.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ingest.command import EXAMPLES
from ingest.files import change_one_byte
from ingest.story import ARTIFACTS, in_use, remove_leftovers
from ingest.terminal import Teller, columns, duration, size

from pods.pod import Job
from pods.store import StoreError

POD = (sys.executable, "-m", "pods.pod")
VERBS = {"get": "GET", "head": "HEAD", "put": "PUT", "delete": "DELETE", "upload": "PUT"}


class PodError(Exception):
    """A pod ended as it should not; what it had to say is above."""


class Store(Protocol):
    """The store that all pods share."""

    @property
    def bucket(self) -> str: ...

    @property
    def credentials(self) -> Mapping[str, str]: ...

    @property
    def endpoint_url(self) -> str: ...

    async def start(self) -> None: ...

    def kill(self) -> None: ...


@dataclass(frozen=True)
class Plan:
    """What to tell the story of.

    Attributes:
        video: The video.
        about: What it is, in a line.
        notes: What a reader of the result should know, a sentence each.
        work: A folder for what is made on the way.
        store: Makes the store, given a folder for it.
        pod: The command that runs a pod; the job is added.
    """

    video: Path
    about: str
    notes: Sequence[str]
    work: Path
    store: Callable[[Path], AbstractAsyncContextManager[Store]]
    pod: Sequence[str] = POD


@dataclass
class Life:
    """What a pod did while it lived."""

    name: str
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    caught_up: dict[str, Any] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    def count(self, by: str) -> int:
        """How many stages were answered so."""
        return sum(step["by"] == by for step in self.steps.values())

    def total(self, what: str) -> Any:
        """A sum over all that it did."""
        return sum(one.get(what, 0) for one in (self.caught_up, *self.steps.values()))

    def requests(self) -> Counter[str]:
        """All requests by operation."""
        counted: Counter[str] = Counter()
        for one in (self.caught_up, *self.steps.values()):
            counted.update(one.get("requests", {}))
        return counted


async def tell(plan: Plan, teller: Teller) -> int:
    """Tell it.

    Returns:
        0, or 1 if anything was computed twice, went missing or came back different.
    """
    plan.work.mkdir(parents=True, exist_ok=True)
    remove_leftovers(plan.work)
    with tempfile.TemporaryDirectory(prefix="run-", dir=plan.work) as folder, in_use(Path(folder)):
        teller.say("starting an S3 store (SeaweedFS) ...")
        try:
            async with plan.store(Path(folder, "store")) as store:
                return await _Telling(plan, store, teller, Path(folder)).everything()
        except (PodError, StoreError) as error:
            teller.say(f"error: {error}")
            return 1


class _Telling:
    def __init__(self, plan: Plan, store: Store, teller: Teller, folder: Path) -> None:
        self.plan, self.store, self.teller, self.folder = plan, store, teller, folder
        self.lives: list[Life] = []
        self.wrong: list[str] = []

    async def everything(self) -> int:
        say, plan = self.teller.say, self.plan
        say(f"{plan.video.name}: {plan.about}")
        for note in plan.notes:
            say(textwrap.fill(note, 96, initial_indent="   ", subsequent_indent="   "))

        end = plan.video.suffix
        first = self.copy("a", f"videos/talk{end}", aged=0)
        told = await self.live("pod a", "an empty directory, an empty bucket", "a", first)
        self.expect(told, "computed")

        second = self.copy("b", f"inbox/2026/upload-17{end}", aged=86_400)
        again = await self.live("pod b", "an empty directory, the video elsewhere", "b", second)
        self.expect(again, "S3", like=told)
        again = await self.live("pod b again", "a new process in its directory", "b", second)
        self.expect(again, "own disk", like=told)

        other = self.copy("a", f"videos/next{end}", aged=0, changed=True)
        killed = await self.live_until_killed("pod a killed", "a", other)
        self.expect(killed, "computed")
        back = await self.live("pod a back", "a new process in its directory", "a", other, fps=2)
        self.expect(back, "own disk", like=killed)
        waiting, sent = killed.steps[ARTIFACTS[-1]]["waiting"], back.caught_up["replicated"]
        self.check(waiting > 0 and sent == waiting, f"{waiting} waited, {sent} were sent")
        fresh = self.copy("c", f"talks/today{end}", aged=3600, changed=True)
        last = await self.live("pod c", "an empty directory", "c", fresh, fps=2)
        self.expect(last, "S3", like=killed)

        say()
        say("\n".join(self.table()))
        if not self.wrong:
            say("\nNothing was computed twice. Nothing is missing: pod c found in the store, byte")
            say(f"for byte, also the {waiting} results that waited when pod a was killed.")
        for line in self.wrong:
            say(f"WRONG: {line}")
        return 1 if self.wrong else 0

    # --- pods -------------------------------------------------------------------------------------

    def copy(self, pod: str, name: str, *, aged: int, changed: bool = False) -> Path:
        """Give a pod its own copy of the video, at its own path, with its own time."""
        path = self.folder / pod / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.plan.video, path)
        if changed:
            change_one_byte(path)
        at = path.stat().st_mtime - aged
        os.utime(path, (at, at))
        return path

    async def live(
        self, name: str, title: str, pod: str, video: Path, *, fps: float | None = None
    ) -> Life:
        """Run a pod from its beginning to its end."""
        life = self.begin(name, f"{title}; {video.relative_to(self.folder / pod)}")
        async with self.started(pod, video, fps, settle=ARTIFACTS) as process:
            async for event in process.events():
                self.note(life, event)
        if not life.values:
            raise PodError(f"{name} ended with status {process.status}; its message is above")
        return life

    async def live_until_killed(self, name: str, pod: str, video: Path) -> Life:
        """Run a pod; after the first stage the store dies, after the last one the pod."""
        where = video.relative_to(self.folder / pod)
        life = self.begin(name, f"the next video, 2 keyframes a second; {where}")
        async with self.started(pod, video, 2, settle=ARTIFACTS[:1]) as process:
            async for event in process.events():
                self.note(life, event)
                if event.get("stage") == ARTIFACTS[0]:
                    self.teller.say("   -- kill -9 of the store; the pod goes on")
                    self.store.kill()
                if event["event"] == "done":
                    break
            if not life.values:
                raise PodError(f"{name} ended with status {process.status}; its message is above")
            waiting = life.steps[ARTIFACTS[-1]]["waiting"]
            self.teller.say(f"   -- kill -9 of the pod, while {waiting} results wait to be sent")
            await process.kill()
        self.teller.say("   -- the store is started again")
        await self.store.start()
        return life

    def begin(self, name: str, title: str) -> Life:
        self.teller.say(f"\n{len(self.lives) + 1}. {name}: {title}")
        life = Life(name)
        self.lives.append(life)
        return life

    def started(
        self, pod: str, video: Path, fps: float | None, settle: Sequence[str]
    ) -> PodProcess:
        job = Job(
            directory=str(self.folder / pod / "cache"),
            video=str(video),
            bucket=self.store.bucket,
            endpoint_url=self.store.endpoint_url,
            fps=fps,
            settle=tuple(settle),
        )
        return PodProcess([*self.plan.pod, str(job)], self.store.credentials)

    def note(self, life: Life, event: dict[str, Any]) -> None:
        """Remember what a pod told, and print it."""
        say = self.teller.say
        match event["event"]:
            case "log":
                say(f"   log: {textwrap.shorten(event['text'], 110, placeholder=' ...')}")
            case "opened":
                life.caught_up = event
                if event["replicated"]:
                    say(f"   sent at the start, for the one that was killed: {traffic(event)}")
            case "stage":
                life.steps[event["stage"]] = event
                say(stage_line(event))
            case "done":
                life.values = event["values"]

    # --- what must be -----------------------------------------------------------------------------

    def expect(self, life: Life, by: str, like: Life | None = None) -> None:
        """All stages were answered so, and with the same values as in another life."""
        for artifact in ARTIFACTS:
            answered = life.steps[artifact]["by"] if artifact in life.steps else "missing"
            self.check(
                answered == by, f"{life.name}: {artifact} was answered by: {answered}, not {by}"
            )
            if like is not None:
                same = life.values.get(artifact) == like.values.get(artifact)
                self.check(same, f"{life.name}: {artifact} is not what {like.name} computed")

    def check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)

    def table(self) -> list[str]:
        """The lives, one a row."""
        header = ["", "computed", "own disk", "S3", "received", "sent", "GET", "PUT", "others"]
        rows = []
        for life in self.lives:
            counts = by_verb(life.requests())
            gets, puts = counts.pop("GET", 0), counts.pop("PUT", 0)
            rows.append(
                [
                    life.name,
                    *(str(life.count(by)) for by in ("computed", "own disk", "S3")),
                    *(size(n) if n else "-" for n in map(life.total, ("received", "sent"))),
                    *(str(count) for count in (gets, puts, counts.total())),
                ]
            )
        return columns(header, rows)


class PodProcess:
    """A pod, as whoever started it sees it; ``async with`` leaves none behind."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        paths = [str(EXAMPLES), str(EXAMPLES.parents[1]), os.environ.get("PYTHONPATH", "")]
        self._command = command
        self._environment = {
            **os.environ,
            **environment,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> PodProcess:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for the example, which ends it in its turn
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    @property
    def status(self) -> int | None:
        """How it ended."""
        return self._process.returncode if self._process else None

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """What it tells, until it ends. It goes on when the next event is asked for."""
        assert self._process is not None
        assert self._process.stdin is not None and self._process.stdout is not None
        async for line in self._process.stdout:
            event = json.loads(line)
            yield event
            if event["event"] != "log":  # nobody waits after a line of the log
                self._process.stdin.write(b"\n")
        await self._process.wait()

    async def kill(self) -> None:
        """``kill -9``, unless it has ended."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


# --- lines ----------------------------------------------------------------------------------------


def stage_line(event: Mapping[str, Any]) -> str:
    """What one stage did."""
    later = "" if not event["waiting"] else "acknowledged, replicated later"
    what = later or traffic(event)
    return f"   {event['stage']:<13} {event['by']:<9} {duration(event['seconds']):>8}   {what}"


def traffic(event: Mapping[str, Any]) -> str:
    """Requests and bytes, such as "2 GET, 1 PUT; received 1.0 KB"."""
    counts = by_verb(event["requests"])
    if not counts:
        return "no request"
    text = ", ".join(f"{count} {verb}" for verb, count in counts.items())
    for way in ("received", "sent"):
        if event[way]:
            text += f"; {way} {size(event[way])}"
    return text


def by_verb(requests: Mapping[str, int]) -> Counter[str]:
    """Requests by the verb of HTTP that they use."""
    counts: Counter[str] = Counter()
    for operation, count in requests.items():
        counts[VERBS.get(operation.partition("_")[0], "POST")] += count
    return counts
