"""What one place says of the settings: the code, the environment or a file. Nothing is put together
here, but names are checked, so that a slip is named where it is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cogcache._checks import nearest
from cogcache.artifacts import ARTIFACTS
from cogcache.backends.registry import CacheBackendRegistry
from cogcache.config import BackendConfig, CacheConfig, ChunkingConfig, FilesystemCacheConfig
from cogcache.exceptions import ConfigError, shown
from cogcache.optiontext import option_field, option_value
from cogcache.settingsfile import SettingsFile
from cogcache.urls import written_tier

__all__ = [
    "DEFAULT_DIRECTORY",
    "Given",
    "GivenTier",
    "Layer",
    "blamed",
    "layer_of_code",
    "layer_of_environment",
    "layer_of_file",
]

DEFAULT_DIRECTORY: Final = "~/.cache/cogcache"
# Of the cache of artifacts; the manager's are the fields of CacheConfig.
_ARTIFACT_NAMES: Final = ("profile", "identity", "memo", "ttl")
_ALIASES: Final[Mapping[str, str]] = {"backends": "tiers", "kvChunking": "chunking"}
# Variables that are read elsewhere: by the build, the tests and the core.
_OTHERS: Final = re.compile(
    r"DEBUG|SANITIZE|COVERAGE|WERROR|TORTURE|NO_MMAP|PLAIN_POSIX|CONFIG|TEST_.*|ZSTD_.*|XXHASH_.*"
    # What Kubernetes sets in every pod beside a service of this name.
    r"|SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_\d+_.*"
)


@dataclass(frozen=True, slots=True)
class Given:
    """A value, and who says it."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class GivenTier:
    """A tier as one place has it.

    Attributes:
        config_class: What configures it.
        options: What is said of it.
        query: What the query of its URL says.
        origin: Who says it.
        ready: Its configuration, where the code gives that.
    """

    config_class: type[Any]
    options: Mapping[str, Given]
    query: Mapping[str, Given]
    origin: str
    ready: BackendConfig | None = None


@dataclass(slots=True)
class Layer:
    """What one place says.

    Attributes:
        plain: Of single names.
        tables: Of the options of ``chunking``, of ``ttl`` by artifact, and of each kind of tier.
        tiers: The tiers; ``None`` if it names none.
    """

    plain: dict[str, Given] = field(default_factory=dict)
    tables: dict[str, dict[str, Given]] = field(default_factory=dict)
    tiers: list[GivenTier] | None = None


def layer_of_code(options: Mapping[str, Any], origin: str = "code") -> Layer:
    """What keyword arguments say; those that are ``None`` say nothing."""
    said = {name: value for name, value in options.items() if value is not None}
    return _layer(said, lambda *_: origin)


def layer_of_file(file: SettingsFile) -> Layer:
    """What a file says. Relative directories are relative to its own."""
    return _layer(file.values, file.origin, directory=str(file.path.parent))


def layer_of_environment(environ: Mapping[str, str]) -> Layer:
    """What ``COGCACHE_*`` variables say.

    Raises:
        ConfigError: A variable of this beginning that means nothing; the nearest is named.
    """
    layer = Layer()
    tables = _tables()
    known = ["TIERS", "DIR", *(name.upper() for name in _plain_names())]
    for variable, text in sorted(environ.items()):
        name = variable.removeprefix("COGCACHE_")
        if name == variable or _OTHERS.fullmatch(name) or name in ("TIERS", "DIR"):
            continue
        origin = f"${variable}"
        with blamed(origin):
            low = name.lower()
            if low in _plain_names():
                layer.plain[low] = Given(_plain_text(low, text), origin)
                continue
            table = next((one for one in tables if low.startswith(f"{one}_")), None)
            if table is None:
                hint = nearest(name, (*known, *(f"{one.upper()}_..." for one in tables)))
                hint = hint.replace("mean '", "mean 'COGCACHE_").replace(
                    "known:", "COGCACHE_ and one of"
                )
                raise ConfigError(f"there is no such variable{hint}")
            option = low.removeprefix(f"{table}_")
            _put(layer, table, option, text, origin, text_only=True)
    layer.tiers = _tiers_of_environment(environ)
    return layer


def _tiers_of_environment(environ: Mapping[str, str]) -> list[GivenTier] | None:
    with blamed("$COGCACHE_TIERS"):
        try:
            words = shlex.split(environ.get("COGCACHE_TIERS", ""))
        except ValueError as error:  # an open quote
            raise ConfigError(str(error)) from None
        tiers = [_tier(word, "$COGCACHE_TIERS", "") for word in words]
    if not tiers and environ.get("COGCACHE_DIR"):
        with blamed("$COGCACHE_DIR"):
            tiers = [_tier(environ["COGCACHE_DIR"], "$COGCACHE_DIR", "")]
    return tiers or None


def _layer(
    values: Mapping[str, Any], origin: Callable[..., str], directory: str | None = None
) -> Layer:
    layer = Layer()
    tables = _tables()
    for given_name, value in values.items():
        name = _ALIASES.get(given_name, given_name)
        where = origin(given_name)
        with blamed(where):
            if name != given_name and name in values:
                raise ConfigError(f"{given_name!r} and {name!r} are the same option")
            if name == "tiers":
                layer.tiers = _tier_list(value, given_name, origin, directory)
            elif name in tables and (isinstance(value, Mapping) or name != "ttl"):
                if not isinstance(value, Mapping):
                    raise ConfigError(f"{name} must be a table, not {type(value).__name__}")
                for option, one in value.items():
                    at = origin(given_name, option)
                    with blamed(at):
                        _put(layer, name, option, one, at, directory=directory)
            elif name in _plain_names():
                layer.plain[name] = Given(value, where)
            else:
                hint = nearest(name, ("tiers", *_plain_names(), *tables))
                raise ConfigError(f"unknown name {shown(name)}{hint}")
    return layer


def _put(
    layer: Layer,
    table: str,
    option: str,
    value: Any,
    origin: str,
    *,
    text_only: bool = False,
    directory: str | None = None,
) -> None:
    cls = _tables()[table]
    if cls is None:  # lives of artifacts
        if option not in (*ARTIFACTS, "*"):
            raise ConfigError(f"ttl: unknown artifact {shown(option)}{nearest(option, ARTIFACTS)}")
        layer.tables.setdefault(table, {})[option] = Given(value, origin)
        return
    name, unit = option_field(cls, option, table)
    read = option_value(cls, name, value, text=text_only, unit=unit)
    options = layer.tables.setdefault(table, {})
    if name in options:
        raise ConfigError(f"{table}.{name} is said twice, under two names")
    options[name] = Given(_from_directory(name, read, directory), origin)


def _tier_list(
    value: Any, name: str, origin: Callable[..., str], directory: str | None
) -> list[GivenTier]:
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise ConfigError(f"tiers must be a list, not {type(value).__name__}")
    tiers: list[GivenTier] = []
    for number, one in enumerate(value):
        where = origin(name, number)
        with blamed(where):
            if isinstance(one, Mapping):
                options = {option: (v, origin(name, number, option)) for option, v in one.items()}
                tiers.append(_tier_of_table(options, where, directory))
            elif isinstance(one, BackendConfig):
                tiers.append(GivenTier(type(one), {}, {}, where, one))
            elif isinstance(one, str | os.PathLike):
                tiers.append(_tier(os.fspath(one), where, directory))
            else:
                raise ConfigError(
                    f"tiers[{number}] must be a directory, a URL or a table, "
                    f"not {type(one).__name__}"
                )
    if not tiers:
        raise ConfigError("tiers is empty: a cache without a tier would never hit")
    return tiers


def _tier(text: str, origin: str, directory: str | None) -> GivenTier:
    read = written_tier(text)
    options = {
        name: Given(_from_directory(name, value, directory), origin)
        for name, value in read.place.items()
    }
    in_url = f"{origin} in the URL"
    query = {name: Given(value, in_url) for name, value in read.query.items()}
    return GivenTier(read.config_class, options, query, origin)


def _tier_of_table(
    given: Mapping[str, tuple[Any, str]], origin: str, directory: str | None
) -> GivenTier:
    """A tier given by a table: its kind by ``backend_type``, or by a ``url``."""
    rest = dict(given)
    kind, at = rest.pop("backend_type", (None, origin))
    url = rest["url"][0] if "url" in rest else None
    if isinstance(url, str) and kind in (None, "redis"):
        base = _tier(url, rest.pop("url")[1], directory)
    elif kind is None and "base_path" in rest:
        base = GivenTier(FilesystemCacheConfig, {}, {}, origin)
    elif kind is None:
        raise ConfigError("backend_type is missing (or a url, or a base_path)")
    else:
        with blamed(at):
            cls = CacheBackendRegistry.config_class(kind)
        base = GivenTier(cls, {"backend_type": Given(kind, at)}, {}, origin)
    cls = base.config_class
    options = dict(base.options)
    for option, (value, where) in rest.items():
        with blamed(where):
            name, unit = option_field(cls, option, "the tier")
            read = option_value(cls, name, value, text=False, unit=unit)
            if name in options:
                raise ConfigError(f"{name} is said twice")
            options[name] = Given(_from_directory(name, read, directory), where)
    return GivenTier(cls, options, base.query, origin)


def _from_directory(name: str, value: Any, directory: str | None) -> Any:
    """A relative directory below that of the file that says it; ``~`` and variables are absolute.

    ``None`` leaves a value of the code as it is.
    """
    if name != "base_path" or directory is None or not isinstance(value, str) or not value:
        return value
    return (
        value
        if value[0] in "~$"
        else os.path.normpath(os.path.join(directory or os.getcwd(), value))
    )


def _tables() -> dict[str, type[Any] | None]:
    """What has options of its own: the configuration that has them as fields."""
    tables: dict[str, type[Any] | None] = {"ttl": None, "chunking": ChunkingConfig}
    # A longer name first, so that no kind hides one that begins with it.
    for kind in sorted(CacheBackendRegistry.list_backends(), key=lambda k: (-len(k), k)):
        with contextlib.suppress(ConfigError):  # a tier that cannot be configured
            tables[kind] = CacheBackendRegistry.config_class(kind)
    return tables


def _plain_names() -> tuple[str, ...]:
    fields = (f.name for f in dataclasses.fields(CacheConfig))
    return (*_ARTIFACT_NAMES, *(name for name in fields if name not in ("backends", "chunking")))


def _plain_text(name: str, text: str) -> Any:
    """The value of a variable."""
    if name == "memo":
        return option_value(_Memo, name, text, text=True)
    if name in _ARTIFACT_NAMES:
        return text
    return option_value(CacheConfig, name, text, text=True)


@dataclass(frozen=True)
class _Memo:
    memo: bool = True


@contextlib.contextmanager
def blamed(origin: str) -> Iterator[None]:
    """Let a ConfigError begin with where the wrong thing is said, unless it does."""
    try:
        yield
    except (ConfigError, TypeError) as error:
        if isinstance(error, ConfigError) and error.origin is not None:
            raise
        told = ConfigError(f"{origin}: {error}")
        told.origin = origin
        raise told from None
