"""End with containers half received: in a variable, in a cycle, in the pool. Argument:
directory."""

import sys

from cogcache import _core

store = _core.Store(sys.argv[1], min_free_bytes=0)
kept = [store.incoming(_core.raw_key(str(number)), length=1_000_000) for number in range(3)]
for one in kept:
    assert isinstance(one, _core.Incoming)
    assert one.append(bytes(500_000)) is None
cycle: list[object] = [kept[0]]
cycle.append(cycle)
assert isinstance(kept[1], _core.Incoming)
kept[1].submit(None, None, "append", bytes(400_000))
writer = _core.EntryWriter(b"key", meta={}, refreshed_ms=1, ttl_ms=None)
writer.submit(None, None, "feed", bytes(20_000_000))
print("done")
