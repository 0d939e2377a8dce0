"""The example's story, told of a real file and a real cache with quick stages in place of the
models.

What is tested here is what the example promises of the cache; the models themselves run in
``make demo``, which checks itself, and in ``test_demo_stages.py``.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.quickstages import EXAMPLES, QuickStages, jpeg

sys.path.insert(0, str(EXAMPLES))

from ingest import story
from ingest.cached import read_back
from ingest.files import NotAVideoError, change_one_byte, check_file
from ingest.report import Sheet, Shot, Speech, clock, render
from ingest.terminal import Stopped, Teller, columns, counted
from ingest.watch import summary

from cogcache import PipelineArtifactCache


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "films" / "my <film> & more.mp4"
    path.parent.mkdir()
    path.write_bytes(b"\0\0\0\x18ftypmp42" + os.urandom(5000) + b"x264 - core 165" + b"\1" * 5000)
    return path


def plan_of(video: Path, work: Path, **changes: Any) -> story.Plan:
    given: dict[str, Any] = {
        "video": video,
        "about": "2.0 s, 640x360",
        "notes": ("said honestly",),
        "work": work,
        "cache": None,
        "sheet": work / "sheet.html",
        "queries": ("a selfish man", "a face"),
        "answers": {"a selfish man": "selfish", "a face": "face"},
    }
    return story.Plan(**{**given, **changes})


async def tell(plan: story.Plan, stages: Any) -> tuple[int, str]:
    out = io.StringIO()
    status = await story.tell(plan, stages, Teller(out))
    return status, out.getvalue()


async def test_the_whole_story_computes_exactly_what_depends_on_each_change(
    video: Path, tmp_path: Path
) -> None:
    stages = QuickStages()
    before = video.read_bytes()
    status, told = await tell(plan_of(video, tmp_path / "work"), stages)
    assert status == 0, told
    # cold, 2 frames/s and the changed video; the sound does not depend on the keyframes.
    assert stages.calls == {"keyframes": 3, "transcript": 2, "descriptions": 3, "embeddings": 3}
    outcomes = re.findall(r"^   (\w+) +(hit|computed) ", told, re.M)
    words = [[word for _, word in outcomes[n : n + 4]] for n in range(0, 20, 4)]
    assert words == [
        ["computed"] * 4,
        ["hit"] * 4,
        ["computed", "hit", "computed", "computed"],
        ["hit"] * 4,
        ["computed"] * 4,
    ]
    assert video.read_bytes() == before, "the caller's own file was changed"


async def test_why_a_stage_was_computed_comes_from_the_cache(video: Path, tmp_path: Path) -> None:
    _, told = await tell(plan_of(video, tmp_path / "work"), QuickStages())
    cold, warm, other, elsewhere, changed = re.split(r"^\d\. ", told, flags=re.M)[1:]
    assert cold.count("absent: nothing like it is known of this video") == 4
    for found in (warm, elsewhere):
        assert len(re.findall(r"kept \d+ s ago", found)) == 4
    assert "strategy" in re.search(r"keyframes .*differs in (.*)", other)[1]  # type: ignore[index]
    assert re.search(r"descriptions .*differs in keyframes", other)
    assert changed.count("source") >= 4


async def test_a_cache_that_forgets_is_told_of_and_fails(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = 0
    real = PipelineArtifactCache.open

    def forgetful(root: Path, **options: Any) -> PipelineArtifactCache:
        nonlocal opened
        opened += 1
        return real(root if opened > 2 else Path(f"{root}-{opened}"), **options)

    monkeypatch.setattr(PipelineArtifactCache, "open", forgetful)
    status, told = await tell(plan_of(video, tmp_path / "work"), QuickStages())
    assert status == 1
    assert "WRONG: warm: transcript was computed, not a hit" in told


async def test_a_search_that_finds_something_else_is_told_of_and_fails(
    video: Path, tmp_path: Path
) -> None:
    plan = plan_of(video, tmp_path / "work", answers={"a face": "selfish"})
    status, told = await tell(plan, QuickStages())
    assert status == 1
    assert 'WRONG: the search for "a face"' in told


async def test_a_fresh_cache_leaves_nothing_behind_but_the_sheet(
    video: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    await tell(plan_of(video, work), QuickStages())
    assert [path.name for path in work.iterdir()] == ["sheet.html"]


async def test_what_a_killed_run_left_is_removed_and_what_is_in_use_stays(
    video: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    for name in ("run-killed", "run-alive", "mine"):
        (work / name / "cache").mkdir(parents=True)
    with story.in_use(work / "run-alive"):
        await tell(plan_of(video, work), QuickStages())
    assert sorted(path.name for path in work.iterdir()) == ["mine", "run-alive", "sheet.html"]


async def test_a_cache_of_ones_own_is_kept_and_used_again(video: Path, tmp_path: Path) -> None:
    plan = plan_of(video, tmp_path / "work", cache=tmp_path / "kept")
    stages = QuickStages()
    assert (await tell(plan, stages))[0] == 0
    stages.calls.clear()
    status, told = await tell(plan, stages)
    assert status == 0, told
    # Only the changed video: its one byte is the same as the first time, so even that is known.
    assert stages.calls == {}


async def test_the_sheet_shows_what_a_newly_opened_cache_has(video: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    plan = plan_of(video, tmp_path / "work", cache=kept)
    await tell(plan, QuickStages())
    page = plan.sheet.read_text(encoding="utf-8")
    assert page.count("<figure>") == 4
    for n in range(4):
        assert f"a face in frame {7 * n}" in page
    assert "rather selfish" in page
    assert "said honestly" in page
    async with PipelineArtifactCache.open(kept, identity="content") as cache:
        known = await read_back(cache, video, QuickStages(), story.TWO_A_SECOND)
    assert [bytes(known.pictures[str(7 * n)]) for n in range(4)] == [jpeg(n) for n in range(4)]


async def test_reading_back_what_was_never_stored_says_so(video: Path, tmp_path: Path) -> None:
    async with PipelineArtifactCache.open(tmp_path / "empty") as cache:
        with pytest.raises(LookupError, match="not everything"):
            await read_back(cache, video, QuickStages(), story.SIMILARITY)


def test_the_sheet_is_self_contained_and_takes_no_orders_from_the_video() -> None:
    evil = '"><script>alert(1)</script>&'
    page = render(
        Sheet(evil, [evil], [evil], [evil], [[evil, evil]], [], [Shot("1", 61.26, b"x", evil)],
              [Speech(0, 1, evil)])
    )  # fmt: skip
    assert "<script" not in page
    assert page.count("&quot;&gt;&lt;script&gt;") == 9
    assert not re.search(r"https?://|url\(|@import|<link", page)
    assert "default-src 'none'" in page
    assert "1:01.3" in page


def test_a_clock_rounds_into_the_next_minute() -> None:
    assert [clock(s) for s in (0, 59.94, 59.96, 600)] == ["0:00.0", "0:59.9", "1:00.0", "10:00.0"]


def test_one_is_singular() -> None:
    assert [counted(n, "frame") for n in (0, 1, 2150)] == ["0 frames", "1 frame", "2,150 frames"]
    assert summary("keyframes", ({"keyframes": [{"frame_id": 0}]}, {})) == "1 frame"
    assert summary("transcript", {"segments": [1]}) == "1 segment"


def test_columns_line_up() -> None:
    assert columns(["a", "bb"], [["ccc", "d"], ["e", "ffff"]]) == [
        "   a      bb",
        "   ---------",
        "   ccc     d",
        "   e    ffff",
    ]


def test_changing_one_byte_changes_one_byte_of_the_signature(video: Path) -> None:
    before = video.read_bytes()
    offset = change_one_byte(video)
    after = video.read_bytes()
    assert len(before) == len(after)
    assert [n for n in range(len(before)) if before[n] != after[n]] == [offset]
    assert offset == before.find(b"x264 - core")
    plain = video.with_name("unsigned")
    plain.write_bytes(b"abc")
    assert (change_one_byte(plain), plain.read_bytes()) == (2, b"abC")


def test_a_stopped_stage_ends_at_its_next_report() -> None:
    teller = Teller(io.StringIO())
    report = teller.progress("keyframes")
    report(1, 10)
    teller.stopping.set()
    with pytest.raises(Stopped):
        report(2, 10)


def test_progress_is_shown_only_where_somebody_is_looking() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    ticks = iter(range(100))
    for out, seen in ((Terminal(), True), (io.StringIO(), False)):
        report = Teller(out, clock=lambda: float(next(ticks))).progress("transcript")
        report(5, 10)
        assert ("50%" in out.getvalue()) is seen


@pytest.mark.parametrize("what", ["missing", "directory", "empty", "fifo"])
def test_what_is_no_video_file_is_answered_in_one_line(what: str, tmp_path: Path) -> None:
    path = tmp_path / "thing.mp4"
    if what == "directory":
        path.mkdir()
    elif what == "empty":
        path.touch()
    elif what == "fifo":
        os.mkfifo(path)
    with pytest.raises(NotAVideoError, match=r"thing\.mp4: "):
        check_file(path)
    done = run_program([str(path)])
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout + done.stderr


def run_program(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "ingest_video.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


# The program with quick stages; the transcript waits for ever, reporting its progress.
INTERRUPTED = """
import sys, threading, types
sys.path[:0] = {paths!r}
from support.quickstages import QuickStages
import ingest

class Slow(QuickStages):
    HONEST = ()
    def transcribe(self, path, *, progress):
        print("transcribing", flush=True)
        while True:
            progress(1, 2)
            threading.Event().wait(0.01)

stages = types.ModuleType("ingest.stages")
slow = Slow()
for name in dir(slow):
    if not name.startswith("__"):
        setattr(stages, name, getattr(slow, name))
media = types.ModuleType("ingest.media")
media.probe = lambda path: "a video"
for name, module in (("stages", stages), ("media", media)):
    sys.modules["ingest." + name] = module
    setattr(ingest, name, module)
import ingest_video
from pathlib import Path
ingest_video.WORK = Path({work!r})
sys.exit(ingest_video.main([{video!r}, "--cache", {cache!r}]))
"""


async def test_ctrl_c_in_a_running_stage_ends_cleanly_and_keeps_what_was_finished(
    video: Path, tmp_path: Path
) -> None:
    work, kept = tmp_path / "work", tmp_path / "kept"
    program = INTERRUPTED.format(
        paths=[str(Path(__file__).parents[1]), str(EXAMPLES)],
        work=str(work),
        video=str(video),
        cache=str(kept),
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if line == b"transcribing\n":
                break
        process.send_signal(signal.SIGINT)
        rest, errors = await asyncio.wait_for(process.communicate(), 300)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 130, errors.decode()
    assert b"interrupted" in rest
    assert errors == b""
    assert list(work.iterdir()) == []
    async with PipelineArtifactCache.open(kept, identity="content") as cache:
        keyframes = await cache.get_keyframes(video, threshold=0.999, load_images=True)
        transcript = await cache.get_transcript(video, model_size="quick-speech", language="en")
    assert keyframes is not None
    assert bytes(keyframes[1]["7"]) == jpeg(1)
    assert transcript is None
