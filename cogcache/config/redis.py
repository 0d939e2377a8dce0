"""A tier in a Redis server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

from cogcache._checks import whole
from cogcache.config.options import BackendConfig, Compression, PolicyOptions, strict
from cogcache.exceptions import ConfigError, shown

__all__ = ["RedisCacheBackendConfig", "RedisCacheConfig"]


@strict
@dataclass(frozen=True)
class RedisCacheConfig(BackendConfig, PolicyOptions):
    """A tier in a Redis (6.2 or newer) or Valkey server, shared by any number of hosts
    (``docs/tiers.md``).

    Needs ``pip install cogcache-video[redis]``.

    Attributes:
        url: ``redis://[user:password@]host[:port][/db]``, ``rediss://...`` for TLS, or
            ``unix:///path[?db=n]``; ``None`` takes the environment's ``REDIS_URL``. Its password is
            never shown.
        prefix: All keys begin with it and a colon; also ``key_prefix``.
        priority: See ``BackendConfig``; local tiers come first.
        username: Instead of the URL's.
        password: Instead of the URL's. Never shown.
        ca_file: Certificates of the authorities to trust, for ``rediss://``; ``None`` are the
            system's.
        slice_size: Bytes of a Redis value at most, from 64 KiB to 512 MiB; also ``chunk_size``.
            Entries written with another one stay readable.
        max_value_size: See ``BackendConfig``; here 4 MiB unless said otherwise, since memory is
            dear.
        timeout_seconds: Of a small call; ``None`` is 0.25. Four times that for each slice.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"key_prefix": "prefix", "chunk_size": "slice_size"}
    SHOW_AS: ClassVar[Mapping[str, str]] = {"url": "address"}

    backend_type: str = field(default="redis", kw_only=True)
    url: str | None = None
    prefix: str = "cc"
    priority: int = 1
    username: str | None = field(default=None, kw_only=True)
    password: str | None = field(default=None, repr=False, kw_only=True)
    ca_file: str | None = field(default=None, kw_only=True)
    slice_size: int = field(default=5 << 20, kw_only=True)
    max_value_size: int | None = field(default=4 << 20, kw_only=True)
    enabled: bool = field(default=True, kw_only=True)
    enable_compression: Compression | None = field(default=None, kw_only=True)
    serialization_format: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.url is None:
            object.__setattr__(self, "url", os.environ.get("REDIS_URL"))
            if not self.url:
                raise ConfigError("url is missing: 'redis://host:port/0', or set REDIS_URL")
        for name in ("username", "password", "ca_file"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigError(f"{name} must be a text or None, not {type(value).__name__}")
        if (
            not isinstance(self.prefix, str)
            or not self.prefix.isprintable()
            or not 1 <= len(self.prefix.encode("utf-8", "replace")) <= 200
            or any(c in self.prefix for c in "{} ")
        ):
            raise ConfigError(
                f"prefix must be 1 to 200 bytes of text without spaces and braces, "
                f"not {shown(self.prefix)}"
            )
        whole(self.slice_size, "slice_size", least=64 << 10, most=512 << 20, none=False)
        settings = self.connection
        if self.ca_file is not None and "ssl_cert_reqs" not in settings:
            raise ConfigError("ca_file needs a url that begins with rediss://")

    @property
    def address(self) -> str:
        """The URL without who one is."""
        parts = urlsplit(self.url or "")
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def connection(self) -> dict[str, Any]:
        """Where and as whom to connect, in the words of redis-py.

        Raises:
            ConfigError: The URL cannot be; it is not shown, since it may hold a password.
        """
        return _connection(self.url, self.username, self.password, self.ca_file)


RedisCacheBackendConfig = RedisCacheConfig


def _connection(
    url: object, username: str | None, password: str | None, ca_file: str | None
) -> dict[str, Any]:
    wanted = (
        "url must be 'redis://[user:password@]host[:port][/db]', 'rediss://...' or 'unix:///path'"
    )
    if not isinstance(url, str):
        raise ConfigError(f"{wanted}, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        port = parts.port or 6379
    except ValueError:
        raise ConfigError(wanted) from None
    unknown = set(query) - {"db"}
    if parts.scheme not in ("redis", "rediss", "unix") or parts.fragment or unknown:
        raise ConfigError(f"{wanted}; other options have fields of their own")
    found: dict[str, Any] = {}
    database = query.get("db", "0")
    if parts.scheme == "unix":
        if not parts.path:
            raise ConfigError(wanted)
        found["path"] = unquote(parts.path)
    else:
        if not parts.hostname:
            raise ConfigError(wanted)
        found |= {"host": parts.hostname, "port": port}
        database = parts.path.strip("/") or database
    if not database.isascii() or not database.isdigit() or len(database) > 6:
        raise ConfigError("url: the database must be a number, as in redis://host:6379/0")
    found["db"] = int(database)
    who = username or (unquote(parts.username) if parts.username else None)
    secret = password or (unquote(parts.password) if parts.password else None)
    found |= {name: value for name, value in (("username", who), ("password", secret)) if value}
    if parts.scheme == "rediss":
        found |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        if ca_file is not None:
            found["ssl_ca_certs"] = os.path.expanduser(ca_file)
    return found
