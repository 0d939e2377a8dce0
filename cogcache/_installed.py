"""Whether an optional package is there, without importing it."""

from __future__ import annotations

import sys

__all__ = ["is_installed"]


def is_installed(name: str) -> bool:
    """Whether ``import name`` would find a package; nothing of it is run."""
    return name in sys.modules or any(
        finder.find_spec(name, None) is not None for finder in sys.meta_path
    )
