"""The story of the example: one pipeline, run again under changing circumstances.

Every pass says beforehand which stages must be computed. The passes check themselves, so that the
example fails, with a message and an exit status, if the cache ever does anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogcache import Keyframes, PipelineArtifactCache
from ingest.cached import Ingested, read_back
from ingest.files import change_one_byte
from ingest.report import Finding, Sheet, Shot, Speech, clock, render
from ingest.terminal import Teller, columns, counted, duration, size
from ingest.watch import Pass, run_pass, surprises

ARTIFACTS = ("keyframes", "transcript", "descriptions", "embeddings")
SIMILARITY = Keyframes(strategy="similarity", threshold=0.999)
TWO_A_SECOND = Keyframes(strategy="fps", fps=2)


@dataclass(frozen=True)
class Plan:
    """What to tell the story of.

    Attributes:
        video: The video.
        about: What it is, in a line.
        notes: What a reader of the result should know, a sentence each.
        work: A folder for what is made on the way.
        cache: A cache to use and to keep, or ``None`` for a fresh one that is removed at the end.
        sheet: Where the contact sheet goes.
        queries: What to search for.
        answers: A word that the first finding of a query must contain.
        whole: Tell all of it, however long it takes.
    """

    video: Path
    about: str
    notes: Sequence[str]
    work: Path
    cache: Path | None
    sheet: Path
    queries: Sequence[str]
    answers: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False


LONG_SECONDS = 60.0  # a pipeline that takes longer is not run a second time just to be shown
MOST_SHOTS = 240  # on one page
COPY_BYTES = 2 * 10**9  # nor is a longer video copied


async def tell(plan: Plan, stages: Any, teller: Teller) -> int:
    """Run all passes, search, draw the sheet.

    Returns:
        0, or 1 if a stage was computed that should have been a hit, or the other way round.
    """
    plan.work.mkdir(parents=True, exist_ok=True)
    remove_leftovers(plan.work)
    with tempfile.TemporaryDirectory(prefix="run-", dir=plan.work) as folder, in_use(Path(folder)):
        root = plan.cache or Path(folder, "cache")
        told = _Telling(plan, stages, teller, root, Path(folder))
        return await told.everything()


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder; the system lets go of it when the process ends, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(work: Path) -> None:
    """Remove the folders of runs that were killed; those of runs under way are locked."""
    for folder in work.glob("run-*"):
        with contextlib.suppress(OSError), in_use(folder):
            shutil.rmtree(folder)


class _Telling:
    def __init__(self, plan: Plan, stages: Any, teller: Teller, root: Path, folder: Path) -> None:
        self.plan, self.stages, self.teller = plan, stages, teller
        self.root, self.folder = root, folder
        self.passes: list[Pass] = []
        self.wrong: list[str] = []

    def open(self) -> PipelineArtifactCache:
        """Open the cache. Identity "content": a video is what is in it, wherever it lies."""
        return PipelineArtifactCache.open(self.root, identity="content")

    async def everything(self) -> int:
        say, plan = self.teller.say, self.plan
        say(f"{plan.video.name}: {plan.about}")
        for note in plan.notes:
            say(textwrap.fill(note, 96, initial_indent="   ", subsequent_indent="   "))
        # The story needs a video that it may change, so it is told of a copy, and the original
        # is "the same video elsewhere".
        copied = plan.video.stat().st_size <= COPY_BYTES
        video = self.folder / plan.video.name if copied else plan.video
        if copied:
            shutil.copyfile(plan.video, video)
        fresh = plan.cache is None
        cold = await self._pass(
            "cold",
            "an empty cache" if fresh else f"the cache in {plan.cache}",
            video,
            SIMILARITY,
            ARTIFACTS if fresh else None,
        )
        await self._pass("warm", "the same again, the cache newly opened", video, SIMILARITY, ())
        await self._pass(
            "2 frames/s",
            "other keyframes, so other descriptions and embeddings; the sound is the same",
            video,
            TWO_A_SECOND,
            ("keyframes", "descriptions", "embeddings") if fresh else None,
        )
        if copied:
            await self._pass(
                "elsewhere", "the same video at another path", plan.video, SIMILARITY, ()
            )
        if copied and (plan.whole or cold.seconds <= LONG_SECONDS):
            offset = change_one_byte(video)
            await self._pass(
                "changed",
                f"one byte of the video changed, at {offset:,}",
                video,
                SIMILARITY,
                ARTIFACTS if fresh else None,
            )
        else:
            say("\n(not shown, since it would take as long again: the video changed)")
        say()
        say("\n".join(columns(*self.table())))
        await self._draw(await self._search())
        for line in self.wrong:
            say(f"WRONG: {line}")
        return 1 if self.wrong else 0

    async def _pass(
        self,
        name: str,
        title: str,
        path: Path,
        chosen: Keyframes,
        expected: Sequence[str] | None,
    ) -> Pass:
        self.teller.say(f"\n{len(self.passes) + 1}. {name}: {title}")
        async with self.open() as cache:
            try:
                done = await run_pass(name, cache, path, self.stages, chosen, self.teller)
            except asyncio.CancelledError:  # Ctrl-C
                # A stage in its thread ends at its next report of progress; the cache waits for it.
                self.teller.stopping.set()
                raise
        self.passes.append(done)
        if expected is not None:
            self.wrong += surprises(done, expected)
        return done

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The passes side by side: header and rows."""
        cold, warm, *others = self.passes
        header = ["stage", "cold", "warm", "faster", "raw", "stored", *(p.name for p in others)]
        rows = []
        for artifact in ARTIFACTS:
            first, again = cold.steps[artifact], warm.steps[artifact]
            row = [
                artifact,
                duration(first.seconds),
                duration(again.seconds),
                f"{first.seconds / again.seconds:,.0f}x" if first.computed else "",
                size(first.raw_bytes),
                size(first.stored_bytes),
            ]
            steps = [other.steps[artifact] for other in others]
            rows.append([*row, *("computed" if step.computed else "hit" for step in steps)])
        looked = ["identity", duration(cold.identity_seconds), duration(warm.identity_seconds)]
        rows.insert(0, [*looked, *[""] * 3, *(duration(p.identity_seconds) for p in others)])
        total = ["total", duration(cold.seconds), duration(warm.seconds)]
        total += [f"{cold.seconds / warm.seconds:,.0f}x"]
        total += [size(sum(step.raw_bytes for step in cold.steps.values()))]
        total += [size(sum(step.stored_bytes for step in cold.steps.values()))]
        rows.append([*total, *(duration(other.seconds) for other in others)])
        return header, rows

    async def _search(self) -> list[Finding]:
        """Ask the cached embeddings; what is compared, and what is shown, comes from the cache."""
        async with self.open() as cache:
            known = await read_back(cache, self.plan.video, self.stages, SIMILARITY)
        shots = {shot.frame: shot for shot in self._shots(known)}
        things = [shots[frame] for frame in known.embeddings["frames"]] + speech_of(known)
        findings = []
        self.teller.say("\nsearched in the cached embeddings:")
        for query, vector in zip(
            self.plan.queries, self.stages.encode(list(self.plan.queries)), strict=True
        ):
            scores = known.embeddings["vectors"] @ vector
            best = int(scores.argmax())
            found = things[best]
            findings.append(Finding(query, float(scores[best]), found))
            what = "picture" if isinstance(found, Shot) else "spoken"
            asked = f'"{query}"'
            short = textwrap.shorten(found.text, 64, placeholder=" ...")
            self.teller.say(f"   {asked:<20} {what} at {clock(found.start)}: {short}")
            wanted = self.plan.answers.get(query, "")
            if wanted not in found.text:
                self.wrong.append(f'the search for {asked} found nothing with "{wanted}" first')
        return findings

    async def _draw(self, findings: Sequence[Finding]) -> None:
        """Draw the contact sheet of what a newly opened cache has."""
        async with self.open() as cache:
            known = await read_back(cache, self.plan.video, self.stages, TWO_A_SECOND)
        shots = self._shots(known)
        step = -(-len(shots) // MOST_SHOTS)
        header, rows = self.table()
        facts = [
            self.plan.about,
            f"{counted(len(shots), 'keyframe')} at 2 a second, read from the cache",
        ]
        if step > 1:
            facts.append(f"every {step}th shown")
        sheet = Sheet(
            title=self.plan.video.name,
            facts=facts,
            notes=self.plan.notes,
            header=header,
            rows=rows,
            findings=findings,
            shots=shots[::step],
            speech=speech_of(known),
        )
        self.plan.sheet.parent.mkdir(parents=True, exist_ok=True)
        self.plan.sheet.write_text(render(sheet), encoding="utf-8")
        place, here = self.plan.sheet.resolve(), Path.cwd()
        shown = place.relative_to(here) if place.is_relative_to(here) else place
        self.teller.say(f"\ncontact sheet: {shown}")

    def _shots(self, known: Ingested) -> list[Shot]:
        texts = known.descriptions["descriptions"]
        shots = []
        for keyframe in known.keyframes["keyframes"]:
            frame = str(keyframe["frame_id"])
            small = self.stages.thumbnail(known.pictures[frame])
            shots.append(Shot(frame, keyframe["timestamp"], small, texts[frame]))
        return shots


def speech_of(known: Ingested) -> list[Speech]:
    """The segments of the transcript."""
    return [Speech(s["start"], s["end"], s["text"]) for s in known.transcript["segments"]]
