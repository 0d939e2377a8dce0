"""Golden containers: every release reads them, and so does a decoder written from docs/format.md
alone."""

import json
import re
from pathlib import Path

import pytest
import xxhash
from support import entrydata, entrydecoder

from cogcache import _core

LISTING = json.loads((entrydata.DATA / "entries.json").read_text())
READABLE = [name for name, found in LISTING.items() if found["verdict"] == "ok"]
FOREIGN = [name for name, found in LISTING.items() if found["verdict"] == "foreign"]
DOCS = Path(__file__).parents[2] / "docs" / "format.md"

KINDS = {0x10: "array", 0x18: "blob", 0x20: "frame", 0x30: "entry", 0xF0: "doc"}


def image_of(name: str) -> bytes:
    return (entrydata.DATA / f"{name}.bin").read_bytes()


def open_through_reader(image: bytes) -> tuple[_core.Entry, list[tuple[int, int]]]:
    reads: list[tuple[int, int]] = []

    def read(offset: int, size: int) -> bytes:
        reads.append((offset, size))
        return image[offset : offset + size]

    return _core.Entry.from_reader(len(image), read), reads


def test_every_golden_file_is_listed_and_every_listed_one_is_there():
    assert {path.stem for path in entrydata.DATA.glob("*.bin")} == set(LISTING)
    assert set(LISTING) == set(entrydata.CASES)
    assert len(READABLE) > 35
    assert len(FOREIGN) == 4


@pytest.mark.parametrize("name", READABLE)
def test_the_plain_decoder_finds_what_is_listed(name):
    assert entrydata.describe(image_of(name)) == LISTING[name]


@pytest.mark.parametrize("way", ["memory", "reader"])
@pytest.mark.parametrize("name", READABLE)
def test_the_core_finds_what_is_listed(name, way):
    image, found = image_of(name), LISTING[name]
    entry = _core.Entry.from_bytes(image)
    if way == "reader":
        entry, _ = open_through_reader(image)
    assert (entry.key.hex(), entry.token) == (found["key"], found["token"])
    assert entry.length == len(image)
    entry.verify()
    parts = entry.parts()
    assert len(parts) == len(found["parts"])
    for part, expected in zip(parts, found["parts"], strict=True):
        assert part.kind == KINDS.get(expected["kind"], f"{expected['kind']:#04x}")
        assert (part.codec, part.filter) == (expected["codec"], expected["filter"])
        assert (part.raw_size, part.stored_size) == (expected["raw_size"], expected["stored_size"])
        assert (part.chunk_size, part.chunk_count) == (expected["chunk_size"], expected["chunks"])
        if bytes.fromhex(expected["name"]) == part.name.encode():
            assert entry.find(part.kind, part.name) == part
        else:  # not UTF-8: shown escaped
            assert bytes.fromhex(expected["name"]).decode(errors="backslashreplace") == part.name
        if expected["digest"] is None:
            with pytest.raises(_core.UnsupportedError, match="unsupported"):
                entry.read(part.number)
        else:
            data = entry.read(part.number)
            assert xxhash.xxh3_128_hexdigest(data) == expected["digest"]


@pytest.mark.parametrize("name", READABLE)
def test_the_core_finds_the_current_slot(name):
    entry, fresh = _core.Entry.from_bytes(image_of(name)), LISTING[name]["fresh"]
    if fresh is None:
        assert entry.is_expired(0)
        return
    _, _, refreshed, ttl, stale = fresh
    assert entry.refreshed_ms == refreshed
    assert entry.ttl_ms == (None if ttl == entrydecoder.NEVER else ttl)
    assert entry.stale_ms == (None if stale == entrydecoder.NEVER else stale)
    assert not entry.is_expired(refreshed)
    assert entry.is_expired(refreshed + ttl) == (ttl != entrydecoder.NEVER)


@pytest.mark.parametrize("name", FOREIGN)
def test_what_belongs_to_a_newer_version_is_foreign(name):
    with pytest.raises(_core.ForeignError):
        _core.Entry.from_bytes(image_of(name))
    with pytest.raises(entrydecoder.ForeignContainer):
        entrydecoder.decode(image_of(name))


def test_unknown_metadata_keys_are_handed_out():
    known = {1: entrydata.NOW, 7: "transcript"}
    image = image_of("metadata-unknown-keys")
    assert _core.Entry.from_bytes(image).meta == known | {40: 10, 99: "k", "x": -3}
    assert entrydecoder.decode(image).metadata == known | {40: 10, 99: "k", "x": -3}


STORED = [
    name
    for name, found in LISTING.items()
    if name != "index-zstd"
    and not any(part["codec"] == entrydecoder.ZSTD for part in found.get("parts", ()))
]


@pytest.mark.parametrize("name", STORED)
def test_the_encoder_still_writes_the_same_bytes(name):
    # What zstd makes may differ from one version of it to the next, and is left out.
    assert entrydata.CASES[name]() == image_of(name)


def test_the_example_of_the_page_is_the_golden_file():
    (block,) = re.findall(r"^head {4}8943.*?(?=^```)", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    pieces = []
    for line in block.splitlines():
        line = re.sub(r"^(head|doc|index|slot [AB]|footer|)\s+", "", line)
        pieces += list(re.split(r"\s+", re.split(r"\s{3,}|  (?=[a-z]{3})", line)[0]))
    assert bytes.fromhex("".join(pieces)) == image_of("specification")


def test_the_slices_and_planes_of_the_page():
    form = entrydecoder.Format(filter=entrydecoder.BITSHUFFLE, element_size=2)
    (example,) = re.findall(r"become `([0-9a-f ]+)`", DOCS.read_text())
    assert entrydecoder.apply_filter(form, bytes(range(19))) == bytes.fromhex(example)
