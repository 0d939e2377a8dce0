"""What became of an archive that was written or read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cogcache.exceptions import shown

__all__ = ["ArchiveReport", "Refusal", "Tally"]

REFUSALS_KEPT: Final = 1000  # by name; all are counted


@dataclass(frozen=True, slots=True)
class Refusal:
    """One member of an archive that was not taken.

    Attributes:
        name: As the archive has it, or the printed key where one is being written.
        reason: One word, see ``ArchiveReport``.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.name)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """What became of an archive.

    Attributes:
        entries: How many were written into it, or taken from it.
        stored_bytes: What those take as stored.
        skipped: How many were left out though nothing is wrong with them, by reason: ``"present"``
            (the cache has the key), ``"expired"``, ``"tag-invalidated"``, ``"absent"`` (selected,
            but gone by the time).
        refused: How many were not taken since something is wrong with them or with the cache, by
            reason: ``"damaged"``, ``"wrong-digest"``, ``"wrong-key"``, ``"wrong-source"``,
            ``"future-tag"``, ``"duplicate"``, ``"unknown-name"``, ``"not-a-file"``,
            ``"too-large"``, ``"too-many"``, ``"unsupported"`` (of a later version),
            ``"other-source"`` and ``"unknown-input"`` (of ``rekey``), or a word of the tiers such
            as ``"no-space"``.
        refusals: The first 1,000 of those by name.
        complete: Whether the archive was read to its end, or written.
        problem: Why not, if so.
        unmatched: Places that ``rekey`` named and from which nothing came.
    """

    entries: int
    stored_bytes: int
    skipped: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    complete: bool = True
    problem: str | None = None
    unmatched: tuple[str, ...] = ()

    def __str__(self) -> str:
        entries = "1 entry" if self.entries == 1 else f"{self.entries:,} entries"
        lines = [f"{entries}, {self.stored_bytes:,} bytes stored"]
        lines += [f"skipped: {_listed(self.skipped)}"] if self.skipped else []
        lines += [f"refused: {_listed(self.refused)}"] if self.refused else []
        if self.unmatched:
            lines.append(f"rekey: nothing is from {', '.join(map(shown, self.unmatched))}")
        lines += [f"incomplete: {self.problem}"] if not self.complete else []
        return "\n".join(lines)


class Tally:
    """Counts for a report, as they come."""

    def __init__(self) -> None:
        self._entries = self._bytes = 0
        self._skipped: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._refusals: list[Refusal] = []

    def take(self, stored_bytes: int) -> None:
        """One more entry."""
        self._entries += 1
        self._bytes += stored_bytes

    def skip(self, reason: str) -> None:
        """One that is left out."""
        self._skipped[reason] = self._skipped.get(reason, 0) + 1

    def refuse(self, name: str, reason: str) -> None:
        """One that is not taken."""
        self._refused[reason] = self._refused.get(reason, 0) + 1
        if len(self._refusals) < REFUSALS_KEPT:
            self._refusals.append(Refusal(name, reason))

    def report(self, problem: str | None = None, unmatched: tuple[str, ...] = ()) -> ArchiveReport:
        """All of it."""
        return ArchiveReport(
            self._entries,
            self._bytes,
            dict(sorted(self._skipped.items())),
            dict(sorted(self._refused.items())),
            tuple(self._refusals),
            problem is None,
            problem,
            unmatched,
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
