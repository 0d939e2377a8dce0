"""The kinds of checks of large values that docs/development.md lists by name, with their tests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "development.md"
_TEST = re.compile(r"`([\w/]+\.py::\w+)`")


def listed_kinds() -> dict[str, tuple[str, ...]]:
    """Every kind with the ids of its tests, in the order of the page."""
    _, _, page = PAGE.read_text().partition("## Kinds of checks\n")
    rows = [line for line in page.partition("\n## ")[0].splitlines() if "::" in line]
    return {row.split("|")[1].strip(): tuple(_TEST.findall(row)) for row in rows}


def tally(kinds: Mapping[str, Iterable[str]], ended: Mapping[str, Iterable[str]]) -> list[str]:
    """A line for each kind of which tests ran.

    Args:
        kinds: See ``listed_kinds``.
        ended: Ids of the tests that ran, by outcome.
    """
    lines = []
    for kind, tests in kinds.items():
        ids = tuple(f"tests/{test}" for test in tests)
        counts = {
            outcome: sum(node.split("[")[0] in ids for node in nodes)
            for outcome, nodes in ended.items()
        }
        if any(counts.values()):
            text = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
            lines.append(f"{kind}: {text}")
    return lines
