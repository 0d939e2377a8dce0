"""Tiers and entries for the tests of the S3 tier."""

from __future__ import annotations

import os
from typing import Any

from support.servers.s3 import S3Place

from cogcache import _core
from cogcache.backends.s3.tier import S3Backend
from cogcache.config import S3CacheConfig
from cogcache.keys import key_bytes

# Every test also holds where boto3 sends everything: COGCACHE_TEST_DIRECT=0.
DIRECT = os.environ.get("COGCACHE_TEST_DIRECT", "1") != "0"


def config_at(place: S3Place, prefix: str = "", **options: Any) -> S3CacheConfig:
    """The configuration of a tier in a place of a server."""
    named: dict[str, Any] = {
        "bucket": place.bucket,
        "prefix": f"{place.prefix}{prefix}",
        "endpoint_url": place.endpoint_url,
        "access_key": place.access_key,
        "secret_key": place.secret_key,
        "region": place.region,
    }
    # Patient: no test asks how fast a busy machine answers, but those that say so.
    named |= {"timeout_seconds": 60, "direct_requests": DIRECT}
    return S3CacheConfig(**{**named, **options})


def tier_at(place: S3Place, prefix: str = "", **options: Any) -> S3Backend:
    """A tier in a place of a server."""
    return S3Backend(config_at(place, prefix, **options))


async def entry_of(tier: S3Backend, key: str, *, index_only: bool = False) -> _core.Entry:
    """The entry of a key, which must be there."""
    found = await tier.fetch(key_bytes(key), index_only=index_only)
    assert isinstance(found, _core.Entry), found
    return found


def names_in(place: S3Place, prefix: str = "") -> list[str]:
    """The names of all objects of a place, behind the back of the tier."""
    pages = place.client.get_paginator("list_objects_v2").paginate(
        Bucket=place.bucket, Prefix=f"{place.prefix}{prefix}"
    )
    return [one["Key"] for page in pages for one in page.get("Contents", ())]


def object_of(tier: S3Backend, key: str) -> str:
    """The name of the object of a key."""
    return tier._names.of_key(key_bytes(key))
