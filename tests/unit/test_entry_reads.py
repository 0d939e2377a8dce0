"""What a reader far away asks for: as few ranges as the layout allows, and never the body for the
metadata."""

import pytest
from support import entrydata

from cogcache import _core

KEY = entrydata.KEY


class Remote:
    """An image behind a read function that remembers what was asked."""

    def __init__(self, value, **meta):
        self.image = _core.Draft(
            value, KEY, meta={1: entrydata.NOW, **meta}, refreshed_ms=entrydata.NOW, ttl_ms=None
        ).compose()
        self.bytes = self.image.tobytes()
        self.reads = []

    def read(self, offset, size):
        self.reads.append((offset, size))
        return self.bytes[offset : offset + size]

    def open(self):
        return _core.Entry.from_reader(len(self.bytes), self.read, KEY)


FRAMES = [entrydata.noise(50_000 + 7 * i, i) for i in range(150)]


@pytest.fixture(scope="module")
def bundle():
    return Remote({"frames": FRAMES}, **{"made by": "tests"})


@pytest.fixture(autouse=True)
def forget(bundle):
    bundle.reads.clear()


def test_metadata_is_there_after_the_one_read_of_the_end(bundle):
    entry = bundle.open()
    assert bundle.reads == [(len(bundle.bytes) - 65536, 65536)]
    assert entry.meta == {1: entrydata.NOW, "made by": "tests"}
    assert len(entry.parts()) == 151
    assert entry.ttl_ms is None
    assert len(bundle.reads) == 1


def test_one_frame_is_one_more_read_of_exactly_the_frame(bundle):
    entry = bundle.open()
    for number in (0, 77, 140):
        bundle.reads.clear()
        assert entry.read(number) == FRAMES[number]
        ((offset, size),) = bundle.reads
        assert size == len(FRAMES[number])
        assert bundle.bytes[offset : offset + size] == FRAMES[number]
    bundle.reads.clear()
    assert entry.read(149) == FRAMES[149]
    assert bundle.reads == []  # it lay in the end that was read first


def test_a_small_entry_is_one_read_in_all():
    remote = Remote({"text": "short"})
    entry = remote.open()
    assert len(remote.reads) == 1
    assert remote.reads[0] == (0, len(remote.bytes))
    assert entry.meta == {1: entrydata.NOW}


@pytest.mark.parametrize("start", [0, 1, 5_242_879, 5_242_880, 5_242_881, 10_485_760, 11_999_999])
@pytest.mark.parametrize("length", [1, 2, 5_242_880, 5_242_881])
def test_a_range_is_exact_and_reads_only_its_chunks(start, length):
    """C13, C14, C15: boundaries of chunks, ranges that begin behind the first, trimmed at both
    ends."""
    chunk = 5_242_880
    remote, data = LONG
    stop = min(start + length, len(data))
    entry = remote.open()
    remote.reads.clear()
    assert entry.read(0, start, stop) == data[start:stop]
    first, last = start // chunk, (stop - 1) // chunk
    expected = min((last + 1) * chunk, len(data)) - first * chunk
    assert remote.reads == [(32 + first * chunk, expected)]


def long_blob():
    data = entrydata.noise(12_000_000)
    return Remote(data), data


LONG = long_blob()


def test_bytes_that_changed_on_the_way_are_never_handed_out():
    data = FRAMES[0] + FRAMES[1]
    remote = Remote({"blob": data})
    entry = remote.open()
    assert entry.read(0, 0, 10) == data[:10]
    remote.bytes = remote.bytes[:100] + bytes([remote.bytes[100] ^ 1]) + remote.bytes[101:]
    with pytest.raises(_core.DamagedError):
        entry.read(0, 0, 10)
    with pytest.raises(_core.DamagedError):
        entry.read(0, len(data) - 1)


def test_a_reader_that_fails_says_so_itself():
    class Down(Exception):
        pass

    remote = Remote({"blob": FRAMES[0]})
    entry = remote.open()

    def refuse(offset, size):
        raise Down

    remote.read = refuse
    again = Remote({"blob": FRAMES[0]})
    with pytest.raises(Down):
        _core.Entry.from_reader(len(again.bytes), refuse, KEY)
    assert entry.read(0) == FRAMES[0]
