"""The Python modules are layers: arrows go one way, as docs/development.md says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "cogcache"

# Arrows that go back up, each with its reason. They run when something is called, or only for
# types: importing a module never needs what is above it.
BACK: Final = {
    ("config.cache", "settings"): "CacheConfig.load is a short way to Settings.load",
    ("config.s3", "urls"): "S3CacheConfig.from_url is a short way to urls.written_tier",
    ("video", "pipeline"): "a type: VideoCache is a PipelineArtifactCache and one of its sources",
}


def modules() -> dict[str, Path]:
    """Every module of the package by its name within it; the package itself apart, which only names
    what is public.
    """
    found = {"_core": PACKAGE / "_core.pyi"}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]
    return found


def layers() -> list[tuple[str, list[str]]]:
    """The table of docs/development.md from the ground up: names, and patterns of modules."""
    text = (ROOT / "docs/development.md").read_text()
    section = text.split("\n## Layers\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if "`" in line[-6:]]
    return [(row[0], re.findall(r"`([\w.*]+)`", row[2])) for row in rows if len(row) == 3]


def layer_of(module: str, table: list[tuple[str, list[str]]]) -> list[int]:
    """The numbers of the layers that name a module."""
    return [
        number
        for number, (_, patterns) in enumerate(table)
        if any(fnmatchcase(module, pattern) for pattern in patterns)
    ]


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports: at once, when something is called, or for
    types.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, inner = name.partition(".")
            if package != "cogcache":
                continue
            if inner not in known:
                inner = inner.rpartition(".")[0]  # a name within a module
            if inner in known:
                yield inner


def arrows() -> set[tuple[str, str]]:
    known = modules()
    return {
        (module, other)
        for module, path in known.items()
        if path.suffix == ".py"
        for other in imports(path, known)
        if other != module
    }


def test_every_module_is_in_one_layer() -> None:
    table = layers()
    assert len(table) == 10
    places = {module: layer_of(module, table) for module in modules()}
    assert {module: place for module, place in places.items() if len(place) != 1} == {}


def test_every_place_in_a_layer_is_taken() -> None:
    known = modules()
    for _, patterns in layers():
        for pattern in patterns:
            assert any(fnmatchcase(module, pattern) for module in known), pattern


def test_no_module_imports_from_a_layer_above_its_own() -> None:
    table = layers()
    upward = {
        (module, other)
        for module, other in arrows()
        if layer_of(module, table) < layer_of(other, table)
    }
    assert upward - BACK.keys() == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, other in arrows() - BACK.keys():
        graph.setdefault(module, set()).add(other)
    order = list(TopologicalSorter(graph).static_order())  # raises with the circle, if there is one
    assert set(order) <= modules().keys()


def test_every_arrow_back_is_there() -> None:
    assert BACK.keys() <= arrows()


def test_an_arrow_back_is_never_needed_to_import() -> None:
    """At the head of a module it would be a circle of imports."""
    known = modules()
    for module, other in BACK:
        head = ast.parse(known[module].read_text()).body
        at_once = [node for node in head if isinstance(node, ast.Import | ast.ImportFrom)]
        assert f"cogcache.{other}" not in {getattr(node, "module", None) for node in at_once}


@pytest.mark.parametrize("module", ["cogcache", "cogcache.cli.program"])
def test_importing_loads_no_package_that_only_some_need(module: str) -> None:
    """What a tier or a kind of value needs is imported when that is first used."""
    said = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert module in said
    some_need = {"aiofiles", "boto3", "botocore", "ml_dtypes", "numpy", "PIL", "redis", "torch"}
    assert some_need.isdisjoint(said)
