"""What the configuration of a tier says about its use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from cogcache.config import PolicyOptions

if TYPE_CHECKING:
    from cogcache.backends.base import CacheBackend

__all__ = ["ROUTED", "Policy"]

# Words for a value that is none of a tier's business: no fault, and nothing was tried.
ROUTED: Final = frozenset(("too-small", "too-large-for-tier", "off"))


@dataclass(frozen=True, kw_only=True)
class Policy(PolicyOptions):
    """The policy of a tier. Where its configuration lacks an option, it is the default."""

    @classmethod
    def of(cls, tier: CacheBackend) -> Policy:
        """The policy of a tier."""
        named = {f.name: getattr(tier.config, f.name, None) for f in fields(cls)}
        return cls(**{name: value for name, value in named.items() if value is not None})

    @property
    def needs_size(self) -> bool:
        """Whether the stored size of a value must be known before it is written."""
        return self.min_value_size > 0 or self.max_value_size is not None

    @property
    def is_plain(self) -> bool:
        """Whether every value is written as soon as it is put."""
        return self.write_mode == "through" and not self.needs_size

    def routed(self, stored_bytes: int) -> str | None:
        """``None`` if a value of this stored size goes to the tier, else the word for why not."""
        if self.write_mode == "off":
            return "off"
        if stored_bytes < self.min_value_size:
            return "too-small"
        if self.max_value_size is not None and stored_bytes > self.max_value_size:
            return "too-large-for-tier"
        return None
