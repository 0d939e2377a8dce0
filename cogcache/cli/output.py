"""What is printed: tables, sizes, times and JSON. Data goes to standard output, all else to
standard error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from cogcache._installed import is_installed

__all__ = ["clean", "duration", "print_json", "print_table", "size", "summary", "when"]

SCHEMA: Final = 1
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_TIMES: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def size(count: float) -> str:
    """Bytes for people: ``13.1 kB``."""
    for unit in _UNITS:
        if abs(count) < 999.5 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds for people: ``3h``, ``never`` for ``None``."""
    if seconds is None:
        return "never"
    for unit, length in _TIMES:
        if seconds >= 2 * length or length == 1:
            return f"{seconds / length:.0f}{unit}"
    raise AssertionError


def when(unix: float | None) -> str:
    """A moment, as local time; ``never`` for ``None``."""
    if unix is None:
        return "never"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix))


def clean(text: object) -> str:
    """A text from the cache without what a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def print_json(**values: Any) -> None:
    """One object, with the schema. Numbers that JSON cannot hold are texts: ``"nan"``."""
    whole = {"schema": SCHEMA, **values}
    try:
        text = json.dumps(whole, indent=2, default=_plain, allow_nan=False)
    except ValueError:
        loose = json.loads(json.dumps(whole, default=_plain), parse_constant=_number_text)
        text = json.dumps(loose, indent=2)
    click.echo(text)


def _number_text(constant: str) -> str:
    return str(float(constant))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()
) -> None:
    """Rows under headers: with rich on a terminal, else in plain columns that nothing cuts."""
    texts = [[clean(cell) for cell in row] for row in rows]
    if sys.stdout.isatty() and is_installed("rich"):
        _print_rich(headers, texts, right)
        return
    table = [list(headers), *texts]
    widths = [max(len(row[at]) for row in table) for at in range(len(headers))]
    for row in table:
        cells = [
            cell.rjust(width) if header in right else cell.ljust(width)
            for header, cell, width in zip(headers, row, widths, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _print_rich(
    headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(
            header,
            justify="right" if header in right else "left",
            no_wrap=header in right,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # never as markup
    Console().print(table)


def summary(text: str) -> None:
    """A line for people below what was listed; nothing where a program reads."""
    if sys.stdout.isatty():
        click.echo(text, err=True)
