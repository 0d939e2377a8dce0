"""The benchmark measures what it says: every contender, the same value, every operation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_artifacts as bench
from benchmarks.contenders import CONTENDERS, Cogcache, CogcacheSync, PlainFiles
from benchmarks.corpus import Artifact, descriptions, keyframes, raw_size, transcript
from cogcache import StoreResult, VideoCache
from cogcache._inline import is_sync

TINY = (
    Artifact("a document", "document", lambda: descriptions(3), 2, 3),
    Artifact("pictures", "frames", lambda: keyframes(2), 1, 3),
    Artifact("an array", "array", lambda: np.arange(600, dtype=np.float16).reshape(2, 300), 1, 3),
)


@pytest.mark.parametrize("artifact", TINY, ids=lambda artifact: artifact.kind)
async def test_every_contender_is_timed_at_every_operation(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "SETTLED", 3)
    results = await bench.measure(artifact, tmp_path, 3)
    awaited = {"cogcache", "aiofiles", "cashews", "compressed"}
    names = awaited | {"cogcache, sync", "plain files", "diskcache", "joblib"}
    assert set(results) == {(op, artifact.name, n) for op in bench.OPERATIONS for n in names}
    assert all(len(cell.seconds) == 3 and min(cell.seconds) > 0 for cell in results.values())
    assert all(cell.blocking == (name not in awaited) for (_, _, name), cell in results.items())


async def test_the_two_forms_of_cogcache_are_called_as_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked: list[bool] = []
    store = VideoCache._store

    async def noted_store(self: VideoCache, artifact: str, value: Any, **named: Any) -> StoreResult:
        blocked.append(is_sync())
        return await store(self, artifact, value, **named)

    monkeypatch.setattr(VideoCache, "_store", noted_store)
    for make in (Cogcache, CogcacheSync):
        contender = make(tmp_path / make.__name__)
        await contender.put("document", "one", {"text": "a"})
        assert await contender.get("document", "one") == {"text": "a"}
        await contender.close()
    assert blocked == [False, True]


async def test_a_contender_that_gives_back_something_else_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(PlainFiles):
        name = "forgetful"

        async def get(self, kind: Any, key: str) -> Any:
            return {**(await super().get(kind, key)), "total_descriptions": 0}

    monkeypatch.setattr(bench, "SETTLED", 0)
    monkeypatch.setattr(bench, "CONTENDERS", (*CONTENDERS, Forgetful))
    with pytest.raises(RuntimeError, match="forgetful gave back another"):
        await bench.measure(TINY[0], tmp_path, 1)


def test_the_corpus_has_the_sizes_that_it_says() -> None:
    assert 43_000 < raw_size(transcript()) < 49_000
    assert 84_000 < raw_size(descriptions(133)) < 90_000
    metadata, pictures = keyframes(4)
    assert [len(picture) for picture in pictures.values()] == [50_000] * 4
    assert len(metadata["keyframes"]) == 4
    assert transcript() == transcript()


def results_of(**seconds: list[float]) -> bench.Results:
    """A hit of a thing: cogcache ``awaited`` and ``blocking``, and peers of both forms."""
    names = {"awaited": "cogcache", "blocking": "cogcache, sync", "compressed": "compressed"}
    return {
        ("hit", "thing", names.get(name, name)): bench.Cell(
            tuple(taken), name not in ("awaited", "aiofiles", "compressed")
        )
        for name, taken in seconds.items()
    }


def test_ratios_compare_blocks_of_the_same_round() -> None:
    # The machine was ten times slower in the second round: for all.
    results = results_of(
        awaited=[1e-4, 1e-3, 1e-4],
        aiofiles=[2e-4, 2e-3, 2e-4],
        blocking=[5e-5, 5e-4, 5e-5],
        other=[15e-5, 15e-4, 15e-5],
        compressed=[3e-4, 3e-3, 3e-4],
    )
    head, _, row = bench.table(results, "hit", {"thing": 45_000}, spread=True).splitlines()
    assert head == "| hit | size | cogcache | aiofiles | cogcache, sync | other |"
    assert row == (
        "| thing | 45 KB | **100 µs** | 200 µs (2x, 2-2) | **50 µs** | 150 µs (3x, 3-3) |"
    )
    assert bench.behind(results) == bench.behind_awaited(results) == []
    assert bench.summary(results).count("- on no row") == 2


def test_compression_has_a_table_beside_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "OPERATIONS", ("hit",))
    results = results_of(awaited=[1e-4] * 3, blocking=[5e-5] * 3, compressed=[3e-4] * 3)
    row = bench.compressed_table(results, {"thing": 45_000}).splitlines()[2]
    assert row == "| thing | 45 KB | 300 µs (3x, 3-3) |"


def test_a_faster_peer_is_named() -> None:
    results = results_of(
        awaited=[4e-4] * 3, aiofiles=[2e-4] * 3, blocking=[3e-4] * 3, other=[1e-4] * 3
    )
    assert bench.behind(results) == [
        "hit of thing: aiofiles takes 0.50 of our time",
        "hit of thing: other takes 0.33 of our time",
    ]
    assert bench.behind_awaited(results) == ["hit of thing: other takes 0.25 of its time"]


def test_a_peer_between_the_two_forms_is_named_for_the_awaited_one_only() -> None:
    results = results_of(awaited=[3e-4] * 3, blocking=[1e-4] * 3, other=[2e-4] * 3)
    assert bench.behind(results) == []
    assert bench.behind_awaited(results) == ["hit of thing: other takes 0.67 of its time"]
    assert "- hit of thing: other takes 0.67 of its time" in bench.summary(results)


def test_tables_are_written_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{bench.BEGIN}\nold\n{bench.END}\nafter\n")
    bench.replace_between(page, "new")
    bench.replace_between(page, "newer")
    assert page.read_text() == f"before\n{bench.BEGIN}\nnewer\n{bench.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="has no lines"):
        bench.replace_between(page, "new")
    assert page.read_text() == "no marks"


@pytest.mark.parametrize("name", ["README.md", "docs/benchmarks.md"])
def test_both_pages_have_the_marks(name: str) -> None:
    page = (bench.ROOT / name).read_text(encoding="utf-8")
    assert page.count(bench.BEGIN) == page.count(bench.END) == 1
