"""The benchmark beside the floor: both sides do what their row says, in every round."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from benchmarks import bench_floor as bench
from benchmarks.bench_artifacts import Cell, replace_between


async def test_every_row_is_taken_from_both_sides_in_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "SETTLED", 3)
    monkeypatch.setattr(bench, "ARRAY", 2_000_000)
    monkeypatch.setattr(bench, "touch_memory", lambda size, scratch: None)
    subject = bench.Bench(tmp_path, quick=True)
    subject.rounds, subject.shrink = 2, 200
    try:
        cells = await subject.all()
    finally:
        await subject.close()
    assert set(cells) == set(bench.ROWS)
    for floor, ours in cells.values():
        assert len(floor.seconds) == len(ours.seconds) == 2
        assert min(floor.seconds) > 0
        assert min(ours.seconds) > 0


async def test_the_floor_reads_what_the_cache_stored_and_writes_whole_files(
    tmp_path: Path,
) -> None:
    subject = bench.Bench(tmp_path, quick=True)
    try:
        names = subject.names(2)
        await subject.put(b"x" * 5000, names)
        assert subject.hit_floor(names, 3) > 0
        assert subject.map_floor(names, 3, checked=True) > 0
        with pytest.raises(FileNotFoundError, match=subject.paths(["absent"])[0]):
            subject.hit_floor(["absent"], 1)
        subject.put_floor(b"y" * 5000, ["one", "two"])
    finally:
        await subject.close()
    written = [
        path for path in (tmp_path / "floor").glob("*/*") if b"y" * 5000 in path.read_bytes()
    ]
    assert sorted(path.name for path in written) == ["one", "two"]
    assert subject.floor.key(bench.FIELDS) != subject.floor.key(bench.FIELDS | {"beam_size": 6})
    assert len(subject.floor.key(bench.FIELDS)) == 16


def test_goals_are_judged_by_the_rounds_and_misses_have_causes() -> None:
    steady = Cell((1e-6, 1e-6, 1e-6))
    row = bench.ROWS["hit 4"]
    # The machine was ten times slower in the second round, for both.
    table = bench.page({"hit 4": (Cell((1e-6, 1e-5, 1e-6)), Cell((2e-6, 2e-5, 2e-6)))}, 100 << 20)
    assert "| 2.00x | 2.00-2.00 | 1.5x | **missed** |" in table
    assert f"- {row.name} (2.00x, goal 1.5x): {row.miss}." in table
    assert "**100 MiB**" in table
    assert "lay further apart than 20 %" in table
    table = bench.page({"hit 4": (steady, steady)}, 10 << 20)
    assert "missed" not in table
    assert "- nothing" in table
    assert "further apart" not in table
    assert "MiB" not in bench.page({"hit 4": (steady, steady)}, None)


def test_the_page_has_the_marks(tmp_path: Path) -> None:
    page = (bench.ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert page.count(bench.BEGIN) == page.count(bench.END) == 1
    copy = tmp_path / "page.md"
    copy.write_text(page, encoding="utf-8")
    replace_between(copy, "new", bench.BEGIN, bench.END)
    assert f"{bench.BEGIN}\nnew\n{bench.END}" in copy.read_text(encoding="utf-8")


def test_a_look_is_never_written_down() -> None:
    with pytest.raises(SystemExit):
        bench.main(["--quick", "--write"])


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux tells")
def test_memory_of_a_stream_is_that_of_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "STREAMED", 8 << 20)
    asyncio.run(bench.stream(tmp_path))
    assert 0 <= int(capsys.readouterr().out) < 1 << 40
