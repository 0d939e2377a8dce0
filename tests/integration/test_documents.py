"""Every block of Python in the documents is run as it stands there, and what it defines is
called."""

from __future__ import annotations

import ast
import inspect
import os
import re
import tomllib
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cogcache
import cogcache.exceptions
from cogcache import PipelineArtifactCache
from cogcache.settings import Settings

TOP = Path(__file__).resolve().parents[2]
DOCS = TOP / "docs"
PICTURE = b"\xff\xd8\xff\xe0 a picture \xff\xd9"

Names = dict[str, Any]
Page = Callable[[Names, Path], Awaitable[None]]
PAGES: dict[str, Page] = {}


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    text = (DOCS / f"{page}.md").read_text("utf-8")
    fences = re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.M | re.S)
    return [body for name, body in fences if name == language]


async def run(block: str, names: Names, page: str) -> None:
    """One block; it may await, as in a notebook."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(block, f"{page}.md", "exec", flags, dont_inherit=True)
    function = types.FunctionType(code, names)
    result = function()
    if inspect.iscoroutine(result):
        await result


def of_page(page: Page) -> Page:
    """Calls what the blocks of the page of this name define."""
    PAGES[page.__name__] = page
    return page


def test_every_page_with_python_is_run() -> None:
    having = {path.stem for path in DOCS.glob("*.md") if blocks(path.stem, "python")}
    assert having == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
async def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "never used")
    (tmp_path / "talk.mp4").write_bytes(b"a video")
    names: Names = {"__name__": "page"}
    await PAGES[page](names, tmp_path)
    for value in list(names.values()):
        if hasattr(value, "aclose") and hasattr(value, "sync"):
            await value.aclose()


@of_page
async def guide(names: Names, folder: Path) -> None:
    video = folder / "talk.mp4"
    names |= {
        "extract_keyframes": lambda path: (
            {"keyframes": [{"frame_id": 0, "timestamp": 0.0}]},
            {"0": PICTURE},
        ),
        "transcribe": lambda path: {"segments": []},
        "describe": lambda keyframes: {"0": "a picture"},
        "diarize": lambda source: ["one speaker"],
        "compute": compute_row,
    }
    five_minutes, batched, own, one_box, into, several, pins, choosing = blocks("guide", "python")
    await run(five_minutes, names, "guide")
    keyframes, transcript, texts = await names["ingest"](video)
    assert (transcript, texts) == ({"segments": []}, {"0": "a picture"})
    assert keyframes["keyframes"][0]["frame_id"] == 0
    await run(batched, names, "guide")
    bound = await names["cache"].video(video)
    found = await names["describe_all"](bound, [1, 2, 3], lambda one: f"frame {one}")
    assert found == {one: f"frame {one}" for one in (1, 2, 3)}
    await run(own, names, "guide")
    assert await names["speakers_of"](bound) == ["one speaker"]
    await run(one_box, {}, "guide")
    await run(into, names, "guide")
    batch = np.zeros((2, 8), np.float32)
    await names["cache"].cache.set("there", np.ones(8, np.float32))
    await names["batch_of"](names["cache"], ["there", "not there"], batch)
    assert batch.tolist() == [[1.0] * 8, [2.0] * 8]
    team: Names = {"PipelineArtifactCache": PipelineArtifactCache}
    for path in ("/local/cache", "/team/cache"):
        several = several.replace(path, f"{folder}{path}")
    await run(several, team, "guide")
    assert [tier.config.shared for tier in team["cache"].cache.backends] == [False, "group"]
    await team["cache"].aclose()
    await run(pins, names, "guide")
    (folder / "trailer.mp4").write_bytes(b"a trailer")
    assert await names["cache"].set_keyframes(folder / "trailer.mp4", [{"frame_id": 0}])
    await names["prepare"](names["cache"])
    await run(choosing, names, "guide")
    assert await names["forget_an_old_model"](names["cache"]) == 0


async def compute_row(key: str) -> Any:
    return np.full(8, 2, np.float32)


@of_page
async def archives(names: Names, folder: Path) -> None:
    for block in blocks("archives", "python"):
        await run(block, names, "archives")
    async with (
        PipelineArtifactCache.open(folder / "there") as there,
        PipelineArtifactCache.open(folder / "here") as here,
    ):
        await there.cache.set("key", "value")
        await names["carry"](there, here)
        (folder / "embeddings.tar").rename(folder / "site-b.tar")
        await names["bring_home"](here)


@of_page
async def configuration(names: Names, folder: Path) -> None:
    [code], [settings] = blocks("configuration", "python"), blocks("configuration", "toml")
    assert tomllib.loads(settings)
    (folder / "team.toml").write_text(settings)
    await run(code.replace('"/data/cache"', repr(str(folder / "cache"))), names, "configuration")
    assert Settings.load(folder / "team.toml").profile == "team"


@of_page
async def inspect_(names: Names, folder: Path) -> None:
    async with PipelineArtifactCache.open(folder / "cache") as cache:
        await cache.cache.set("key", b"value" * 1000)
        for block in blocks("inspect", "python"):
            await run(block, names, "inspect")
        report = await names["look_for_damage"](cache)
        assert report.ok
        for day in (1, 2):
            (folder / "talk.mp4").write_bytes(b"v" * day)
            os.utime(folder / "talk.mp4", (86400 * day, 86400 * day))
            await cache.set_transcript(folder / "talk.mp4", {"day": day})
            for tier in cache.cache.backends:
                tier.set_clock_offset(60_000 * day)
        assert await names["forget_replaced_versions"](cache) == 1
        assert await cache.get_transcript(folder / "talk.mp4") == {"day": 2}


PAGES["inspect"] = PAGES.pop("inspect_")


class Response:
    """What a web framework answers with."""

    def __init__(self) -> None:
        self.body = b""

    async def write(self, piece: bytes) -> None:
        self.body += piece


class Origin:
    """What a web client was answered."""

    def __init__(self, body: bytes) -> None:
        self.content_length = len(body)
        self.content = self._pieces(body)

    async def _pieces(self, body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]


@of_page
async def streams(names: Names, folder: Path) -> None:
    import aiofiles

    clip = bytes(range(256)) * 1000
    (folder / "clip.mp4").write_bytes(clip)
    async with PipelineArtifactCache.open(folder / "cache") as cache:
        stored, teed = blocks("streams", "python")
        names |= {"manager": cache.cache, "response": Response(), "aiofiles": aiofiles}
        await run(stored, names, "streams")
        assert names["result"]
        assert names["response"].body == clip
        assert names["head"] == clip[:65_536]
        names |= {"response": Response(), "origin": Origin(clip)}
        await cache.cache.delete("clip")
        await run(teed, names, "streams")
        assert names["response"].body == clip
        assert await cache.cache.read_range("clip", 0, 10) == clip[:10]


@of_page
async def tiers(names: Names, folder: Path) -> None:
    for block in blocks(
        "tiers", "python"
    ):  # tiers that nobody can reach are configured all the same
        await run(block, names, "tiers")
        if "manager" in names:
            await names.pop("manager").aclose()
    async with PipelineArtifactCache.open(folder / "cache") as cache:
        assert await names["before_training"](cache)


@of_page
async def values(names: Names, folder: Path) -> None:
    [register] = blocks("values", "python")
    await run(register, names, "values")
    kept = names["Transcript"]("a word", [(0.5, "a"), (0.75, "word")])
    async with PipelineArtifactCache.open(folder / "cache") as cache:
        assert await cache.cache.set("key", kept)
        assert await cache.cache.get("key") == kept


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "reference.md").read_text("utf-8")
    named = set(re.findall(r"auto(?:class|function|data):: (\w+)|`(\w+)`", text))
    there = {name for pair in named for name in pair if name}
    there |= set(cogcache.exceptions.__all__)
    assert sorted(set(cogcache.__all__) - there - {"__version__"}) == []
