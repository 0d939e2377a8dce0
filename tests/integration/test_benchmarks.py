"""The benchmark measures what it says: every contender, the same value, every operation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bench_artifacts as bench
from benchmarks.contenders import CONTENDERS, PlainFiles
from benchmarks.corpus import Artifact, descriptions, keyframes, raw_size, transcript

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
    names = {"cogcache", "compressed", "plain files", "aiofiles", "diskcache", "joblib"}
    assert set(results) == {(op, artifact.name, n) for op in bench.OPERATIONS for n in names}
    assert all(len(cell.seconds) == 3 and min(cell.seconds) > 0 for cell in results.values())


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


def results_of(ours: list[float], theirs: list[float]) -> bench.Results:
    return {
        ("hit", "thing", "cogcache"): bench.Cell(tuple(ours)),
        ("hit", "thing", "other"): bench.Cell(tuple(theirs)),
    }


def test_ratios_compare_blocks_of_the_same_round() -> None:
    # The machine was ten times slower in the second round: for both.
    results = results_of([1e-4, 1e-3, 1e-4], [2e-4, 2e-3, 2e-4])
    ours, theirs = results.values()
    assert theirs.against(ours) == pytest.approx((2, 2, 2))
    row = bench.table(results, "hit", {"thing": 45_000}, spread=True).splitlines()[2]
    assert row == "| thing | 45 KB | **100 µs** | 200 µs (2x, 2-2) |"
    assert bench.behind(results) == []


def test_a_faster_peer_is_named() -> None:
    results = results_of([3e-4] * 3, [1e-4] * 3)
    assert bench.behind(results) == ["hit of thing: other takes 0.33 of our time"]


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
