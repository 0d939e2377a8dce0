"""Chunks of one size for what is read here and there, and of another for what is read through."""

from __future__ import annotations

from cogcache.backends.base import KeyPattern
from cogcache.config import ChunkingConfig
from cogcache.exceptions import ConfigError, shown
from cogcache.keys import Key

__all__ = ["ChunkSizes"]


class ChunkSizes:
    """How large the chunks of a stream are, by its key.

    Args:
        chunking: Its ``chunk_sizes``, and ``chunk_size`` for keys that none of them means.

    Raises:
        ConfigError: A pattern that cannot be.
    """

    def __init__(self, chunking: ChunkingConfig) -> None:
        self._else = chunking.chunk_size
        self._sizes: list[tuple[KeyPattern, int]] = []
        for pattern, size in (chunking.chunk_sizes or {}).items():
            try:
                self._sizes.append((KeyPattern(pattern), size))
            except ValueError as error:
                raise ConfigError(f"chunk_sizes: {shown(pattern)}: {error}") from None

    def of(self, encoded: bytes) -> int:
        """Bytes of a chunk for a key: what the first pattern that means it says."""
        if self._sizes:
            text = str(Key.from_encoded(encoded))
            for pattern, size in self._sizes:
                if pattern.matches(text):
                    return size
        return self._else
