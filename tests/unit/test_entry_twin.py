"""The core and the plain decoder agree: on what was written, and on what somebody made in bad
faith."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import entrydata
from support import entrydecoder as plain
from support.entrydecoder import ARRAY, BLOB, DOC, FRAME, STORED, ZSTD, Draft, Format, Slot

from cogcache import _core

KEY = entrydata.KEY

formats = st.builds(
    Format,
    codec=st.sampled_from([STORED, ZSTD]),
    filter=st.sampled_from([0, 1, 2]),
    element_size=st.integers(1, 9),
    align=st.sampled_from([0, 0, 3, 6, 12]),
    chunk_size=st.sampled_from([1, 7, 64, 100, 5 << 20]),
)
datas = st.one_of(st.binary(max_size=80), st.integers(0, 300).map(entrydata.prose))
names = st.one_of(st.integers(0, 2000).map(lambda n: b"%d" % n), st.binary(max_size=12))
parts = st.lists(
    st.builds(Draft, st.sampled_from([ARRAY, BLOB, FRAME, 0x42, 0x90]), names, datas, formats),
    max_size=8,
    unique_by=lambda draft: (draft.kind, draft.name),
)


@settings(max_examples=150, deadline=None)
@given(parts, st.booleans(), st.sampled_from([STORED, ZSTD]), st.binary(max_size=40))
def test_whatever_the_plain_encoder_writes_the_core_reads(drafts, doc, index_codec, key):
    if doc:
        drafts = [*drafts, Draft(DOC, b"", entrydata.DOCUMENT)]
    image = plain.encode(key, drafts, index_codec=index_codec, meta=entrydata.META)
    entry = _core.Entry.from_bytes(image, key)
    entry.verify()
    assert entry.meta == {1: entrydata.NOW}
    for draft, part in zip(drafts, entry.parts(), strict=True):
        assert entry.read(part.number) == draft.data
        for start in range(0, len(draft.data) + 1, 13):
            stop = min(start + 29, len(draft.data))
            assert entry.read(part.number, start, stop) == draft.data[start:stop]


def written(value: object, **how: bool) -> bytes:
    draft = _core.Draft(
        value,
        KEY,
        meta={1: entrydata.NOW},
        refreshed_ms=entrydata.NOW,
        ttl_ms=entrydata.WEEK,
        token=77,
        **how,
    )
    return draft.compose().tobytes()


VALUES = [
    None,
    "abcdef",
    {"frames": [{"id": i, "text": "a man walks"} for i in range(50)]},
    {"blob": entrydata.noise(10_000), "text": "x" * 9000, "more": [entrydata.noise(5000, 2)] * 3},
    [entrydata.noise(5000, i) for i in range(200)],
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("compress", [False, True])
def test_what_the_core_writes_the_plain_decoder_reads(value, compress):
    image = written(value, compress=compress)
    found = plain.decode(image, KEY)
    assert found.token == 77
    assert found.metadata == {1: entrydata.NOW}
    assert found.fresh == Slot(1, entrydata.NOW, entrydata.WEEK)
    entry = _core.Entry.from_bytes(image)
    for part in found.parts:
        assert found.read(part) == entry.read(part.number)


@pytest.mark.parametrize("value", VALUES)
def test_core_and_plain_encoder_write_the_same_bytes(value):
    image = written(value, compress=False)
    found = plain.decode(image)
    drafts = [Draft(part.kind, part.name, found.read(part), part.format) for part in found.parts]
    again = plain.encode(
        KEY,
        drafts,
        meta=found.meta,
        token=77,
        slots=(Slot(1, entrydata.NOW, entrydata.WEEK), None),
        index_codec=found.index_codec,
    )
    assert found.index_codec == STORED
    assert again == image


def test_a_refresh_by_the_page_is_what_the_core_takes_for_current():
    image = entrydata.CASES["specification"]()
    for step in range(1, 5):
        image = plain.refreshed(image, Slot(0, entrydata.NOW + step, entrydata.WEEK))
        assert _core.Entry.from_bytes(image).refreshed_ms == entrydata.NOW + step
        assert plain.decode(image).fresh == Slot(1 + step, entrydata.NOW + step, entrydata.WEEK)


# --- in bad faith: the index is changed and every checksum computed anew -------------------------

SUBJECTS = [
    "specification",
    "codec-zstd",
    "filter-bitshuffle-zstd-3",
    "kinds",
    "names",
    "alignment",
]
INTERESTING = (0, 1, 2, 3, 4, 7, 8, 16, 17, 63, 64, 65, 127, 128, 240, 254, 255)


def forged(image: bytes, rounds: int) -> Iterator[bytes]:
    """The image with bytes of index, slots and footer changed, all checksums right."""
    choice = random.Random(5)
    index = int.from_bytes(image[-32:-28], "little")
    start, stop = len(image) - 112 - index, len(image) - 8
    for at in range(start, stop):
        for value in choice.sample(INTERESTING, 3):
            yield plain.reseal(image[:at] + bytes([value]) + image[at + 1 :])
    for _ in range(rounds):
        copy = bytearray(image)
        for _ in range(choice.randint(2, 4)):
            copy[choice.randrange(start, stop)] = choice.choice(
                (*INTERESTING, choice.randrange(256))
            )
        yield plain.reseal(bytes(copy))


def by_the_page(image: bytes) -> tuple[object, ...]:
    try:
        found = plain.decode(image)
    except plain.DamagedContainer:
        return ("damaged",)
    except plain.ForeignContainer:
        return ("foreign",)
    seen: list[object] = []
    for part in found.parts:
        if part.raw_size > 1 << 20:
            continue
        try:
            seen.append(found.read(part))
        except plain.DamagedContainer:
            seen.append("damaged")
        except plain.UnsupportedPart:
            seen.append("unsupported")
    fresh = found.fresh
    return (found.key, [part.raw_size for part in found.parts], fresh and fresh.refreshed, seen)


def by_the_core(image: bytes) -> tuple[object, ...]:
    try:
        entry = _core.Entry.from_bytes(image)
    except _core.DamagedError:
        return ("damaged",)
    except _core.ForeignError:
        return ("foreign",)
    seen: list[object] = []
    for part in entry.parts():
        if part.raw_size > 1 << 20:
            continue
        try:
            seen.append(entry.read(part.number))
        except _core.DamagedError:
            seen.append("damaged")
        except _core.UnsupportedError:
            seen.append("unsupported")
    fresh = plain.decode(image).fresh
    return (
        entry.key,
        [part.raw_size for part in entry.parts()],
        fresh and entry.refreshed_ms,
        seen,
    )


@pytest.mark.parametrize("name", SUBJECTS)
def test_core_and_page_agree_on_a_forged_index(name, request):
    image = entrydata.CASES[name]()
    verdicts = {"damaged": 0, "foreign": 0, "ok": 0}
    for changed in forged(image, rounds=400):
        expected = by_the_page(changed)
        assert by_the_core(changed) == expected, changed.hex()
        verdicts[str(expected[0]) if len(expected) == 1 else "ok"] += 1
    # The comparison means something: all three answers were given.
    assert min(verdicts.values()) > 5


def test_the_comparison_notices_a_difference(monkeypatch):
    """A page that forgot that parts must end at the index disagrees with the core soon."""
    image = entrydata.CASES["codec-zstd"]()
    honest = plain.need
    monkeypatch.setattr(plain, "need", lambda held, what: what == "tiling" or honest(held, what))
    assert any(by_the_core(changed) != by_the_page(changed) for changed in forged(image, 0))
