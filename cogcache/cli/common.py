"""What all verbs share: which cache is meant, which entries are meant, and opening it."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import click

from cogcache.artifacts import ARTIFACTS
from cogcache.cli.hints import hint_at_names
from cogcache.config import BackendConfig, FilesystemCacheConfig, MemoryCacheConfig
from cogcache.manager import CacheManager
from cogcache.optiontext import size_bytes
from cogcache.selection import Filters as SelectFilters
from cogcache.selection import Plan
from cogcache.settings import Settings

__all__ = [
    "CacheChoice",
    "Filters",
    "NotFoundExit",
    "Size",
    "cache_options",
    "filter_options",
    "is_there",
    "json_option",
    "looking",
    "opened",
    "plain_value",
    "run_async",
]

_T = TypeVar("_T")
_Command = TypeVar("_Command", bound=Callable[..., Any])
Purpose = Literal["look", "change", "make"]


if TYPE_CHECKING:
    _SizeType = click.ParamType[int]
else:
    _SizeType = click.ParamType  # not generic at run time in every version


class NotFoundExit(Exception):  # noqa: N818 - it is an exit code
    """What was asked for is not there."""


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """Which cache the command line means.

    Attributes:
        tiers: Directories and URLs of ``-t``.
        file: Of ``--config``.
    """

    tiers: tuple[str, ...]
    file: str | None

    def settings(self) -> Settings:
        """The settings in effect.

        Raises:
            ConfigError: See ``Settings.load``.
        """
        tiers = list(self.tiers) or None
        return Settings.load(self.file, code="command line", tiers=tiers)


class Size(_SizeType):
    """A number of bytes, with a unit if wanted: 4096, 10MB, 2GiB."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Bytes."""
        if isinstance(value, int):
            return value
        try:
            return size_bytes(value, self.name)
        except ValueError as error:  # click names the option
            self.fail(str(error).removeprefix(f"{self.name}: "), param, ctx)


def cache_options(command: _Command) -> _Command:
    """Give a command ``-t`` and ``--config``; it gets them as ``cache``."""

    @functools.wraps(command)
    def with_cache(*args: Any, tiers: tuple[str, ...], settings: str | None, **named: Any) -> Any:
        return command(*args, cache=CacheChoice(tiers, settings), **named)

    named = click.option(
        "-t",
        "--tier",
        "tiers",
        multiple=True,
        metavar="DIR|URL",
        help="A tier of the cache; may be repeated.  [default: as configured]",
    )
    from_file = click.option(
        "--config",
        "settings",
        type=click.Path(),
        help="File of settings, instead of the one found.",
    )
    return from_file(named(with_cache))  # type: ignore[return-value]


json_option = click.option("--json", "as_json", is_flag=True, help="JSON, schema 1.")


@dataclass(frozen=True, slots=True)
class Filters:
    """Which entries are meant; see ``CacheManager.select``."""

    pattern: str | None = None
    artifact: str | None = None
    video: str | None = None
    profile: str | None = None
    tags: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    older_than: str | None = None
    min_size: int = 0

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in dataclasses.fields(self)) or (
            self.profile is not None
        )

    def matching(self, pattern: str | None) -> Filters:
        """The same for the keys that match a pattern."""
        return dataclasses.replace(self, pattern=pattern)

    async def plan(self, manager: CacheManager) -> Plan:
        """The entries, the largest first. Where there are none, a name that nothing here has is
        pointed out.

        Raises:
            ValueError: See ``CacheManager.select``.
        """
        plan = await manager.select(**self.chosen())
        if not plan.count:
            await self.hint(manager)
        return plan

    async def hint(self, manager: CacheManager) -> None:
        """Point out a name that nothing here has, where nothing was found."""
        await hint_at_names(manager, self.artifact, dict(map(_parameter, self.params)))

    def chosen(self) -> SelectFilters:
        """The same for ``select`` and ``verify``."""
        return {
            "pattern": self.pattern,
            "artifact": self.artifact,
            "source": self.video,
            "profile": self.profile,
            "tags": self.tags,
            "params": dict(_parameter(text) for text in self.params) or None,
            "older_than": self.older_than,
            "min_bytes": self.min_size,
        }


def _artifact_names(_ctx: Any, _param: Any, incomplete: str) -> list[str]:
    return [name for name in ARTIFACTS if name.startswith(incomplete)]


_FILTERS: Final = (
    click.option("-a", "--artifact", shell_complete=_artifact_names, help="Only of this artifact."),
    click.option(
        "--video", metavar="PATH|URI", help="Only made from this source, whatever it was then."
    ),
    click.option("--profile", help="Only of this profile; '' is that of no name."),
    click.option("--tag", "tags", multiple=True, help="Only with this tag; may be repeated."),
    click.option(
        "--param", "params", multiple=True, metavar="NAME=VALUE", help="Only with this parameter."
    ),
    click.option("--older-than", metavar="DURATION", help="Only older than 90s, 12h, 30d ..."),
    click.option("--min-size", type=Size(), default=0, help="Only from 10MB, 1GiB ... up."),
)


def filter_options(command: _Command) -> _Command:
    """Give a command the filters; it gets them as ``filters``, without a pattern."""
    names = [f.name for f in dataclasses.fields(Filters) if f.name != "pattern"]

    @functools.wraps(command)
    def with_filters(*args: Any, **named: Any) -> Any:
        filters = Filters(**{name: named.pop(name) for name in names})
        return command(*args, filters=filters, **named)

    wrapped: Any = with_filters
    for option in reversed(_FILTERS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _parameter(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``: a value that is JSON is that, any other a text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--param {text!r}: write it as NAME=VALUE, such as model_size=base")
    return name, plain_value(value)


def plain_value(text: str) -> Any:
    """What is written on the command line: numbers, true, false and null as JSON has them, and
    ``'5'`` or ``"5"`` for the text; all else is a text.
    """
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1]
    try:
        return json.loads(text)
    except ValueError:
        return text


@asynccontextmanager
async def opened(
    cache: CacheChoice, purpose: Purpose = "look", settings: Settings | None = None
) -> AsyncIterator[CacheManager]:
    """The cache, open. To look writes nothing and makes no directory, to change makes none.

    Raises:
        ConfigError: See ``Settings.load``.
        NotFoundExit: There is none.
    """
    config = (settings or cache.settings()).cache
    tiers, missing = [], []
    for tier in config.backends:
        if isinstance(tier, MemoryCacheConfig):
            continue  # every process has its own
        if purpose != "make" and isinstance(tier, FilesystemCacheConfig) and not is_there(tier):
            missing.append(tier.expanded_path)
            continue
        tiers.append(looking(tier) if purpose == "look" else _as_a_guest(tier))
    for path in missing:
        if tiers:
            click.echo(f"cogcache: there is no cache in {path}", err=True)
    if not tiers:
        where = ", ".join(missing) or "memory that other processes see"
        raise NotFoundExit(f"there is no cache in {where}")
    # What is asked for here is what is counted, whatever the programs do.
    manager = CacheManager(dataclasses.replace(config, backends=tuple(tiers), enable_stats=True))
    try:
        yield manager
    finally:
        await manager.aclose()


def is_there(tier: FilesystemCacheConfig) -> bool:
    """Whether the directory of a tier holds a cache."""
    return os.path.isdir(os.path.join(os.path.abspath(tier.expanded_path), "v1"))


def _as_a_guest(tier: Any) -> Any:
    """The same tier, without a word on the bounds that the programs have given a directory, unless
    the settings have one.
    """
    if isinstance(tier, FilesystemCacheConfig) and tier.max_size_mb is None:
        return dataclasses.replace(tier, max_size_mb="keep")
    return tier


def looking(tier: Any) -> BackendConfig:
    """The same tier, but nothing is written to it."""
    changes: dict[str, Any] = {"write_mode": "off"}
    if isinstance(tier, FilesystemCacheConfig):
        changes |= {"read_only": True, "single_flight": "process"}
    known = {f.name for f in dataclasses.fields(tier)}
    changed: BackendConfig = dataclasses.replace(
        tier, **{name: value for name, value in changes.items() if name in known}
    )
    return changed


def run_async(work: Callable[[], Awaitable[_T]]) -> _T:
    """Run a coroutine function to its end."""

    async def body() -> _T:
        return await work()

    return asyncio.run(body())
