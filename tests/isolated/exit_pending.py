"""End at once after starting writes that nobody waits for. Argument: directory."""

import os
import sys

from cogcache import _bridge, _core
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.config import FilesystemCacheConfig

tier = FilesystemCacheBackend(FilesystemCacheConfig(sys.argv[1]))
for number in range(100):
    data = bytes([number]) + os.urandom(200_000)
    draft = tier.draft(_core.raw_key(f"key {number}"), data, ttl_ms=None)
    _bridge.start(tier._store, "put", draft)
