"""How results are shown: one description of what is to be seen, as text and as HTML.

A result that can be shown has a ``face()``: a headline, facts, tables and notes, made from what the
result holds and nothing else. Text goes to a terminal, HTML to a notebook. The HTML is escaped,
needs no script and nothing from outside, follows the colours of the notebook or of the system,
light or dark, and contains the text for viewers that drop styles.
"""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "Face",
    "Picture",
    "Shown",
    "Table",
    "moment_text",
    "seconds_text",
    "share_text",
    "size_text",
]

_CALENDAR_END: Final = 253_402_300_800  # Unix seconds of the year 10,000
_CELL_CHARACTERS: Final = 200  # of a cell of a table of text; more is cut in the middle
_LONG_CHARACTERS: Final = 40  # a longer cell of HTML may be broken into lines anywhere

_STYLE: Final = """
.cogcache{--cc-fg:#1b1b1b;--cc-bg:#fff;--cc-dim:#5f6368;--cc-line:#dadce0;--cc-row:#f5f6f7;
--cc-bad:#b3261e}
@media (prefers-color-scheme:dark){.cogcache{--cc-fg:#e6e6e6;--cc-bg:#1e1e1e;--cc-dim:#a5a9ad;
--cc-line:#45484c;--cc-row:#292b2e;--cc-bad:#ff8a80}}
html[theme=dark] .cogcache,[data-theme=dark] .cogcache,body.vscode-dark .cogcache,
[data-jp-theme-light=false] .cogcache{--cc-fg:#e6e6e6;--cc-bg:#1e1e1e;--cc-dim:#a5a9ad;
--cc-line:#45484c;--cc-row:#292b2e;--cc-bad:#ff8a80}
html[theme=light] .cogcache,[data-theme=light] .cogcache,body.vscode-light .cogcache,
[data-jp-theme-light=true] .cogcache{--cc-fg:#1b1b1b;--cc-bg:#fff;--cc-dim:#5f6368;
--cc-line:#dadce0;--cc-row:#f5f6f7;--cc-bad:#b3261e}
.cogcache{color:var(--jp-content-font-color1,var(--cc-fg));
background:var(--jp-layout-color0,var(--cc-bg));
font:13px/1.45 system-ui,sans-serif;padding:6px 8px;overflow-x:auto}
.cogcache>pre{display:none}
.cogcache>div{display:block!important}
.cogcache h4{margin:0 0 4px;font-size:14px;font-weight:600}
.cogcache .cc-bad{color:var(--jp-error-color1,var(--cc-bad))}
.cogcache .cc-facts{display:flex;flex-wrap:wrap;gap:4px 24px;margin:4px 0 8px}
.cogcache .cc-facts div{display:flex;gap:6px;overflow-wrap:anywhere}
.cogcache .cc-name,.cogcache caption,.cogcache p{
color:var(--jp-content-font-color2,var(--cc-dim));font-weight:400}
.cogcache .cc-name{white-space:nowrap}
.cogcache .cc-facts,.cogcache table{font-variant-numeric:tabular-nums}
.cogcache.cogcache table{border-collapse:collapse;margin:6px 0;color:inherit;font:inherit;
table-layout:auto}
.cogcache caption{caption-side:top;text-align:left;padding:0 0 2px}
.cogcache.cogcache th,.cogcache.cogcache td{text-align:left;padding:3px 10px;
vertical-align:middle;color:inherit;background:none;border:0;
border-bottom:1px solid var(--jp-border-color2,var(--cc-line));white-space:nowrap;max-width:none}
.cogcache.cogcache td.cc-long{white-space:normal;overflow-wrap:anywhere;min-width:24em;
max-width:60em}
.cogcache.cogcache th.cc-num,.cogcache.cogcache td.cc-num{text-align:right}
.cogcache tbody tr:nth-child(odd){background:var(--jp-rendermime-table-row-background,
var(--cc-row))}
.cogcache p{margin:4px 0}
.cogcache img{display:block;max-width:96px;max-height:72px;margin:0}
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A small picture in a table.

    Attributes:
        data: Encoded.
        content_type: Such as ``"image/jpeg"``.
        text: What stands for it where there are no pictures.
    """

    data: bytes
    content_type: str
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under names.

    Attributes:
        title: What the rows are.
        columns: Names; one that ends with ``">"`` (not shown) is of numbers, set to the right.
        rows: As many cells each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Picture, ...], ...]


@dataclass(frozen=True, slots=True)
class Face:
    """What is to be seen of a result.

    Attributes:
        title: The headline.
        is_bad: The headline is bad news.
        facts: (name, value) pairs.
        tables: In this order; one without rows is not shown.
        notes: Sentences at the end.
    """

    title: str
    is_bad: bool = False
    facts: tuple[tuple[str, str], ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """For a terminal."""
        lines = [self.title]
        if self.facts:
            width = max(len(name) for name, _ in self.facts)
            lines += [f"  {name:<{width}}  {value}" for name, value in self.facts]
        for table in self.tables:
            if table.rows:
                lines += ["", *_text_of(table)]
        if self.notes:
            lines += ["", *self.notes] if self.facts or self.tables else list(self.notes)
        return "\n".join(_printable(line) for line in lines)

    def html(self) -> str:
        """For a notebook: one element, complete in itself."""
        bad = ' class="cc-bad"' if self.is_bad else ""
        inside = [f"<h4{bad}>{_safe(self.title)}</h4>"]
        if self.facts:
            pairs = (
                f'<div><span class="cc-name">{_safe(name)}</span><span>{_safe(value)}</span></div>'
                for name, value in self.facts
            )
            inside.append(f'<div class="cc-facts">{"".join(pairs)}</div>')
        inside += [_html_of(table) for table in self.tables if table.rows]
        inside += [f"<p>{_safe(note)}</p>" for note in self.notes]
        return (
            f'<div class="cogcache"><style>{_STYLE}</style><pre>{html.escape(self.text())}</pre>'
            f'<div style="display:none">{"".join(inside)}</div></div>'
        )


class Shown:
    """A result with a face: ``str()`` and ``print`` give its text, notebooks its HTML. Neither
    reads anything.
    """

    __slots__ = ()

    def face(self) -> Face:
        """What is to be seen of it."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.face().text()

    def _repr_html_(self) -> str:
        return self.face().html()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.face().text())  # IPython would take a dictionary for nothing but that

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, Any]:
        face = self.face()
        makers = {"text/plain": face.text, "text/html": face.html}
        return {
            kind: make()
            for kind, make in makers.items()
            if (not include or kind in include) and (not exclude or kind not in exclude)
        }


# --- numbers for people ---------------------------------------------------------------------------


def size_text(size: float) -> str:
    """Bytes with three digits and a unit of thousands: ``"96.4 MB"``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or abs(size) >= 99.95 else f"{size:.3g} {unit}"


def seconds_text(seconds: float) -> str:
    """A duration in its two largest units: ``"2 h 5 min"``."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    left = round(seconds)
    terms: list[tuple[int, str]] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or terms:
            terms.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in terms[:2] if count)


def moment_text(unix_seconds: float | None) -> str:
    """A moment in UTC, to the minute; ``"never"`` for ``None``."""
    if unix_seconds is None:
        return "never"
    if not 0 <= unix_seconds < _CALENDAR_END:
        return "beyond the calendar"
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(unix_seconds))


def share_text(part: float, whole: float) -> str:
    """A percentage; a dash where there is no whole, and a bound where the part is many wholes."""
    if part >= 10 * whole:
        return "> 999 %" if whole else "-"
    return f"{100 * part / whole:.1f} %"


# --- tables ---------------------------------------------------------------------------------------


def _is_number(column: str) -> bool:
    return column.endswith(">")


def _text_of(table: Table) -> list[str]:
    names = [column.removesuffix(">") for column in table.columns]
    rows = [[_short(_plain(cell)) for cell in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if _is_number(column) else cell.ljust(width)
            for cell, width, column in zip(cells, widths, table.columns, strict=True)
        )
        return f"  {'  '.join(aligned)}".rstrip()

    title = [f"{table.title}:"] if table.title else []
    return [*title, line(names), line(["-" * width for width in widths]), *map(line, rows)]


def _html_of(table: Table) -> str:
    def cell(tag: str, column: str, content: str | Picture) -> str:
        is_long = isinstance(content, str) and len(content) > _LONG_CHARACTERS
        kind = "cc-num" if _is_number(column) else "cc-long" if is_long else ""
        style = f' class="{kind}"' if kind else ""
        if isinstance(content, Picture):
            data = base64.b64encode(content.data).decode()
            mime, text = _safe(content.content_type), _safe(content.text)
            inside = f'<img alt="{text}" src="data:{mime};base64,{data}">'
        else:
            inside = _safe(content)
        return f"<{tag}{style}>{inside}</{tag}>"

    head = "".join(cell("th", column, column.removesuffix(">")) for column in table.columns)
    body = "".join(
        f"<tr>{''.join(map(cell, ['td'] * len(row), table.columns, row))}</tr>"
        for row in table.rows
    )
    caption = f"<caption>{_safe(table.title)}</caption>" if table.title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _plain(cell: str | Picture) -> str:
    return cell.text if isinstance(cell, Picture) else _printable(cell)


def _short(text: str) -> str:
    if len(text) <= _CELL_CHARACTERS:
        return text
    half = _CELL_CHARACTERS // 2
    return f"{text[: half - 1]}…{text[-half:]}"


def _safe(text: str) -> str:
    return html.escape(_printable(text))


def _printable(text: str) -> str:
    """Without what would move the cursor of a terminal or break a table."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
