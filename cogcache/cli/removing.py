"""``rm``, ``prune`` and ``gc``: making room. What would go is said before anything does."""

from __future__ import annotations

import os
from urllib.parse import unquote_to_bytes

import click

from cogcache.cli.common import (
    CacheChoice,
    Filters,
    Size,
    cache_options,
    filter_options,
    json_option,
    opened,
    run_async,
)
from cogcache.cli.listing import described, tell_unavailable
from cogcache.cli.output import print_json, size
from cogcache.cli.plans import (
    ask_options,
    confirm,
    counted,
    lines_for_dashes,
    plan_of,
    print_plan,
    say,
)
from cogcache.keys import Key
from cogcache.manager import CacheManager
from cogcache.selection import Plan, SelectedEntry

__all__ = ["gc_command", "prune_command", "rm_command"]


@click.command(
    "rm",
    short_help="Delete entries.",
    epilog="Example: cogcache rm -a descriptions --param model_name=old --dry-run",
)
@click.argument("keys", nargs=-1, metavar="[KEY|PATTERN|-]...")
@filter_options
@ask_options
@json_option
@cache_options
def rm_command(
    keys: tuple[str, ...],
    filters: Filters,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    cache: CacheChoice,
) -> None:
    """Delete entries: those named, those that match a pattern, those that pass the filters.

    '-' reads keys from standard input, one a line.
    """
    if not keys and not filters:
        raise click.UsageError("name keys or filters; 'cogcache rm \"*\"' deletes everything")
    wanted = lines_for_dashes(keys)

    async def work() -> bool:
        async with opened(cache, "look" if dry_run else "change") as manager:
            plan = await plan_of(manager, wanted if keys else None, filters)
            return await _delete(plan, dry_run=dry_run, yes=yes, as_json=as_json)

    if not run_async(work) and keys:
        raise click.exceptions.Exit(3)


@click.command(
    "prune",
    short_help="Delete what is not worth its room.",
    epilog="Example: cogcache prune --gone --to 50GB --dry-run",
)
@click.option(
    "--to", "most", type=Size(), metavar="SIZE", help="The oldest, until so much is left."
)
@click.option("--older-than", metavar="DURATION", help="Those older than 90s, 12h, 30d ...")
@click.option("--gone", is_flag=True, help="Those of local videos that are there no more.")
@click.option(
    "--superseded", is_flag=True, help="Those of versions of a file that newer ones replaced."
)
@ask_options
@json_option
@cache_options
def prune_command(
    most: int | None,
    older_than: str | None,
    gone: bool,
    superseded: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    cache: CacheChoice,
) -> None:
    """Delete what is not worth its room; several conditions take what any of them means."""
    if most is None and older_than is None and not (gone or superseded):
        raise click.UsageError("say what is not needed: --to, --older-than, --gone, --superseded")

    async def work() -> None:
        async with opened(cache, "look" if dry_run else "change") as manager:
            plan = await _not_worth_it(manager, most, older_than, gone, superseded)
            await _delete(plan, dry_run=dry_run, yes=yes, as_json=as_json)

    run_async(work)


async def _not_worth_it(
    manager: CacheManager, most: int | None, older_than: str | None, gone: bool, superseded: bool
) -> Plan:
    everything = await manager.select()
    chosen: set[Key] = set()
    if older_than is not None:
        old = await manager.select(older_than=older_than)
        chosen |= {one.key for one in old.entries}
    if superseded:
        outdated = await manager.select(superseded=True)
        chosen |= {one.key for one in outdated.entries}
    if gone:
        chosen |= {one.key for one in everything.entries if _is_gone(one)}
    if most is not None:
        left = sum(one.stored_bytes for one in everything.entries if one.key not in chosen)
        for one in sorted(everything.entries, key=lambda one: one.created_at):
            if left <= most:
                break
            if one.key not in chosen:
                chosen.add(one.key)
                left -= one.stored_bytes
    return everything.only(lambda one: one.key in chosen)


def _is_gone(one: SelectedEntry) -> bool:
    """Whether an entry was made from a local file that is there no more, as far as can be told."""
    if not one.source_uri.startswith("file:///"):
        return False
    path = unquote_to_bytes(one.source_uri.removeprefix("file://"))
    if os.path.lexists(path):
        return False
    # A whole disk that is not mounted is no sign that its videos are gone.
    return os.path.isdir(os.path.dirname(path))


async def _delete(plan: Plan, *, dry_run: bool, yes: bool, as_json: bool) -> bool:
    """Say what goes, ask, and let it go; whether there was anything."""
    if not as_json:
        print_plan(plan)
    deleted = 0
    if plan.count and not dry_run:
        confirm(f"Delete {counted(plan.count)}, {size(plan.stored_bytes)}?", yes)
        deleted = await plan.delete()
    if as_json:
        print_json(
            entries=[described(one) for one in plan.entries],
            count=plan.count,
            stored_bytes=plan.stored_bytes,
            deleted=deleted,
            dry_run=dry_run,
            unavailable=plan.unavailable,
        )
    elif not plan.count:
        say("nothing to delete")
    elif dry_run:
        say(f"{counted(plan.count)}, {size(plan.stored_bytes)}, would go")
    else:
        kept = f"; {plan.count - deleted:,} were gone or replaced" if deleted < plan.count else ""
        say(f"{counted(deleted)} deleted, of {size(plan.stored_bytes)}{kept}")
    tell_unavailable(plan)
    return bool(plan.count)


@click.command(
    "gc",
    short_help="Remove what is expired or invalidated.",
    epilog="Example: cogcache gc",
)
@click.option("--dry-run", is_flag=True, help="Only say what is expired.")
@json_option
@cache_options
def gc_command(dry_run: bool, as_json: bool, cache: CacheChoice) -> None:
    """Give back the room of expired and invalidated entries, and of writers that were killed.

    Caches do this by themselves when they write; no live entry is touched. What superseded entries
    hold is said, and left to prune.
    """

    async def work() -> tuple[int, int, Plan]:
        async with opened(cache, "look" if dry_run else "change") as manager:
            if dry_run:
                removed, freed = await _dead(manager, remove=False)
            else:
                before = await _used(manager)
                # The sweep takes what is expired and what killed writers left, not what is
                # invalidated.
                removed = await manager.cleanup_expired() + (await _dead(manager, remove=True))[0]
                freed = max(0, before - await _used(manager))
            return removed, freed, await manager.select(superseded=True)

    removed, freed, superseded = run_async(work)
    if as_json:
        print_json(
            removed=removed,
            freed_bytes=freed,
            dry_run=dry_run,
            superseded={"entries": superseded.count, "stored_bytes": superseded.stored_bytes},
        )
        return
    say(f"{counted(removed)} {'would go' if dry_run else 'removed'}, {size(freed)}")
    if superseded.count:
        held = f"{counted(superseded.count)}, {size(superseded.stored_bytes)}"
        say(f"{held}, of videos that were replaced since: 'cogcache prune --superseded'")


async def _used(manager: CacheManager) -> int:
    return sum([(await tier.usage())["size_bytes"] for tier in manager.backends])


async def _dead(manager: CacheManager, *, remove: bool) -> tuple[int, int]:
    """How many entries are expired or invalidated, and their bytes."""
    count = stored = 0
    for tier in manager.backends:
        async for entry in tier.scan():
            if tier._why_dead(entry) is not None:
                count += await tier.discard_entry(entry) if remove else 1
                stored += entry.length
    return count, stored
