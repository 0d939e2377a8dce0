"""``warm``: entries of slower tiers, brought near before they are needed."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from cogcache.cli.common import (
    CacheChoice,
    Filters,
    Size,
    cache_options,
    filter_options,
    is_there,
    json_option,
    opened,
    run_async,
)
from cogcache.cli.listing import described, tell_unavailable
from cogcache.cli.output import print_json, size
from cogcache.cli.plans import counted, print_plan, say
from cogcache.config import FilesystemCacheConfig
from cogcache.manager import CacheManager
from cogcache.selection import Plan
from cogcache.warming import WarmProgress, WarmReport, newest_that_fit

__all__ = ["warm_command"]

_TELL_SECONDS = 0.5


@click.command(
    "warm",
    short_help="Bring entries from slower tiers into the local one.",
    epilog="Example: cogcache warm -a embeddings --max-size 20GB",
)
@click.argument("pattern", required=False)
@filter_options
@click.option("--max-size", type=Size(), metavar="SIZE", help="The newest, up to so much.")
@click.option("--dry-run", is_flag=True, help="Only say what would be brought.")
@json_option
@cache_options
def warm_command(
    pattern: str | None,
    filters: Filters,
    max_size: int | None,
    dry_run: bool,
    as_json: bool,
    cache: CacheChoice,
) -> None:
    """Bring what only slower tiers have (S3, Redis) into the local directory, such as before a
    training run.

    The newest first, never more than the directory can hold. Break it off at any time: what is
    there stays, and the next one goes on.
    """
    meant = filters.matching(pattern)

    async def work() -> tuple[Plan, WarmReport]:
        async with opened(cache, "look" if dry_run else "make") as manager:
            if dry_run and _directory_is_missing(cache, manager):
                plan = newest_that_fit(await meant.plan(manager), max_size)
            else:
                plan = await manager.select_cold(max_bytes=max_size, **meant.chosen())
                if not plan.count:
                    await meant.hint(manager)
            if not as_json:
                print_plan(plan)
            if dry_run:
                return plan, WarmReport("", 0, 0)
            progress = _Progress() if sys.stderr.isatty() else None
            return plan, await manager.warm(plan, progress=progress)

    plan, report = run_async(work)
    _tell(plan, report, dry_run=dry_run, as_json=as_json)
    tell_unavailable(plan)
    if not report.ok:
        raise click.exceptions.Exit(1)


def _directory_is_missing(cache: CacheChoice, manager: CacheManager) -> bool:
    """Whether the local tier is not there yet, so that looking leaves it out."""
    if not all(tier.is_remote for tier in manager.backends):
        return False
    tiers = cache.settings().cache.backends
    return any(isinstance(one, FilesystemCacheConfig) and not is_there(one) for one in tiers)


def _tell(plan: Plan, report: WarmReport, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            entries=[described(one) for one in plan.entries],
            count=plan.count,
            stored_bytes=plan.stored_bytes,
            tier=report.tier,
            brought=report.entries,
            brought_bytes=report.stored_bytes,
            skipped=report.skipped,
            refused=report.refused,
            seconds=report.seconds,
            dry_run=dry_run,
            unavailable=plan.unavailable,
        )
    elif not plan.count:
        say("nothing to bring")
    elif dry_run:
        say(f"{counted(plan.count)}, {size(plan.stored_bytes)}, would be brought")
    else:
        say(f"{counted(report.entries)}, {size(report.stored_bytes)}, brought into {report.tier}")
        _tell_reasons("left out", report.skipped)
        _tell_reasons("refused", report.refused)


def _tell_reasons(what: str, reasons: dict[str, Any]) -> None:
    if reasons:
        say(f"{what}: {', '.join(f'{count:,} {reason}' for reason, count in reasons.items())}")


class _Progress:
    """One line on the terminal that tells how far it is."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()

    def __call__(self, now: WarmProgress) -> None:
        at = time.monotonic()
        if at - self._told < _TELL_SECONDS:
            return
        self._told = at
        click.echo(
            f"\r{now.entries:,} of {now.count:,} entries, {size(now.stored_bytes)} of "
            f"{size(now.planned_bytes)}, {size(now.stored_bytes / (at - self._began))}/s\x1b[K\r",
            err=True,
            nl=False,
        )
