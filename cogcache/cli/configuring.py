"""``config``: every setting in effect, and where it comes from."""

from __future__ import annotations

import click

from cogcache.cli.common import CacheChoice, cache_options, json_option
from cogcache.cli.output import print_json, print_table, summary

__all__ = ["config_command"]


@click.command(
    "config",
    short_help="Print every setting and its origin.",
    epilog="Example: cogcache config --changed",
)
@click.option("--changed", is_flag=True, help="Only what is not a default.")
@json_option
@cache_options
def config_command(changed: bool, as_json: bool, cache: CacheChoice) -> None:
    """Print every setting in effect and where it comes from. Secrets are not shown."""
    settings = cache.settings()
    rows = [row for row in settings.effective if not changed or row.origin != "default"]
    if as_json:
        print_json(
            file=None if settings.file is None else str(settings.file),
            settings=[{"name": row.name, "value": row.value, "origin": row.origin} for row in rows],
        )
        return
    print_table(
        ("NAME", "VALUE", "ORIGIN"), [(row.name, _shown(row.value), row.origin) for row in rows]
    )
    summary(f"file: {settings.file or 'none found'}")


def _shown(value: object) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
