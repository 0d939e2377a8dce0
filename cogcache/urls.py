"""Tiers written as text: a directory, or a URL with options in its query.

======================  ==================================================================
``/data/cache``         a filesystem tier; ``~`` and ``$VARIABLES`` are expanded
``file:///data/cache``  the same; percent-escapes are decoded
``s3://bucket/prefix``  a tier in a bucket
``redis://host:6379/0`` a tier in a Redis server; also ``rediss://`` and ``unix:///path``
``memory://``           a tier in the memory of this process
======================  ==================================================================

The query of a URL takes every option of the tier that is no secret, as in
``file:///data/cache?max_size=50GB&shared=group``.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from cogcache._checks import nearest
from cogcache.config import (
    BackendConfig,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    RedisCacheConfig,
    S3CacheConfig,
)
from cogcache.exceptions import ConfigError, shown
from cogcache.optiontext import kind_of_secret, option_field, option_value

__all__ = ["WrittenTier", "tier_config", "without_secrets", "written_tier"]

_KINDS: Final[Mapping[str, type[BackendConfig]]] = {
    "file": FilesystemCacheConfig,
    "memory": MemoryCacheConfig,
    "redis": RedisCacheConfig,
    "rediss": RedisCacheConfig,
    "s3": S3CacheConfig,
    "unix": RedisCacheConfig,
}
_LIKE_A_QUERY: Final = re.compile(r"[a-z_]+=")
_NEVER_IN_A_QUERY: Final = ("backend_type", "base_path", "bucket", "prefix", "url")


@dataclasses.dataclass(frozen=True, slots=True)
class WrittenTier:
    """What a text says of a tier.

    Attributes:
        config_class: What configures it.
        place: Options that say where it is.
        query: Options of the URL's query.
    """

    config_class: type[BackendConfig]
    place: Mapping[str, Any]
    query: Mapping[str, Any]


def without_secrets(url: str) -> str:
    """A URL for people to see: without who one is, and without values of its query."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    place, question, query = rest.rpartition("@")[2].partition("?")
    names = [part.partition("=")[0] + "=..." for part in query.split("&") if part]
    return f"{scheme}://{place}{question}{'&'.join(names)}"


def written_tier(text: str) -> WrittenTier:
    """Read the text of a tier.

    Raises:
        ConfigError: A scheme or an option that does not exist (the nearest is named), a value that
            does not fit, a secret in a query.
    """
    if "://" not in text:
        path, _, options = text.partition("?")
        if _LIKE_A_QUERY.match(options) and not os.path.isdir(text):
            name = options.partition("=")[0]
            raise ConfigError(
                f"tier {shown(path)}: a directory has no options; a URL has, as in "
                f"'file:///data/cache?{name}=...'"
            )
        return WrittenTier(FilesystemCacheConfig, {"base_path": text}, {})
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ConfigError(f"tier {shown(without_secrets(text))}: {error}") from None
    cls = _KINDS.get(parts.scheme)
    if cls is None:
        scheme = text.partition("://")[0]
        raise ConfigError(
            f"tier {shown(scheme)[1:-1]}://...: this kind of tier does not exist yet"
            f"{nearest(scheme, _KINDS)}; written are a directory, file:///directory, "
            f"s3://bucket/prefix, redis://host:port/db and memory://"
        )
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    place = _place(cls, parts, text, query)
    return WrittenTier(cls, place, _options(cls, parts.scheme, query))


def tier_config(tier: Any, priority: int) -> BackendConfig | Mapping[str, Any]:
    """The configuration of a tier given as text, path, configuration or dict, in its place.

    Raises:
        ConfigError: It is none of these, or says what cannot be.
    """
    if isinstance(tier, Mapping):
        return {**tier, "priority": priority}
    if isinstance(tier, str):
        read = written_tier(tier)
        return read.config_class(**{"priority": priority, **read.place, **read.query})
    if isinstance(tier, os.PathLike):
        return FilesystemCacheConfig(base_path=tier, priority=priority)
    if dataclasses.is_dataclass(tier) and isinstance(tier, BackendConfig):
        return dataclasses.replace(tier, priority=priority)
    raise ConfigError(
        f"a tier is a directory, a URL, a configuration or a dict, not {type(tier).__name__}"
    )


def _place(
    cls: type[BackendConfig], parts: SplitResult, text: str, query: dict[str, str]
) -> dict[str, Any]:
    seen = without_secrets(text)
    if parts.fragment:
        raise ConfigError(
            f"tier {seen}: a URL of a tier, such as file:///directory, has no #fragment; write %23 "
            f"for a '#'"
        )
    if cls is FilesystemCacheConfig:
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ConfigError(
                f"tier {seen}: a file URL is file:///directory, with three slashes, of this host"
            )
        return {"base_path": unquote(parts.path)}
    if cls is MemoryCacheConfig:
        if parts.netloc or parts.path.strip("/"):
            raise ConfigError(f"tier {seen}: memory:// has no host and no path")
        return {}
    if cls is S3CacheConfig:
        if "@" in parts.netloc:
            raise ConfigError("an S3 URL is s3://bucket/prefix?option=value, without credentials")
        prefix = {"prefix": unquote(parts.path)} if parts.path.strip("/") else {}
        return {"bucket": parts.netloc, **prefix}
    database = {"db": query.pop("db")} if "db" in query else {}  # redis-py's own option
    return {"url": parts._replace(query=urlencode(database)).geturl()}


def _options(cls: type[BackendConfig], scheme: str, query: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in query.items():
        if name in _NEVER_IN_A_QUERY and not (name == "prefix" and cls is RedisCacheConfig):
            raise ConfigError(
                f"{scheme} URL: unknown option {shown(name)}; it is what stands before the '?'"
            )
        try:
            field, unit = option_field(cls, name, f"a {scheme} URL")
            if kind_of_secret(cls, field):
                raise ConfigError(f"unknown option {shown(name)}: a secret is never in a URL")
            options[field] = option_value(cls, field, text, text=True, unit=unit)
        except ConfigError as error:
            raise ConfigError(f"{scheme} URL: {error}") from None
    return options
