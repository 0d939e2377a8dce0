"""``verify``: whether everything is as it was written."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

import click

from cogcache.cli.common import (
    CacheChoice,
    Filters,
    cache_options,
    filter_options,
    json_option,
    opened,
    run_async,
)
from cogcache.cli.output import clean, print_json, print_table, size
from cogcache.verifyreport import DamagedEntry, VerifyProgress, VerifyReport

__all__ = ["verify_command"]

_EXIT_DAMAGED = 3
_TELL_SECONDS = 0.5


@click.command(
    "verify",
    short_help="Compare all that is stored with its checksums.",
    epilog="Example: cogcache verify -a keyframes",
)
@click.argument("pattern", required=False)
@filter_options
@click.option("--fix", is_flag=True, help="Take away what is damaged.")
@json_option
@cache_options
def verify_command(
    pattern: str | None, filters: Filters, fix: bool, as_json: bool, cache: CacheChoice
) -> None:
    """Read every byte of every entry and compare it with its checksums.

    Exits with 3 when something is damaged, with 1 when something could not be read. Without --fix
    not a byte is changed; with it damaged files go to quarantine, and other tiers delete them.
    """

    async def work() -> VerifyReport:
        async with opened(cache, "change" if fix else "look") as manager:
            progress = _Progress() if sys.stderr.isatty() else None
            meant = filters.matching(pattern)
            report = await manager.verify(fix=fix, progress=progress, **meant.chosen())
            if not report.entries:
                await meant.hint(manager)
            return report

    report = run_async(work)
    if as_json:
        print_json(
            ok=report.ok,
            entries=report.entries,
            bytes_read=report.bytes_read,
            seconds=report.seconds,
            fix=report.fix,
            tiers=[dataclasses.asdict(tier) for tier in report.tiers],
            damaged=[_described(one) for one in report.damaged],
            unreadable=[_described(one) for one in report.unreadable],
        )
    else:
        for one in (*report.damaged, *report.unreadable):
            click.echo(clean(one))
        print_table(
            ("TIER", "ENTRIES", "READ", "DAMAGED", "REMOVED", "UNREADABLE", "ERROR"),
            [
                (
                    tier.tier,
                    tier.entries,
                    size(tier.bytes_read),
                    tier.damaged,
                    tier.removed,
                    tier.unreadable,
                    tier.error or "-",
                )
                for tier in report.tiers
            ],
            right=("ENTRIES", "READ", "DAMAGED", "REMOVED", "UNREADABLE"),
        )
    if any(tier.damaged for tier in report.tiers):
        raise click.exceptions.Exit(_EXIT_DAMAGED)
    if not report.ok:
        raise click.exceptions.Exit(1)


def _described(one: DamagedEntry) -> dict[str, Any]:
    return {
        "key": None if one.key is None else str(one.key),
        "tier": one.tier,
        "place": one.place,
        "damage": [dataclasses.asdict(place) for place in one.damage],
        "error": one.error,
        "stored_bytes": one.stored_bytes,
        "removed": one.removed,
    }


class _Progress:
    """One line on the terminal that tells how far it is."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()

    def __call__(self, now: VerifyProgress) -> None:
        at = time.monotonic()
        if at - self._told < _TELL_SECONDS:
            return
        self._told = at
        rate = size(now.bytes_read / (at - self._began))
        click.echo(
            f"\r{now.tier}: {now.entries:,} entries, {size(now.bytes_read)}, {rate}/s, "
            f"{now.damaged:,} damaged\x1b[K\r",
            err=True,
            nl=False,
        )
