"""Help for the tests of programs that use cogcache, and for tiers of your own.

``memory_cache`` is a whole cache in memory, with encoded entries, so that a type that cannot be
stored fails in a test as it would on disk. ``assert_round_trips`` says whether a value comes back
as what it was. ``FakeClock`` moves time. ``BackendConformance`` is the contract of a tier as a test
class.
"""

from cogcache.testing.clock import FakeClock, memory_cache
from cogcache.testing.conformance import BackendConformance
from cogcache.testing.roundtrip import assert_round_trips

__all__ = ["BackendConformance", "FakeClock", "assert_round_trips", "memory_cache"]
