"""Which entries a verb means, and asking before anything is done to them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import click

from cogcache.cli.common import Filters
from cogcache.cli.output import clean, print_table, size
from cogcache.keys import Key
from cogcache.manager import CacheManager
from cogcache.selection import Plan

__all__ = [
    "ask_options",
    "confirm",
    "counted",
    "lines_for_dashes",
    "plan_of",
    "print_keys",
    "print_plan",
    "say",
]

SHOWN: Final = 20


def ask_options(command: Any) -> Any:
    """Give a command ``--dry-run`` and ``--yes``."""
    dry = click.option("--dry-run", is_flag=True, help="Only say what would go.")
    yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
    return dry(yes(command))


def lines_for_dashes(keys: Sequence[str]) -> list[str | Key]:
    """Keys and patterns as given, with the lines of standard input for ``-``.

    A line is a key, whatever is in it: a key that is called ``*`` must not mean all of them.
    """
    wanted: list[str | Key] = []
    for key in keys:
        if key == "-":
            wanted += [Key.parse(line) for line in sys.stdin.read().split("\n") if line]
        else:
            wanted.append(key)
    return wanted


async def plan_of(manager: CacheManager, keys: list[str | Key] | None, filters: Filters) -> Plan:
    """What the filters mean, of that what the keys and patterns name."""
    match keys:
        case None:
            return await filters.matching(None).plan(manager)
        case [str(alone)]:
            return await filters.matching(alone).plan(manager)
    patterns = [key for key in keys if isinstance(key, str) and "*" in key]
    exact = {Key.parse(key) if isinstance(key, str) else key for key in keys if key not in patterns}
    plan = await filters.matching(None).plan(manager)
    found = {one.key for one in plan.only(lambda one: one.key in exact).entries}
    for pattern in patterns:
        matching = await manager.select(**filters.matching(pattern).chosen())
        found |= {one.key for one in matching.entries}
    return plan.only(lambda one: one.key in found)


def print_keys(keys: Iterable[Key]) -> None:
    """One a line, as ``-`` reads them. A key with a line break would be read as two others, so it
    is left out, and that is said.
    """
    left_out = 0
    for text in map(str, keys):
        if "\n" in text:
            left_out += 1
        else:
            click.echo(clean(text) if sys.stdout.isatty() else text)
    if left_out:
        say(f"left out, for the line breaks in their keys: {counted(left_out)}; --json has all")


def print_plan(plan: Plan) -> None:
    """The largest entries of a plan."""
    rows = [(size(one.stored_bytes), one.key) for one in plan.entries[:SHOWN]]
    if rows:
        print_table(("SIZE", "KEY"), rows, right=("SIZE",))
    if plan.count > SHOWN:
        click.echo(f"... and {plan.count - SHOWN:,} more")


def confirm(question: str, yes: bool) -> None:
    """Go on only if somebody says so.

    Raises:
        UsageError: There is nobody to ask.
        Exit: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to ask: say --yes, or --dry-run to look only")
    if not click.confirm(question, err=True):
        raise click.exceptions.Exit(1)


def counted(count: int) -> str:
    """``1 entry``, ``2 entries``."""
    return "1 entry" if count == 1 else f"{count:,} entries"


def say(text: str) -> None:
    """A message for people."""
    click.echo(f"cogcache: {clean(text)}", err=True)
