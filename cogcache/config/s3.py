"""A tier in an S3 bucket."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from cogcache._checks import flag, whole
from cogcache.config.options import BackendConfig, Compression, PolicyOptions, strict
from cogcache.exceptions import ConfigError, shown

__all__ = ["S3CacheBackendConfig", "S3CacheConfig"]

LONGEST_PREFIX: Final = (
    400  # bytes; the longest object name is 1,024 and ours add 515 to the prefix
)
_BUCKET: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")


@strict
@dataclass(frozen=True)
class S3CacheConfig(BackendConfig, PolicyOptions):
    """A tier in a bucket of an S3 store, shared by any number of hosts (``docs/tiers.md``).

    Needs ``pip install cogcache-video[s3]``. What is not given is found as boto3 finds it: in the
    environment, the shared files of a profile, the role of the machine.

    Attributes:
        bucket: Its name; it must exist. It may hold other objects, which are never touched.
        prefix: All objects are named ``<prefix>/v1/...``; also ``key_prefix``. Slashes at its ends
            do not count.
        priority: See ``BackendConfig``; local tiers come first.
        endpoint_url: Of a store that is not AWS, ``"https://host[:port]"``; also ``endpoint``.
        access_key: With ``secret_key`` the credentials. Never shown.
        secret_key: See there. Never shown.
        region: Such as ``"eu-central-1"``; stores other than AWS rarely care.
        lifecycle_expiration_days: If given, the bucket gets a lifecycle rule for the prefix that
            lets the store itself delete objects so many days after they were written; rules of
            others stay as they are.
        session_token: Of temporary credentials. Never shown.
        profile: A section of the shared AWS configuration files; not with ``access_key``.
        sign_payloads: Whether what is sent is hashed into the signature, at the cost of a second of
            one processor for each 850 MB. ``None`` does so over ``http``, where nothing else guards
            it on its way, and not over ``https``.
        hedge_reads: Whether a read of up to 1 MiB that takes far longer than others is asked for a
            second time, for at most one in twenty, and not while the store as a whole is slow.
        direct_requests: Whether objects are read and written over connections of our own, at a part
            of the processor time that boto3's client takes; it stays in charge of everything else,
            and of these too behind a proxy or where a store wants more than is known here.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"key_prefix": "prefix", "endpoint": "endpoint_url"}

    backend_type: str = field(default="s3", kw_only=True)
    bucket: str = ""
    prefix: str = "artifacts"
    priority: int = 1
    endpoint_url: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    region: str | None = None
    lifecycle_expiration_days: int | None = None
    session_token: str | None = field(default=None, repr=False, kw_only=True)
    profile: str | None = field(default=None, kw_only=True)
    sign_payloads: bool | None = field(default=None, kw_only=True)
    hedge_reads: bool = field(default=False, kw_only=True)
    direct_requests: bool = field(default=True, kw_only=True)
    enabled: bool = field(default=True, kw_only=True)
    enable_compression: Compression | None = field(default=None, kw_only=True)
    compress_arrays: bool = field(default=False, kw_only=True)
    serialization_format: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.bucket, str) or not _BUCKET.fullmatch(self.bucket):
            raise ConfigError(
                f"bucket must be the name of an S3 bucket (letters, digits, '.', '-', '_'), not "
                f"{shown(self.bucket)}"
            )
        _check_prefix(self.prefix)
        for name in ("access_key", "secret_key", "region", "session_token", "profile"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                # Not the value itself: it may be a secret.
                raise ConfigError(f"{name} must be a text or None, not {type(value).__name__}")
        if (self.access_key is None) != (self.secret_key is None):
            raise ConfigError("access_key and secret_key belong together: give both or neither")
        if self.session_token is not None and self.access_key is None:
            raise ConfigError("session_token needs access_key and secret_key")
        if self.profile is not None and self.access_key is not None:
            raise ConfigError("profile and access_key are two ways to credentials: give one")
        _check_endpoint(self.endpoint_url)
        if self.sign_payloads is not None:
            flag(self.sign_payloads, "sign_payloads")
        flag(self.hedge_reads, "hedge_reads")
        flag(self.direct_requests, "direct_requests")
        whole(self.lifecycle_expiration_days, "lifecycle_expiration_days", least=1, most=36_500)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> S3CacheConfig:
        """Read ``s3://bucket[/prefix][?endpoint_url=...&region=...&...]``; ``options`` count more.

        Raises:
            ConfigError: Another scheme, an unknown option (the nearest is named), or credentials,
                which do not belong into a URL.
        """
        from cogcache.urls import written_tier

        read = written_tier(url)
        if read.config_class is not cls:
            raise ConfigError("an S3 URL is s3://bucket/prefix?option=value, without credentials")
        return cls(**{**read.place, **read.query, **options})

    @property
    def clean_prefix(self) -> str:
        """``prefix`` without slashes at its ends."""
        return self.prefix.strip("/")


S3CacheBackendConfig = S3CacheConfig


def _check_prefix(prefix: object) -> None:
    if not isinstance(prefix, str):
        raise ConfigError(f"prefix must be a text, not {type(prefix).__name__}")
    segments = prefix.strip("/").split("/")
    if prefix.strip("/") and any(one in ("", ".", "..") for one in segments):
        raise ConfigError(
            f"prefix {shown(prefix)}: segments between slashes must not be '', '.', '..'"
        )
    if not prefix.isprintable() or "\\" in prefix:
        raise ConfigError(f"prefix {shown(prefix)} has characters that object names do not take")
    if len(prefix.encode("utf-8", "replace")) > LONGEST_PREFIX or any(
        len(one.encode("utf-8", "replace")) > 255 for one in segments
    ):
        raise ConfigError(
            f"prefix may have at most {LONGEST_PREFIX} UTF-8 bytes, and 255 between two slashes"
        )


def _check_endpoint(endpoint: object) -> None:
    if endpoint is None:
        return
    if not isinstance(endpoint, str):
        raise ConfigError(f"endpoint_url must be a text, not {type(endpoint).__name__}")
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, good = urlsplit(""), False
    if not good:
        raise ConfigError("endpoint_url must be 'http://host[:port]' or 'https://host[:port]'")
    if "@" in parts.netloc:
        raise ConfigError("endpoint_url must not hold credentials: use access_key and secret_key")
    if parts.query or parts.fragment:
        raise ConfigError("endpoint_url must not have a query or a fragment")
