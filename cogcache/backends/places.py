"""Where entries lie in a tier, whole or not: what ``CacheManager.verify`` looks through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cogcache import _core

__all__ = ["Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """A place where there is, or should be, an entry.

    Attributes:
        name: What it is called there: a file under the root, an object, a key of the server.
        entry: What is there, opened without its value; ``None`` where it cannot be opened.
        mark: By which the tier knows this generation again; the tier's own business.
        error: Why it could not be opened.
        is_damaged: Whether that is the fault of its bytes; else the tier could not say.
    """

    name: str
    entry: _core.Entry | None
    mark: Any = None
    error: str = ""
    is_damaged: bool = False
