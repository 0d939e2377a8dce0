"""The kinds of checks that were promised for large values are there, and a run lists them (C32)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support.checkkinds import listed_kinds, tally

TESTS = Path(__file__).parents[1]
PROMISED = (
    *("small values", "large values", "ranges", "integrity"),
    *("all tiers together", "variants", "errors and fallback"),
    *("memory", "speed of streams", "speed of ranges"),
)


def test_every_kind_is_listed_with_tests() -> None:
    kinds = listed_kinds()
    assert tuple(kinds) == PROMISED
    assert all(kinds.values())


@pytest.mark.parametrize("kind", PROMISED)
def test_every_listed_test_is_there(kind: str) -> None:
    for test in listed_kinds()[kind]:
        file, _, name = test.partition("::")
        tree = ast.parse((TESTS / file).read_text())
        functions = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name.startswith("test_") and name in functions, test


def test_a_run_says_what_became_of_each_kind() -> None:
    kinds = {"ranges": ("tiers/test_a.py::test_one", "unit/test_b.py::test_two"), "memory": ()}
    ended = {
        "passed": ["tests/tiers/test_a.py::test_one[weed-1]", "tests/tiers/test_a.py::test_one[2]"],
        "failed": ["tests/unit/test_b.py::test_two", "tests/unit/test_b.py::test_two_more"],
    }
    assert tally(kinds, ended) == ["ranges: 2 passed, 1 failed"]
    assert tally(kinds, {"passed": ["tests/unit/test_c.py::test_one"]}) == []
