"""The synchronous face keeps the same contract, in the thread of a running event loop too."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogcache._inline import run_inline
from cogcache.backends.base import CacheBackend
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.config import FilesystemCacheConfig, MemoryCacheConfig
from cogcache.testing import BackendConformance


class _Inline:
    """A tier whose coroutines are driven in the calling thread, as ``sync`` does it."""

    def __init__(self, tier: CacheBackend) -> None:
        self._tier = tier

    def __getattr__(self, name: str) -> Any:
        member: Callable[..., Any] = getattr(self._tier, name)
        if not inspect.iscoroutinefunction(member):
            return member

        async def call(*args: Any, **named: Any) -> Any:
            return run_inline(member(*args, **named))

        return call


class TestMemoryInline(BackendConformance):
    async def make_tier(self) -> CacheBackend:
        return _Inline(MemoryCacheBackend(MemoryCacheConfig()))  # type: ignore[return-value]


class TestFilesystemInline(BackendConformance):
    @pytest.fixture(autouse=True)
    def _paths(self, tmp_path: Path) -> None:
        self.paths = (tmp_path / str(number) for number in range(100))

    async def make_tier(self) -> CacheBackend:
        tier = FilesystemCacheBackend(
            FilesystemCacheConfig(next(self.paths), cleanup_on_startup=False)
        )
        return _Inline(tier)  # type: ignore[return-value]
