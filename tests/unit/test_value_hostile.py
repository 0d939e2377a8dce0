"""Documents that nobody here wrote, with every checksum right: a value or a verdict, never more."""

import contextlib
import random
import resource
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import entrydecoder
from support.valuedata import KEY, VALUES, document_of, draft, entry_of

from cogcache import _core
from cogcache.frames import make_bundle

KINDS = {"array": 0x10, "blob": 0x18, "frame": 0x20, "doc": 0xF0}
Part = tuple[str, str, bytes]


def entry_with(document: bytes, parts: list[Part] | None = None) -> _core.Entry:
    """A sound container around any document and parts."""
    drafts = [
        entrydecoder.Draft(KINDS[kind], name.encode(), data) for kind, name, data in parts or []
    ]
    drafts.append(entrydecoder.Draft(KINDS["doc"], b"", document))
    return _core.Entry.from_bytes(entrydecoder.encode(KEY, drafts), KEY)


def verdict_of(entry: _core.Entry, **options: Any) -> str:
    """What became of it; any other exception is the test's failure."""
    try:
        value = entry.value(**options)
        touch(value)
    except _core.DamagedError:
        return "damaged"
    except _core.UnsupportedError as error:
        assert isinstance(error.args[0], str) and len(error.args) == 2
        return str(error.args[0])
    return "value"


def touch(value: Any) -> None:
    """Use what came out, so that a dangling pointer would show."""
    stack, seen = [value], 0
    while stack and seen < 10_000:
        item = stack.pop()
        seen += 1
        if isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            stack.extend(item)
        elif hasattr(item, "tobytes"):
            item.tobytes()
        elif isinstance(item, bytes | bytearray | str):
            hash(bytes(item) if isinstance(item, bytearray) else item)


def ext(code: int, payload: bytes) -> bytes:
    return b"\xc9" + struct.pack(">IB", len(payload), code) + payload


def part_ref(number: int, role: int = 0) -> bytes:
    return ext(1, struct.pack("<IB", number, role))


def array_of(size: int) -> bytes:
    return b"\xdd" + struct.pack(">I", size)


def text(value: str) -> bytes:
    return b"\xd9" + bytes([len(value.encode())]) + value.encode()


BLOB: Part = ("blob", "0", b"x" * 5000)
ARRAY: Part = ("array", "0", bytes(8000))
FRAME: Part = ("frame", "1", b"f" * 10)

WRONG: list[tuple[str, bytes, list[Part], str]] = [
    ("nothing at all", b"", [], "damaged"),
    ("the byte that msgpack never uses", b"\xc1", [], "damaged"),
    ("two values", b"\x01\x02", [], "damaged"),
    ("text cut short", b"\xa5abc", [], "damaged"),
    ("text that is no UTF-8", b"\xa2\xff\xfe", [], "damaged"),
    ("surrogates as plain text", b"\xa3\xed\xa0\x80", [], "damaged"),
    ("a list cut short", b"\x92\x01", [], "damaged"),
    ("more items than bytes", array_of(2**32 - 1), [], "damaged"),
    ("nested lists of more items than bytes", (array_of(60) + b"\x01" * 3) * 40, [], "damaged"),
    ("equal keys", b"\x82\xa1a\x01\xa1a\x02", [], "duplicate-key"),
    ("keys that Python holds for equal", b"\x82\x01\x01\xc3\x02", [], "duplicate-key"),
    ("a list as key", b"\x81\x90\x01", [], "damaged"),
    ("a dict as key", b"\x81\x80\x01", [], "damaged"),
    ("a bytearray as key", b"\x81" + ext(16, b"a") + b"\x01", [], "damaged"),
    ("a set of lists", ext(3, b"\x91\x90"), [], "damaged"),
    ("a set of equals", ext(3, b"\x92\x01\x01"), [], "duplicate-key"),
    ("a set of a number", ext(3, b"\x01"), [], "damaged"),
    ("a tuple with bytes after it", ext(2, b"\x91\x01\x02"), [], "damaged"),
    ("a tuple that reaches past its payload", ext(2, b"\x92\x01"), [], "damaged"),
    ("an unknown extension", ext(99, b"\x01"), [], "unknown-ext"),
    ("a negative extension", b"\xd4\xff\x00", [], "unknown-ext"),
    ("a tensor", ext(22, b"\x01"), [], "unknown-ext"),
    ("extension 0", ext(0, b""), [], "unknown-ext"),
    ("no part of that number", part_ref(7), [BLOB], "damaged"),
    ("the document as a part", part_ref(1), [BLOB], "damaged"),
    ("an unknown role", part_ref(0, 3), [BLOB], "damaged"),
    ("a short reference", ext(1, b"\0\0\0\0"), [BLOB], "damaged"),
    ("one part twice", b"\x92" + part_ref(0) * 2, [BLOB], "damaged"),
    ("an array part as bytes", part_ref(0), [ARRAY], "damaged"),
    ("an array part in a list", b"\x91" + part_ref(0), [ARRAY], "damaged"),
    ("an array part as a key", b"\x81" + part_ref(0) + b"\x01", [ARRAY], "damaged"),
    ("an array part in a tuple", ext(2, b"\x91" + part_ref(0)), [ARRAY], "damaged"),
    ("an array part in a path", ext(21, b"\x92\xa5posix" + part_ref(0)), [ARRAY], "damaged"),
    ("a frame outside a bundle", part_ref(0), [FRAME], "damaged"),
    (
        "a blob as an array",
        ext(13, b"\x94" + text("<f8") + b"\x91\x01\xa1C" + part_ref(0)),
        [BLOB],
        "damaged",
    ),
    (
        "a shape too large",
        ext(13, b"\x94" + text("<f8") + b"\x91\xcd\x03\xe9\xa1C" + part_ref(0)),
        [ARRAY],
        "damaged",
    ),
    (
        "a shape that overflows",
        ext(
            13,
            b"\x94" + text("<f8") + b"\x93" + (b"\xcf" + b"\x7f" * 8) * 3 + b"\xa1C" + part_ref(0),
        ),
        [ARRAY],
        "damaged",
    ),
    (
        "a negative shape",
        ext(13, b"\x94" + text("<f8") + b"\x92\xff\xff\xa1C\xc4\x08" + bytes(8)),
        [],
        "damaged",
    ),
    (
        "a shape of texts",
        ext(13, b"\x94" + text("<f8") + b"\x91\xa1a\xa1C\xc4\x08" + bytes(8)),
        [],
        "damaged",
    ),
    (
        "too many dimensions",
        ext(13, b"\x94" + text("|u1") + b"\xdc\x00\x80" + b"\x01" * 128 + b"\xa1C\xc4\x01a"),
        [],
        "damaged",
    ),
    (
        "an order of its own",
        ext(13, b"\x94" + text("<f8") + b"\x91\x01\xa1A\xc4\x08" + bytes(8)),
        [],
        "damaged",
    ),
    ("an array of three fields", ext(13, b"\x93" + text("<f8") + b"\x91\x01\xa1C"), [], "damaged"),
    (
        "an array of objects",
        ext(13, b"\x94" + text("|O") + b"\x91\x01\xa1C\xc4\x08" + bytes(8)),
        [],
        "unknown-dtype",
    ),
    (
        "a dtype that is a program",
        ext(13, b"\x94" + text("i4,(2,3)f8") + b"\x91\x01\xa1C\xc4\x08" + bytes(8)),
        [],
        "unknown-dtype",
    ),
    (
        "a dtype that is a number",
        ext(13, b"\x94\x01\x91\x01\xa1C\xc4\x08" + bytes(8)),
        [],
        "damaged",
    ),
    (
        "a scalar of the wrong size",
        ext(14, b"\x92" + text("<f8") + b"\xc4\x04" + bytes(4)),
        [],
        "damaged",
    ),
    ("a scalar of two", ext(14, b"\x92" + text("<f4") + b"\xc4\x08" + bytes(8)), [], "damaged"),
    ("a decimal that is none", ext(9, b"one"), [], "damaged"),
    ("a short uuid", ext(10, b"1234"), [], "damaged"),
    ("a date beyond the calendar", ext(6, struct.pack("<i", 2**30)), [], "damaged"),
    ("a datetime beyond the calendar", ext(5, struct.pack("<qiB", 2**62, 0, 0)), [], "damaged"),
    ("a datetime of fold 2", ext(5, struct.pack("<qiB", 0, 0, 2)), [], "damaged"),
    ("an offset of a year", ext(5, struct.pack("<qiB", 0, 10**7, 0)), [], "damaged"),
    ("a time of 25 hours", ext(7, struct.pack("<qiB", 25 * 3600 * 10**6, 0, 0)), [], "damaged"),
    (
        "a zone that is a path",
        ext(5, struct.pack("<qiB", 0, 0, 0) + b"../../etc/passwd"),
        [],
        "unknown-zone",
    ),
    (
        "a zone of nowhere",
        ext(5, struct.pack("<qiB", 0, 0, 0) + b"Nowhere/At_All"),
        [],
        "unknown-zone",
    ),
    ("a timedelta of too many days", ext(8, struct.pack("<iii", 2**31 - 1, 0, 0)), [], "damaged"),
    ("a fraction over zero", ext(18, b"\x92\x01\x00"), [], "damaged"),
    ("a fraction of text", ext(18, b"\x92\xa11\xa12"), [], "damaged"),
    ("a path of an unknown kind", ext(21, b"\x92\xa3moon\xc4\x01a"), [], "damaged"),
    ("a path of another flavour", ext(21, b"\x92\xa4moon\xc4\x01a"), [], "unknown-type"),
    ("a type nobody registered", ext(12, b"\x93\xa1T\x01\x80"), [], "unknown-type"),
    ("a type name that is a list", ext(12, b"\x93\x90\x01\x80"), [], "unknown-type"),
    ("a type of two fields", ext(12, b"\x92\xa1T\x01"), [], "damaged"),
    ("a complex of one number", ext(19, bytes(8)), [], "damaged"),
    ("a picture of nothing", ext(15, b"\x90"), [], "damaged"),
    (
        "a raw picture of too few bytes",
        ext(15, b"\x95\xa3raw\x92\x09\x09\xa3RGB\x80\xc4\x01a"),
        [],
        "damaged",
    ),
    (
        "a picture of another mode",
        ext(15, b"\x95\xa3raw\x92\x01\x01\xa3XYZ\x80\xc4\x01a"),
        [],
        "damaged",
    ),
    (
        "a picture with a number for bytes",
        ext(15, b"\x95\xa3raw\x92\x01\x01\xa1L\x80\x05"),
        [],
        "damaged",
    ),
    ("a bundle in a list", b"\x91" + ext(23, b"\x92\x80\x90"), [], "damaged"),
    ("a bundle without frames", ext(23, b"\x91\x80"), [], "damaged"),
    ("a bundle of three", ext(23, b"\x93\x80\x90\x90"), [], "damaged"),
    ("a bundle of frames that are a map", ext(23, b"\x92\x80\x80"), [FRAME], "damaged"),
    (
        "a bundle with one id twice",
        ext(23, b"\x92\x80\x92\x92\x01\xc4\x01a\x92\xa11\xc4\x01b"),
        [FRAME],
        "damaged",
    ),
    (
        "a bundle with a float for an id",
        ext(23, b"\x92\x80\x91\x92\xcb" + bytes(8) + b"\xc4\x01a"),
        [FRAME],
        "damaged",
    ),
    (
        "a bundle with a number for a frame",
        ext(23, b"\x92\x80\x91\x92\x01\x05"),
        [FRAME],
        "damaged",
    ),
]


@pytest.mark.parametrize(
    ("document", "parts", "verdict"), [case[1:] for case in WRONG], ids=[c[0] for c in WRONG]
)
def test_malformed_documents_get_their_verdict(document: bytes, parts: list[Part], verdict: str):
    assert verdict_of(entry_with(document, parts)) == verdict


def test_every_reference_position_of_a_large_part_is_bounded():
    """A short document cannot ask for one large part again and again."""
    refs = b"".join(part_ref(0) for _ in range(1000))
    entry = entry_with(b"\xdc\x03\xe8" + refs, [("blob", "0", bytes(5_000_000))])
    assert verdict_of(entry) == "damaged"


def test_nesting_is_bounded_without_a_stack():
    for depth in (4096, 4097, 100_000, 3_000_000):
        assert verdict_of(entry_with(b"\x91" * depth + b"\x01")) in ("value", "damaged")
    assert verdict_of(entry_with(b"\x91" * 4096 + b"\x01")) == "value"
    assert verdict_of(entry_with(b"\x91" * 4097 + b"\x01")) == "damaged"
    nested = b"\x90"
    for _ in range(5000):
        nested = ext(2, b"\x91" + nested)
    assert verdict_of(entry_with(nested)) == "damaged"


def test_a_document_over_the_callers_limit_is_not_read():
    entry = entry_of(["some text"] * 1000, compress=False)
    with pytest.raises(_core.UnsupportedError, match="too-large"):
        entry.value(max_bytes=1000)
    assert len(entry.value(max_bytes=20_000)) == 1000
    packed = entry_of(["some text"] * 100_000)
    assert packed.length < 50_000
    with pytest.raises(_core.UnsupportedError, match="too-large"):
        packed.value(max_bytes=100_000)


def test_an_announced_size_takes_no_memory():
    """Documents that announce gigabytes: the process does not grow by what they say."""
    bombs = [
        array_of(2**32 - 1),
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x02",
        (array_of(250_000) + b"\x01") * 50_000,
        ext(2, array_of(2**31)),
        ext(13, b"\x94" + text("|S999999999") + b"\x91\x0f\xa1C\xc4\x01a"),
        ext(13, b"\x94" + text("<f8") + b"\x91\xce\x7f\xff\xff\xff\xa1C\xc4\x01a"),
        ext(15, b"\x95\xa3raw\x92\xce\x00\x0f\xff\xff\xce\x00\x0f\xff\xff\xa1L\x80\xc4\x01a"),
        ext(15, b"\x95\xa3raw\x92\x00\xce\x7f\xff\xff\xff\xa1L\x80\xc4\x00"),
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for bomb in bombs:
        assert verdict_of(entry_with(bomb)) == "damaged"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def originals() -> list[tuple[bytes, list[Part]]]:
    """Documents of every kind, small parts only, so that many mutants are quick."""
    made = [document_of(entry_of(make(), compress=False)) for make in VALUES.values()]
    bundle = make_bundle({"keyframes": [{}, {}]}, [b"\xff\xd8\xffone", b"two"])
    made.append(document_of(_core.Entry.from_bytes(draft(bundle).compose().tobytes())))
    return made


ORIGINALS = originals()


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four wounds: bytes changed, cut, doubled, moved, numbers at their limits."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(out) + 1)
        wound = chance.randrange(6)
        if wound == 0 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        elif wound == 1 and at < len(out):
            out[at] = chance.choice(
                (0, 1, 0x7F, 0x80, 0x90, 0xC1, 0xC7, 0xC9, 0xD4, 0xDC, 0xDF, 0xFF)
            )
        elif wound == 2:
            del out[at : at + chance.randint(1, 8)]
        elif wound == 3:
            out[at:at] = out[at : at + chance.randint(1, 16)]
        elif wound == 4:
            out[at : at + 4] = struct.pack(
                chance.choice("<>") + "I", chance.choice((0, 2**31, 2**32 - 1))
            )
        else:
            out[at:at] = bytes([chance.choice((0xC7, 0xC8, 0xD4, 0xD8)), chance.randrange(25)])
    return bytes(out)


@pytest.mark.parametrize("number", range(len(ORIGINALS)))
def test_mutants_of_every_kind_of_document(number: int):
    document, parts = ORIGINALS[number]
    chance = random.Random(number)
    verdicts = {verdict_of(entry_with(mutated(document, chance), parts)) for _ in range(60)}
    assert verdicts - {"value"}, "no mutation was noticed"


@pytest.mark.torture
@pytest.mark.parametrize("number", range(len(ORIGINALS)))
def test_many_mutants_of_every_kind_of_document(number: int):
    document, parts = ORIGINALS[number]
    chance = random.Random(1000 + number)
    for _ in range(20_000):
        entry = entry_with(mutated(document, chance), parts)
        verdict_of(entry)
        verdict_of(entry, frames=[1])


@pytest.mark.parametrize("number", range(len(ORIGINALS)))
def test_every_truncation(number: int):
    document, parts = ORIGINALS[number]
    step = max(1, len(document) // 100)
    for end in range(0, len(document), step):
        entry = entry_with(document[:end], parts)
        assert verdict_of(entry) != "value"
        assert verdict_of(entry, frames=[1]) != "value"  # nor where what is cut is not wanted


def bundle_of(*frames: bytes) -> _core.Entry:
    parts: list[Part] = [("frame", str(number), b"of %d" % number) for number in range(3)]
    return entry_with(ext(23, b"\x92\x80" + bytes([0x90 + len(frames)]) + b"".join(frames)), parts)


def frame_item(frame_id: bytes, number: int) -> bytes:
    return b"\x92" + frame_id + part_ref(number)


def test_what_is_wrong_with_a_frame_is_said_to_those_who_want_it():
    good, other = frame_item(b"\x01", 1), frame_item(b"\x02", 2)
    bad = frame_item(b"\xcb" + bytes(8), 0)  # a float for an id
    twice = frame_item(b"\xa11", 0)
    assert dict(bundle_of(good, other).value(frames=["1"])[1]) == {"1": b"of 1"}
    assert verdict_of(bundle_of(good, b"\x92\x02\x05"), frames=[1]) == "value"
    assert verdict_of(bundle_of(good, b"\x92\x02\x05"), frames=[2]) == "damaged"
    for items in ((good, bad), (bad, good), (good, twice), (good, b"\x05"), (good, b"\x91\x02")):
        assert verdict_of(bundle_of(*items), frames=[1]) == "damaged"
    assert verdict_of(bundle_of(good, b"\x92\xa1\xff" + part_ref(0)), frames=[1]) == "damaged"


def test_bytes_changed_anywhere_do_not_confuse_the_look_for_one_frame():
    document, parts = document_of(
        _core.Entry.from_bytes(
            draft(make_bundle([{}] * 40, [b"%d" % n for n in range(40)])).compose().tobytes()
        )
    )
    chance = random.Random(3)
    for _ in range(500):
        entry = entry_with(mutated(document, chance), parts)
        if verdict_of(entry, frames=[7, "33"]) == "value":
            frames = entry.value(frames=[7, "33"])[1]
            assert set(frames) <= {"7", "33"}


@given(st.binary(max_size=200), st.lists(st.binary(max_size=40), max_size=3))
@example(b"\x91" * 200, [])
def test_any_bytes_at_all(document: bytes, blobs: list[bytes]):
    parts: list[Part] = [("blob", str(i), data) for i, data in enumerate(blobs)]
    verdict_of(entry_with(document, parts))
    verdict_of(entry_with(document, parts), frames=False)
    with contextlib.suppress(_core.DamagedError, _core.UnsupportedError):
        _core.unpack(document)


def test_verdicts_are_not_confused_with_errors_of_the_reader():
    def failing(offset: int, size: int) -> bytes:
        if fail:
            raise ConnectionError("the bucket is down")
        return image[offset : offset + size]

    value = [random.Random(1).randbytes(3_000_000), b"y"]
    image = draft(value).compose().tobytes()
    fail = False
    entry = _core.Entry.from_reader(len(image), failing)
    fail = True
    with pytest.raises(ConnectionError, match="the bucket is down"):
        entry.value()
    fail = False
    assert entry.value() == value


def test_a_reader_that_gives_other_sizes_is_noticed():
    image = draft([b"x" * 200_000]).compose().tobytes()
    for answer in (lambda o, n: image[o : o + n - 1], lambda o, n: image[o : o + n] + b"!"):
        with pytest.raises(_core.DamagedError, match="bytes read where"):
            _core.Entry.from_reader(len(image), answer)
    with pytest.raises(TypeError):
        _core.Entry.from_reader(len(image), lambda o, n: "text")  # type: ignore[arg-type,return-value]
