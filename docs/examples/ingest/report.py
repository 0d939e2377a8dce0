"""The contact sheet: one HTML file that needs nothing but a browser, light or dark.

Pure: from values to text. Everything that comes from the video or from its file name is escaped,
and the page forbids itself to load or run anything.
"""

from __future__ import annotations

import base64
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Shot:
    """One keyframe: its id, its time in seconds, its JPEG and what was measured in it."""

    frame: str
    start: float
    jpeg: bytes
    text: str


@dataclass(frozen=True)
class Speech:
    """One recognised segment; times in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Finding:
    """What a search found first: words that were spoken, or a picture."""

    query: str
    score: float
    found: Shot | Speech


@dataclass(frozen=True)
class Sheet:
    """All that the page shows."""

    title: str
    facts: Sequence[str]
    notes: Sequence[str]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    findings: Sequence[Finding]
    shots: Sequence[Shot]
    speech: Sequence[Speech]


def clock(seconds: float) -> str:
    """Minutes and seconds with one digit: ``1:02.5``."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def render(sheet: Sheet) -> str:
    """Return the page."""
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in sheet.facts)
    notes = "".join(f"<p>{escape(note)}</p>" for note in sheet.notes)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(sheet.title)}: contact sheet</title>
<style>{STYLE}</style>
<main>
<header>
<p class="kicker">cogcache contact sheet</p>
<h1>{escape(sheet.title)}</h1>
<ul class="facts">{facts}</ul>
<div class="notes">{notes}</div>
</header>
<section><h2>What the cache did</h2>{_table(sheet)}</section>
{_findings(sheet.findings)}
<section><h2>Keyframes and speech, in order of time</h2>{_timeline(sheet)}</section>
</main>
</html>
"""


def _table(sheet: Sheet) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in sheet.header)
    body = ""
    for row in sheet.rows:
        first, *rest = (escape(cell) for cell in row)
        cells = "".join(f"<td>{cell}</td>" for cell in rest)
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>'
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    items = ""
    for finding in findings:
        found = finding.found
        if isinstance(found, Shot):
            shown = _picture(found) + f"<p>{escape(found.text)}</p>"
        else:
            shown = f"<blockquote>{escape(found.text)}</blockquote>"
        measured = f"at {clock(found.start)}, similarity {finding.score:.2f}"
        items += (
            f"<article><h3>“{escape(finding.query)}”</h3>{shown}"
            f'<p class="quiet">{measured}</p></article>'
        )
    return (
        "<section><h2>Searched in the cached embeddings</h2>"
        f'<div class="findings">{items}</div></section>'
    )


def _timeline(sheet: Sheet) -> str:
    events: list[tuple[float, int, str]] = []
    times_shown = sorted(shot.start for shot in sheet.shots)
    for words in sheet.speech:
        times = f"{clock(words.start)} to {clock(words.end)}"
        band = f'<p class="speech"><span class="quiet">{times}</span> {escape(words.text)}</p>'
        # Above the picture that was on screen when it was said, so that no row is torn apart.
        earlier = bisect_right(times_shown, words.start)
        events.append((times_shown[earlier - 1] if earlier else words.start, 0, band))
    for shot in sheet.shots:
        caption = f"<figcaption><b>{clock(shot.start)}</b> {escape(shot.text)}</figcaption>"
        events.append((shot.start, 1, f"<figure>{_picture(shot)}{caption}</figure>"))
    events.sort(key=lambda event: event[:2])
    return '<div class="sheet">' + "\n".join(event[2] for event in events) + "</div>"


def _picture(shot: Shot) -> str:
    data = base64.b64encode(shot.jpeg).decode("ascii")
    return f'<img alt="keyframe at {clock(shot.start)}" src="data:image/jpeg;base64,{data}">'


STYLE = """
:root { --page: #fbfaf8; --card: #fff; --ink: #1d1c1a; --quiet: #6b6862; --line: #e4e0d8;
  --accent: #0b6e62; --speech: #e8f3f0; }
@media (prefers-color-scheme: dark) {
  :root { --page: #151617; --card: #1f2123; --ink: #e9e7e3; --quiet: #a3a19b; --line: #34373a;
    --accent: #5cc8b8; --speech: #1b302d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .8rem; font-size: 1.1rem; }
h3 { margin: 0 0 .6rem; font-size: 1rem; }
p { margin: 0; }
.kicker { color: var(--accent); font-weight: 600; margin-bottom: .3rem; }
.facts { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: .6rem 0; padding: 0;
  list-style: none; }
.notes, .quiet { color: var(--quiet); font-size: .88rem; }
.notes { max-width: 75ch; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; background: var(--card);
  font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .8rem; text-align: right; border: 1px solid var(--line);
  white-space: nowrap; }
th:first-child { text-align: left; }
tr:first-child th { color: var(--quiet); font-weight: 500; }
.findings { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); }
article, figure { margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; overflow: hidden; }
article { padding: 1rem; }
article img { border-radius: 4px; margin-bottom: .5rem; }
article .quiet { margin-top: .5rem; }
blockquote { margin: 0; padding-left: .8rem; border-left: 3px solid var(--accent); }
.sheet { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); }
.speech { grid-column: 1 / -1; background: var(--speech); border-left: 3px solid var(--accent);
  border-radius: 4px; padding: .55rem .9rem; font-size: 1.05rem; }
.speech .quiet { margin-right: .5rem; }
img { display: block; width: 100%; height: auto; }
figcaption { padding: .5rem .7rem .6rem; font-size: .8rem; color: var(--quiet); }
figcaption b { color: var(--ink); }
"""
