"""A cache in memory, and a clock that a test moves."""

from __future__ import annotations

from cogcache._types import Duration, duration_seconds
from cogcache.config import CacheConfig, MemoryCacheConfig
from cogcache.manager import CacheManager
from cogcache.pipeline import PipelineArtifactCache


class FakeClock:
    """Shifts the time that caches see; everything else of the program keeps its own.

    Args:
        *caches: The caches that follow this clock; ``attach`` adds more.
    """

    def __init__(self, *caches: CacheManager | PipelineArtifactCache) -> None:
        self.offset_seconds = 0.0
        self._managers: list[CacheManager] = []
        for cache in caches:
            self.attach(cache)

    def attach(self, cache: CacheManager | PipelineArtifactCache) -> None:
        """Let a cache follow this clock."""
        manager = cache.cache if isinstance(cache, PipelineArtifactCache) else cache
        self._managers.append(manager)
        self._apply(manager)

    def advance(self, duration: Duration) -> None:
        """Move the clock forward by seconds, a ``timedelta`` or text such as ``"7d"``."""
        self.offset_seconds += duration_seconds(duration, "duration")
        for manager in self._managers:
            self._apply(manager)

    def jump(self, seconds: float) -> None:
        """Move the clock by any number of seconds, backwards too."""
        self.offset_seconds += seconds
        for manager in self._managers:
            self._apply(manager)

    def _apply(self, manager: CacheManager) -> None:
        for tier in manager.backends:
            tier.set_clock_offset(round(self.offset_seconds * 1000))


def memory_cache(
    *, clock: FakeClock | None = None, profile: str | None = None, max_size_mb: float = 256
) -> PipelineArtifactCache:
    """An artifact cache in memory: nothing on disk, nothing shared, entries encoded as
    everywhere.
    """
    config = CacheConfig([MemoryCacheConfig(max_size_mb=max_size_mb)])
    cache = PipelineArtifactCache(CacheManager(config), profile=profile)
    if clock is not None:
        clock.attach(cache)
    return cache
