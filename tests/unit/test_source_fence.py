"""The fence: results of an old file are never filed under the new one."""

import pickle
import threading

import pytest

from cogcache.fence import MissFence
from cogcache.sources import SourceRef


def ref(mtime_ns=1, uri="file:///v.mp4", **more):
    return SourceRef(uri, "stat", 10, mtime_ns, **more)


def test_a_set_of_an_unchanged_source_passes_with_what_was_captured_at_the_miss():
    fence = MissFence()
    missed = ref(young_ns=10, young_digest=b"x" * 16)
    fence.note_miss(missed)
    now = ref()

    assert fence.check(now) is missed
    assert fence.check(now) is missed  # and the next artifact of the same source


def test_a_set_of_a_changed_source_is_refused_once():
    fence = MissFence()
    fence.note_miss(ref(1))

    assert fence.check(ref(2)) is None
    assert fence.check(ref(2)) == ref(2)


def test_a_set_without_a_miss_passes():
    fence = MissFence()
    fence.note_miss(ref(uri="file:///other.mp4"))
    now = ref()

    assert fence.check(now) is now


def test_every_artifact_that_was_missed_is_refused_once():
    """One replaced file, two results of the old one: neither may slip through."""
    fence = MissFence()
    fence.note_miss(ref(1), "keyframes")
    fence.note_miss(ref(1), "transcript")

    assert fence.check(ref(2), "keyframes") is None
    assert fence.check(ref(2), "transcript") is None
    assert fence.check(ref(2), "keyframes") == ref(2)
    assert fence.check(ref(2), "transcript") == ref(2)


def test_an_artifact_that_was_never_asked_for_is_compared_with_the_last_miss_of_the_source():
    fence = MissFence()
    fence.note_miss(ref(1), "keyframes")

    assert fence.check(ref(2), "embeddings") is None
    assert fence.check(ref(1), "segments") == ref(1)


def test_a_new_miss_starts_anew():
    fence = MissFence()
    fence.note_miss(ref(1), "keyframes")
    assert fence.check(ref(2), "keyframes") is None
    fence.note_miss(ref(2), "keyframes")

    assert fence.check(ref(2), "keyframes") == ref(2)
    assert fence.check(ref(3), "keyframes") is None


def test_an_artifact_missed_on_the_new_file_passes_while_an_older_one_is_refused():
    fence = MissFence()
    fence.note_miss(ref(1), "transcript")
    fence.note_miss(ref(2), "keyframes")

    assert fence.check(ref(2), "keyframes") == ref(2)
    assert fence.check(ref(2), "transcript") is None


def test_appearing_and_disappearing_are_changes_too():
    fence = MissFence()
    absent = SourceRef("file:///v.mp4", "absent")
    fence.note_miss(absent)
    assert fence.check(ref()) is None
    fence.note_miss(ref())
    assert fence.check(absent) is None


def test_the_least_recently_missed_uris_are_forgotten():
    fence = MissFence(max_uris=3)
    for number in range(3):
        fence.note_miss(ref(1, f"file:///{number}"))
    fence.note_miss(ref(1, "file:///0"))
    fence.note_miss(ref(1, "file:///3"))

    assert fence.check(ref(2, "file:///1")) == ref(2, "file:///1")
    assert fence.check(ref(2, "file:///0")) is None
    assert fence.check(ref(2, "file:///3")) is None


def test_by_default_4096_uris_are_kept():
    fence = MissFence()
    for number in range(4097):
        fence.note_miss(ref(1, f"file:///{number}"))

    assert fence.check(ref(2, "file:///0")) is not None
    assert all(fence.check(ref(2, f"file:///{number}")) is None for number in range(1, 4097))


def test_scopes_are_bounded_too():
    fence = MissFence()
    for number in range(1000):
        fence.note_miss(ref(1), number)

    assert fence.check(ref(2), 0) is None  # by the last miss of the source
    assert all(fence.check(ref(2), number) is None for number in range(940, 1000))


def test_a_fence_needs_room_for_a_source():
    with pytest.raises(ValueError, match="at least 1"):
        MissFence(0)


def test_a_fence_travels_empty():
    fence = MissFence(7)
    fence.note_miss(ref(1))
    back = pickle.loads(pickle.dumps(fence))

    assert back.max_uris == 7
    assert back.check(ref(2)) == ref(2)


def test_many_threads_share_a_fence():
    fence = MissFence(max_uris=50)
    failures = []

    def work(worker):
        for number in range(500):
            uri = f"file:///{worker}/{number % 5}"
            fence.note_miss(ref(number, uri), worker)
            if fence.check(ref(number, uri), worker) != ref(number, uri):
                failures.append((worker, number))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert not failures
