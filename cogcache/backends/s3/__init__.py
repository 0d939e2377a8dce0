"""The tier of an S3 store; ``docs/tiers.md`` says what it promises."""

from cogcache.backends.s3.tier import S3Backend

__all__ = ["S3Backend", "S3CacheBackend"]

S3CacheBackend = S3Backend  # the upstream name
