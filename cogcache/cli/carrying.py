"""``export`` and ``import``: entries carried to another place."""

from __future__ import annotations

import sys
from typing import Any, BinaryIO

import click

from cogcache.archives import ArchiveReport
from cogcache.cli.common import (
    CacheChoice,
    Filters,
    cache_options,
    filter_options,
    json_option,
    opened,
    run_async,
)
from cogcache.cli.output import clean, print_json

__all__ = ["export_command", "import_command"]


@click.command(
    "export",
    short_help="Write entries into a tar file.",
    epilog="Example: cogcache export lectures.tar --video lecture.mp4",
)
@click.argument("archive", type=click.Path(dir_okay=False, allow_dash=True))
@click.argument("pattern", required=False)
@filter_options
@json_option
@cache_options
def export_command(
    archive: str, pattern: str | None, filters: Filters, as_json: bool, cache: CacheChoice
) -> None:
    """Write entries into ARCHIVE, a plain tar file; '-' is standard output."""
    if archive == "-" and (as_json or sys.stdout.isatty()):
        raise click.UsageError("the archive itself goes to standard output: name a file")

    async def work() -> ArchiveReport:
        async with opened(cache) as manager:
            plan = await filters.matching(pattern).plan(manager)
            target = sys.stdout.buffer if archive == "-" else archive
            return await manager.export_archive(target, plan)

    _tell(run_async(work), as_json)


@click.command(
    "import",
    short_help="Take entries from a tar file.",
    epilog="Example: cogcache import lectures.tar --rekey /nfs/videos/=/data/videos/",
)
@click.argument("archive", type=click.File("rb"))
@click.option("--replace", is_flag=True, help="Overwrite what the cache has already.")
@click.option(
    "--rekey",
    multiple=True,
    metavar="THERE=HERE",
    help="Where a video lies here; with '/' at both ends, all that lie below. May be repeated.",
)
@json_option
@cache_options
def import_command(
    archive: BinaryIO, replace: bool, rekey: tuple[str, ...], as_json: bool, cache: CacheChoice
) -> None:
    """Take the entries of ARCHIVE, which export made, into the cache; '-' is standard input.

    It may come from anybody: no name in it is a path, nothing in it is run, and each entry is
    verified before anything shows it. Exits with 1 when something was refused.
    """
    places: dict[str, str] = {}
    for text in rekey:
        there, equals, here = text.partition("=")
        if not equals or not there or not here:
            raise click.UsageError(f"--rekey {text!r}: write it as THERE=HERE")
        places[there] = here

    async def work() -> ArchiveReport:
        async with opened(cache, "make") as manager:
            return await manager.import_archive(
                archive,
                on_conflict="replace" if replace else "keep",
                rekey=places or None,
            )

    _tell(run_async(work), as_json)


def _tell(report: ArchiveReport, as_json: bool) -> None:
    if as_json:
        print_json(**_described(report))
    else:
        for one in report.refusals[:20]:
            click.echo(f"cogcache: {clean(one)}", err=True)
        for line in str(report).splitlines():
            click.echo(f"cogcache: {clean(line)}", err=True)
    if report.refused or not report.complete:
        raise click.exceptions.Exit(1)


def _described(report: ArchiveReport) -> dict[str, Any]:
    return {
        "entries": report.entries,
        "stored_bytes": report.stored_bytes,
        "skipped": dict(report.skipped),
        "refused": dict(report.refused),
        "refusals": [{"name": one.name, "reason": one.reason} for one in report.refusals],
        "complete": report.complete,
        "problem": report.problem,
    }
