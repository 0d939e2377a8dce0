"""``ls`` and ``stats``: what is there."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

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
from cogcache.cli.output import clean, duration, print_json, print_table, size, summary
from cogcache.cli.plans import print_keys
from cogcache.selection import Plan, SelectedEntry
from cogcache.usage import usage_of

__all__ = ["described", "ls_command", "stats_command", "tell_unavailable"]

_SORTS = ("size", "age", "key")
_GROUPS = {"artifact": "artifacts", "profile": "profiles", "tag": "tags", "age": "ages"}


@click.command(
    "ls",
    short_help="List entries.",
    epilog="Example: cogcache ls -a keyframes --older-than 30d --sort age",
)
@click.argument("pattern", required=False)
@filter_options
@click.option("--sort", type=click.Choice(_SORTS), default="size", show_default=True)
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("-q", "--quiet", is_flag=True, help="Keys only, one a line.")
@json_option
@cache_options
def ls_command(
    pattern: str | None,
    filters: Filters,
    sort: str,
    limit: int | None,
    quiet: bool,
    as_json: bool,
    cache: CacheChoice,
) -> None:
    """List entries, those that match PATTERN ('a:b:*' for all that lie under a:b)."""

    async def work() -> Plan:
        async with opened(cache) as manager:
            return await filters.matching(pattern).plan(manager)

    plan = run_async(work)
    orders: dict[str, Any] = {
        "size": lambda one: -one.stored_bytes,
        "age": lambda one: one.created_at,
        "key": lambda one: str(one.key),
    }
    entries = sorted(plan.entries, key=orders[sort])[:limit]
    if as_json:
        print_json(
            entries=[described(one) for one in entries],
            count=plan.count,
            stored_bytes=plan.stored_bytes,
            unavailable=plan.unavailable,
        )
    elif quiet:
        print_keys(one.key for one in entries)
    elif entries:
        _print_entries(entries)
    if not as_json:
        more = f", {len(entries):,} shown" if len(entries) < plan.count else ""
        summary(f"{plan.count:,} entries, {size(plan.stored_bytes)}{more}")
    tell_unavailable(plan)


def _print_entries(entries: Sequence[SelectedEntry]) -> None:
    """What people see of entries; with a column of sources unless all keys are of their own."""
    now = time.time()
    rows = [
        (
            size(one.stored_bytes),
            duration(max(0.0, now - one.created_at)),
            duration(None if one.expires_at is None else max(0.0, one.expires_at - now)),
            one.key,
            _short_source(one.source_uri),
        )
        for one in entries
    ]
    columns = ("SIZE", "AGE", "LEFT", "KEY", "SOURCE")
    shown = len(columns) if any(one.source_uri for one in entries) else len(columns) - 1
    print_table(columns[:shown], [row[:shown] for row in rows], right=("SIZE", "AGE", "LEFT"))


def _short_source(uri: str) -> str:
    """The name of a file; of any other source the URI without its middle and its query."""
    if uri.startswith("file:///"):
        return os.fsdecode(unquote_to_bytes(uri.rpartition("/")[2]))
    whole, _, _ = uri.partition("?")
    start, slashes, path = whole.partition("://")
    host, _, inner = path.partition("/")
    folder, slash, name = inner.rpartition("/")
    middle = ".../" if slash and folder else ""
    return f"{start}://{host}/{middle}{name}" if slashes and inner else whole or "-"


def described(one: SelectedEntry) -> dict[str, Any]:
    """An entry for JSON."""
    return {
        "key": str(one.key),
        "artifact": one.key.artifact,
        "profile": one.key.profile,
        "stored_bytes": one.stored_bytes,
        "raw_bytes": one.raw_bytes,
        "created_at": one.created_at,
        "expires_at": one.expires_at,
        "cost_seconds": one.cost_seconds,
        "tags": one.tags,
        "source_uri": one.source_uri,
        "tiers": one.tiers,
    }


def tell_unavailable(plan: Plan) -> None:
    """Say which tiers could not be asked, and fail then."""
    if plan.unavailable:
        click.echo(f"cogcache: not available: {', '.join(plan.unavailable)}", err=True)
        raise click.exceptions.Exit(1)


@click.command(
    "stats",
    short_help="Say what is stored.",
    epilog="Example: cogcache stats --by age --by tag",
)
@click.option(
    "--by",
    multiple=True,
    type=click.Choice(tuple(_GROUPS)),
    help="Only by this; may be repeated.  [default: the tiers, and all of these]",
)
@json_option
@cache_options
def stats_command(by: tuple[str, ...], as_json: bool, cache: CacheChoice) -> None:
    """Say what is stored, by tier, artifact, profile, tag and age.

    Ages count from when values were made: '7d' are those from one day to seven days old.

    Hits and misses are counted by each process for itself: ask get_stats() there.
    """

    async def work() -> list[dict[str, Any]]:
        async with opened(cache) as manager:
            stats = (await manager.get_stats())["backends"]
            return [
                {**_tier_row(tier.name, stats[tier.name]), "usage": await usage_of([tier])}
                for tier in manager.backends
            ]

    tiers = run_async(work)
    usage: dict[str, Any] = {}
    for tier in tiers:
        _add_up(usage, tier["usage"])
    if as_json:
        print_json(tiers=tiers, **usage)
    elif by:
        for what in dict.fromkeys(by):
            _print_groups(what, usage[_GROUPS[what]])
    else:
        print_table(
            ("TIER", "STATE", "ENTRIES", "STORED", "LIMIT", "FREE"),
            [
                (
                    tier["name"],
                    tier["state"],
                    tier["usage"]["entries"],
                    size(tier["usage"]["stored_bytes"]),
                    size(tier["limit_bytes"]) if tier["limit_bytes"] else "-",
                    size(tier["free_bytes"]) if tier["free_bytes"] is not None else "-",
                )
                for tier in tiers
            ],
            right=("ENTRIES", "STORED", "LIMIT", "FREE"),
        )
        for what, groups in _GROUPS.items():
            if usage[groups]:
                click.echo()
                _print_groups(what, usage[groups])
    if any(tier["state"] != "works" for tier in tiers):
        raise click.exceptions.Exit(1)


def _tier_row(name: str, stats: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "state": stats.get("state", "works"),
        "limit_bytes": stats.get("limit_bytes") or None,
        "free_bytes": stats.get("free_bytes"),
        "quarantine_files": stats.get("quarantine_files", 0),
        "last_fault": stats.get("last_fault"),
    }


def _add_up(total: dict[str, Any], more: dict[str, Any]) -> None:
    """Add the numbers of one tier to those of all, group by group."""
    for name, value in more.items():
        if isinstance(value, dict):
            _add_up(total.setdefault(name, {}), value)
        else:
            total[name] = total.get(name, 0) + value


def _print_groups(what: str, groups: dict[str, dict[str, int]]) -> None:
    rows = list(groups.items())
    if what != "age":
        rows.sort(key=lambda pair: (-pair[1]["stored_bytes"], pair[0]))
    print_table(
        (what.upper(), "ENTRIES", "STORED", "RAW"),
        [
            (clean(name) or "-", g["entries"], size(g["stored_bytes"]), size(g["raw_bytes"]))
            for name, g in rows
        ],
        right=("ENTRIES", "STORED", "RAW"),
    )
