"""Archives: entries of a cache in one plain tar file, to carry them to another place."""

from cogcache.archives.report import ArchiveReport, Refusal

__all__ = ["ArchiveReport", "Refusal"]
