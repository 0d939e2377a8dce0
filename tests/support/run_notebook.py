"""Run a notebook in a kernel of its own: ``python run_notebook.py IN OUT``."""

from __future__ import annotations

import sys

import nbformat
from nbclient import NotebookClient


def main(source: str, target: str) -> None:
    """Execute every cell, and write the notebook with what came of it.

    Raises:
        CellExecutionError: A cell raised.
    """
    notebook = nbformat.read(source, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    nbformat.write(notebook, target)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
