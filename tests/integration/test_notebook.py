"""The notebook of the documentation, run by a real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parents[2]
NOTEBOOK = TOP / "docs" / "examples" / "inspect_cache.ipynb"


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What each code cell has shown, by MIME type."""
    place = tmp_path_factory.mktemp("notebook")
    home = {
        "HOME": str(place),
        "IPYTHONDIR": str(place / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(place / "runtime"),
        "TMPDIR": str(place),
    }
    script = TOP / "tests" / "support" / "run_notebook.py"
    ran = subprocess.run(
        [sys.executable, script, NOTEBOOK, place / "done.ipynb"],
        env={**os.environ, **home, "PYTHONPATH": str(TOP)},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert list(place.glob("cogcache-notebook-*")) == []  # it cleans up behind itself
    shown = []
    for cell in cells(place / "done.ipynb"):
        assert all(one["output_type"] == "execute_result" for one in cell["outputs"]), cell
        data = cell["outputs"][0]["data"] if cell["outputs"] else {}
        shown.append({kind: "".join(text) for kind, text in data.items()})
    return shown


def test_the_notebook_is_kept_without_results() -> None:
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells(NOTEBOOK))


def test_every_result_is_a_table_in_text_and_in_html(results: list[dict[str, str]]) -> None:
    faces = [one for one in results if "text/html" in one]
    titles = [one["text/plain"].splitlines()[0] for one in faces]
    assert titles[0] == "4 hits of 5 look-ups (80.0 %)"
    assert titles[1].startswith("3 entries, ") and titles[2].startswith("3 entries, ")
    assert titles[3] == (
        "transcript: absent; the nearest entry differs in model: 'large' here, 'base' there"
    )
    assert titles[4].startswith("1 entry, ")
    assert titles[5:] == ["1 of 2 entries are damaged"] * 2
    for face in faces:
        assert face["text/html"].startswith('<div class="cogcache"><style>')
        assert "<script" not in face["text/html"]


def test_the_notebook_shows_what_it_says(results: list[dict[str, str]]) -> None:
    faces = [one["text/html"] for one in results if "text/html" in one]
    assert "17 min 35 s" in faces[0]  # three transcripts and one set of keyframes
    assert faces[1].count('src="data:image/jpeg;base64,') == 1
    assert "nightly" in faces[1] and "nightly" in faces[2]
    assert "verify(fix=True)" in faces[5] and "verify(fix=True)" not in faces[6]
    assert "<td>no</td>" in faces[5] and "<td>yes</td>" in faces[6]
    assert {"text/plain": "1"} in results  # what the plan deleted
