"""Archives between tiers of every kind: a directory, a bucket, memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.servers.s3 import S3Place
from support_cache import manager_over
from support_s3 import tier_at

from cogcache import CacheManager, FilesystemCacheConfig, MemoryCacheConfig, _core
from cogcache.archives.scratch import IN_MEMORY
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.keys import key_bytes

pytestmark = pytest.mark.s3("weed")


async def known(manager: CacheManager, key: str) -> tuple[int, int | None, object]:
    """Version, end of life and metadata of an entry of the first tier."""
    entry = await manager.backends[0].fetch(key_bytes(key), index_only=True)
    assert isinstance(entry, _core.Entry)
    return entry.token, entry.expires_ms, entry.meta


async def test_entries_go_from_a_directory_through_a_bucket_into_memory(
    s3_place: S3Place, tmp_path: Path
) -> None:
    files = manager_over(
        FilesystemCacheBackend(FilesystemCacheConfig(tmp_path / "there", cleanup_on_startup=False))
    )
    bucket = manager_over(tier_at(s3_place))
    memory = manager_over(MemoryCacheBackend(MemoryCacheConfig(max_size_mb=400)))
    values = {f"key:{number}": os.urandom(2000 * number) for number in range(5)}
    values["large"] = os.urandom(1 << 20) * (1 + IN_MEMORY // (1 << 20))
    for key, value in values.items():
        await files.store(key, value, ttl="7d", tags=["nightly"], metadata={"by": key})
    before = {key: await known(files, key) for key in values}
    for number, (there, here) in enumerate(((files, bucket), (bucket, memory))):
        written = await there.export_archive(tmp_path / f"{number}.tar")
        taken = await here.import_archive(tmp_path / f"{number}.tar")
        assert (written.entries, taken.entries) == (len(values), len(values)), (written, taken)
        assert {key: await known(here, key) for key in values} == before
        assert await here.get_many(list(values)) == values
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()
    for manager in (files, bucket, memory):
        await manager.aclose()
