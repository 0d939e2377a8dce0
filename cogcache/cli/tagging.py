"""``invalidate``: entries with a tag become misses, however many there are."""

from __future__ import annotations

from typing import NamedTuple

import click

from cogcache._arguments import checked_tags
from cogcache._types import Fault
from cogcache.cli.common import CacheChoice, cache_options, json_option, opened, run_async
from cogcache.cli.listing import described
from cogcache.cli.output import print_json, size
from cogcache.cli.plans import ask_options, confirm, counted, print_plan, say
from cogcache.manager import CacheManager
from cogcache.selection import Plan

__all__ = ["invalidate_command"]


class _Outcome(NamedTuple):
    plan: Plan
    forgetful: list[str]
    faults: list[Fault]


@click.command(
    "invalidate",
    short_help="Make entries with a tag misses.",
    epilog="Example: cogcache invalidate draft --dry-run",
)
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
@ask_options
@json_option
@cache_options
def invalidate_command(
    tags: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool, cache: CacheChoice
) -> None:
    """Make every entry that carries one of TAGS a miss, also what is being computed just now.

    It takes the same time however many there are; gc gives their room back at once. See rm --tag
    for deleting them instead, which every host sees.
    """
    names = set(checked_tags(tags))

    async def work() -> _Outcome:
        async with opened(cache, "look" if dry_run else "change") as manager:
            plan = (await manager.select()).only(lambda one: not names.isdisjoint(one.tags))
            outcome = _Outcome(plan, _forgetful(manager), [])
            if not as_json:
                print_plan(plan)
            if not dry_run:
                what = f"{counted(plan.count)}, {size(plan.stored_bytes)}"
                confirm(f"Invalidate {', '.join(map(repr, tags))}: {what}?", yes)
                manager.on_fault(outcome.faults.append)
                await manager.invalidate_tags(*tags)
            return outcome

    _tell(run_async(work), dry_run=dry_run, as_json=as_json)


def _forgetful(manager: CacheManager) -> list[str]:
    """The tiers whose entries only this host knows to be invalid, or nobody after this command.

    Raises:
        UsageError: Nobody would.
    """
    keeping = [tier for tier in manager.backends if tier.remembers_tags]
    names = [tier.name for tier in manager.backends if tier not in keeping]
    if not keeping:
        raise click.UsageError(
            f"{', '.join(names)}: no tier here keeps an invalidation beyond this command: delete "
            "with 'cogcache rm --tag'"
        )
    return [] if any(tier.is_remote for tier in keeping) else names


def _tell(outcome: _Outcome, *, dry_run: bool, as_json: bool) -> None:
    plan = outcome.plan
    failed = sorted({*plan.unavailable, *(fault.tier for fault in outcome.faults)})
    if as_json:
        print_json(
            entries=[described(one) for one in plan.entries],
            count=plan.count,
            stored_bytes=plan.stored_bytes,
            dry_run=dry_run,
            forgetful=outcome.forgetful,
            unavailable=failed,
        )
    else:
        word = "would be misses" if dry_run else "are misses now"
        say(f"{counted(plan.count)}, {size(plan.stored_bytes)}, {word}")
        for name in outcome.forgetful:
            say(f"{name}: other hosts go on hitting it; 'cogcache rm --tag' deletes for all")
        if failed:
            say(f"not available: {', '.join(failed)}")
    if failed:
        raise click.exceptions.Exit(1)
