"""Where a tier keeps its entries, as a name for what waits to be sent there."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from cogcache import _core

if TYPE_CHECKING:
    from cogcache.backends.base import CacheBackend

__all__ = ["destination_of"]

_PLACES: Final = ("endpoint_url", "bucket", "expanded_path")


def destination_of(tier: CacheBackend) -> str:
    """16 hex digits for where a tier keeps its entries: the same in every process, and without
    secrets.
    """
    config = tier.config
    place = [str(getattr(config, "backend_type", type(tier).__name__))]
    place += [f"{name}={getattr(config, name)}" for name in _PLACES if hasattr(config, name)]
    place.append(str(getattr(config, "prefix", "")).strip("/"))
    url = getattr(config, "url", None)
    if isinstance(url, str):
        parts = urlsplit(url)
        with contextlib.suppress(ValueError):
            place.append(f"{parts.scheme}://{parts.hostname}:{parts.port}{parts.path}")
    return _core.hash128("\0".join(place).encode())[:8].hex()
