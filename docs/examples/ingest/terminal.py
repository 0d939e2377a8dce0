"""What is printed: lines, progress where somebody is looking, tables, numbers with units."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TextIO


class Stopped(Exception):  # noqa: N818 - not an error: the person at the keyboard asked for it
    """Raised inside a running stage, so that it ends where it is."""


@dataclass
class Teller:
    """Prints the story; shows the progress of a stage where somebody is looking."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    clock: Callable[[], float] = time.perf_counter
    stopping: threading.Event = field(default_factory=threading.Event)

    def say(self, text: str = "") -> None:
        """Print a line, over whatever progress is shown."""
        self._clear()
        print(text, file=self.out, flush=True)

    def progress(self, artifact: str) -> Callable[[int, int], None]:
        """What a stage reports its progress to, from its own thread."""
        begun = shown = self.clock()

        def report(done: int, total: int) -> None:
            nonlocal shown
            if self.stopping.is_set():
                raise Stopped
            now = self.clock()
            if not self.out.isatty() or now - shown < 0.1:
                return
            shown = now
            part = min(1.0, done / total) if total else 0.0
            bar = ("#" * round(part * 24)).ljust(24, ".")
            left = f", {(now - begun) / part * (1 - part):.0f} s left" if part > 0.05 else ""
            self._clear()
            print(f"   {artifact:<13} [{bar}] {part:4.0%}{left}", end="", file=self.out, flush=True)

        return report

    def _clear(self) -> None:
        if self.out.isatty():
            print("\r\x1b[K", end="", file=self.out)


def duration(seconds: float) -> str:
    """Seconds, or milliseconds below a tenth of a second."""
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.2f} ms"


def counted(count: int, name: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{count:,} {name}" + ("" if count == 1 else "s")


def size(count: int) -> str:
    """Bytes as KB or MB (thousands)."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a table in plain text: the first column to the left, the others to the right."""
    table = [header, *rows]
    widths = [max(len(row[at]) for row in table) for at in range(len(header))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("   " + "  ".join(cells).rstrip())
    lines.insert(1, "   " + "-" * (max(map(len, lines)) - 3))
    return lines
