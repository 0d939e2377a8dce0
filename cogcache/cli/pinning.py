"""``pin``, ``unpin`` and ``pins``: what no policy may evict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
from cogcache.cli.output import duration, print_json, print_table, size, summary
from cogcache.cli.plans import SHOWN, counted, lines_for_dashes, plan_of, print_keys, say
from cogcache.exceptions import PinLimitError
from cogcache.keys import Key
from cogcache.manager import CacheManager

__all__ = ["pin_command", "pins_command", "unpin_command"]


@dataclass(slots=True)
class _Done:
    """What became of the keys that were meant."""

    done: list[Key] = field(default_factory=list)
    not_done: list[Key] = field(default_factory=list)
    limit: str | None = None  # why no more can be pinned


def _which(command: Callable[..., None]) -> Callable[..., None]:
    keys = click.argument("keys", nargs=-1, metavar="[KEY|PATTERN|-]...")
    return keys(filter_options(json_option(cache_options(command))))


@click.command(
    "pin",
    short_help="Keep entries from being evicted.",
    epilog="Example: cogcache pin --video lecture.mp4 -a keyframes",
)
@_which
def pin_command(keys: tuple[str, ...], filters: Filters, as_json: bool, cache: CacheChoice) -> None:
    """Keep entries in the filesystem tier whatever else needs room, for every process.

    A new value of the same key is pinned too. Exits with 3 when a key is not there.
    """
    wanted = _wanted(keys, filters)

    async def work() -> _Done:
        async with opened(cache, "change") as manager:
            outcome = _Done()
            for key in await _chosen(manager, wanted, filters):
                try:
                    there = await manager.pin(key)
                except PinLimitError as error:
                    outcome.limit = str(error)
                    break
                (outcome.done if there else outcome.not_done).append(key)
            return outcome

    outcome = run_async(work)
    if as_json:
        print_json(
            pinned=list(map(str, outcome.done)),
            not_pinned=list(map(str, outcome.not_done)),
            problem=outcome.limit,
        )
    else:
        say(f"{counted(len(outcome.done))} pinned")
        for key in outcome.not_done[:SHOWN]:
            say(f"{key}: no filesystem tier has it")
        if outcome.limit is not None:
            say(outcome.limit)
    if outcome.limit is not None:
        raise click.exceptions.Exit(1)
    if outcome.not_done or not outcome.done:
        raise click.exceptions.Exit(3)


@click.command(
    "unpin",
    short_help="Let entries be evicted again.",
    epilog="Example: cogcache unpin --video lecture.mp4",
)
@_which
def unpin_command(
    keys: tuple[str, ...], filters: Filters, as_json: bool, cache: CacheChoice
) -> None:
    """Let entries be evicted again; nothing is deleted.

    Exits with 3 when none of them was pinned.
    """
    wanted = _wanted(keys, filters)

    async def work() -> list[Key]:
        async with opened(cache, "change") as manager:
            return [
                key for key in await _chosen(manager, wanted, filters) if await manager.unpin(key)
            ]

    done = run_async(work)
    if as_json:
        print_json(unpinned=list(map(str, done)))
    else:
        say(f"{counted(len(done))} unpinned")
    if not done:
        raise click.exceptions.Exit(3)


@click.command(
    "pins",
    short_help="List what is pinned.",
    epilog="Example: cogcache pins",
)
@click.option("-q", "--quiet", is_flag=True, help="Keys only, one a line.")
@json_option
@cache_options
def pins_command(quiet: bool, as_json: bool, cache: CacheChoice) -> None:
    """List the entries that no policy may evict."""

    async def work() -> list[dict[str, Any]]:
        async with opened(cache) as manager:
            found = [(key, await manager.get_metadata(key)) for key in await manager.pinned()]
            return [_described(key, meta) for key, meta in found if meta is not None]

    pins = run_async(work)
    total = sum(one["stored_bytes"] for one in pins)
    if as_json:
        print_json(entries=pins, count=len(pins), stored_bytes=total)
    elif quiet:
        print_keys(Key.parse(one["key"]) for one in pins)
    else:
        now = time.time()
        rows = [
            (
                size(one["stored_bytes"]),
                duration(max(0.0, now - one["created_at"])),
                duration(None if one["expires_at"] is None else max(0.0, one["expires_at"] - now)),
                one["key"],
            )
            for one in pins
        ]
        if rows:
            print_table(("SIZE", "AGE", "LEFT", "KEY"), rows, right=("SIZE", "AGE", "LEFT"))
        summary(f"{counted(len(pins))} pinned, {size(total)}")


def _wanted(keys: tuple[str, ...], filters: Filters) -> list[str | Key] | None:
    if not keys and not filters:
        raise click.UsageError("name keys or filters")
    return lines_for_dashes(keys) if keys else None


async def _chosen(
    manager: CacheManager, keys: list[str | Key] | None, filters: Filters
) -> list[Key]:
    """The keys that are meant; those that are named alone without looking for them."""
    if keys is not None and not filters:
        exact = [key for key in keys if isinstance(key, Key) or "*" not in key]
        if len(exact) == len(keys):
            return [Key.parse(key) if isinstance(key, str) else key for key in exact]
    return [one.key for one in (await plan_of(manager, keys, filters)).entries]


def _described(key: Key, meta: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": str(key),
        "artifact": key.artifact,
        "profile": key.profile,
        "stored_bytes": meta["size_bytes"],
        "raw_bytes": meta["raw_bytes"],
        "created_at": meta["created_at"],
        "expires_at": meta["expires_at"],
    }
