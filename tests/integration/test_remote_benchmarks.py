"""The benchmark of remote tiers measures what it says, and does not hide what misses its goal."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.servers.s3 import S3Place

from benchmarks import bench_remote as bench
from benchmarks.bench_artifacts import replace_between


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "QUICK_ROUNDS", 1)
    monkeypatch.setattr(bench, "QUICK_BYTES", bench.MIB)
    monkeypatch.setattr(bench, "QUICK_SHARE", 20)


@pytest.mark.s3("weed")
@pytest.mark.parametrize("part", list(bench.PARTS))
async def test_every_part_measures_both_in_every_round(
    part: str, s3_place: S3Place, tmp_path: Path
) -> None:
    rows = await bench.PARTS[part](bench.Run(s3_place, tmp_path, quick=True))
    assert rows
    for row in rows:
        assert len(row.ours) == 1 and min(row.ours) >= 0
        assert len(row.peer) == (1 if row.against else 0)
        assert row.met is None or row.cause, "a missed goal needs a cause"
    assert len(bench.page_of(rows).splitlines()) >= 2 + len(rows)


def test_a_ratio_compares_turns_of_the_same_round() -> None:
    # The machine was ten times slower in the second round: for both.
    row = bench.Row("a thing", (1e-3, 1e-2, 1e-3), (2e-3, 2e-2, 2e-3), "it", "each", times=1.5)
    assert row.cells() == ["a thing, each", "1 ms", "2 ms (it)", "2x, 2-2", "1.5x", "met"]


def test_what_misses_its_goal_is_named_with_its_cause() -> None:
    rows = [
        bench.Row("upload of 1 GiB", (2.0, 2.0), (2.0, 2.0), "it", "a GiB", times=1.5),
        bench.Row("a hit in Redis", (0.002, 0.002), most=0.0005),
        bench.Row("download of 1 GiB", (1.0, 1.0), (2.0, 2.0), "it", times=1.5),
        bench.Row("4 KiB ranges, processor", (1.0, 1.0), (0.5, 0.5), "it"),
    ]
    assert [row.met for row in rows] == [False, False, True, None]
    page = bench.page_of(rows)
    assert page.count("**missed**") == 2
    listed = [line for line in page.splitlines() if line.startswith("- ")]
    assert listed[0].startswith("- upload of 1 GiB: 1x") and "SHA-256" in listed[0]
    assert listed[1].startswith("- a hit in Redis: 2 ms, the goal is up to 500 µs: ")
    assert len(listed) == 2
    assert bench.page_of(rows[2:]).endswith("\n- nothing")


async def test_contenders_take_turns_and_the_first_one_is_not_timed() -> None:
    order: list[tuple[str, int]] = []

    def contender(name: str) -> bench.Work:
        async def work(round_: int) -> None:
            order.append((name, round_))

        return work

    taken = await bench.in_turns(3, ours=contender("ours"), peer=contender("peer"))
    assert {name: len(blocks) for name, blocks in taken.items()} == {"ours": 3, "peer": 3}
    assert sorted(order) == [(name, n) for name in ("ours", "peer") for n in (-1, 0, 1, 2)]
    assert [round_ for _, round_ in order] == [-1, -1, 0, 0, 1, 1, 2, 2]


def test_the_table_has_a_place_in_the_docs(tmp_path: Path) -> None:
    page = (bench.ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert page.count(bench.BEGIN) == page.count(bench.END) == 1
    copy = tmp_path / "page.md"
    copy.write_text(page)
    replace_between(copy, "| new |", bench.BEGIN, bench.END)
    written = copy.read_text()
    assert f"{bench.BEGIN}\n| new |\n{bench.END}" in written
    assert written.partition(bench.BEGIN)[0] == page.partition(bench.BEGIN)[0]
