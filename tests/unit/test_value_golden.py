"""Documents that every release reads and writes alike, and that docs/values.md alone explains."""

import json
import zlib

import pytest
from support import valuedata, valuedecoder
from support.valuedata import VALUES, document_of, entry_of

from cogcache._core import Draft, Entry
from cogcache.testing.roundtrip import _compare

GOLDEN = valuedata.DATA / "documents.json"


def described(name: str) -> dict[str, object]:
    """What is committed: the document, and of the parts their names, sizes and checksums."""
    document, parts = document_of(entry_of(VALUES[name](), compress=False))
    listed = [[kind, part, len(data), zlib.crc32(data)] for kind, part, data in parts]
    return {"document": document.hex(), "parts": listed}


def test_every_value_has_a_golden_document_and_every_document_a_value():
    assert set(json.loads(GOLDEN.read_text())) == set(VALUES)


@pytest.mark.parametrize("name", VALUES)
def test_documents_are_written_as_ever(name: str):
    assert described(name) == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("name", VALUES)
def test_a_golden_document_is_read_as_ever(name: str):
    entry = entry_of(VALUES[name]())
    assert document_of(entry)[0].hex() == json.loads(GOLDEN.read_text())[name]["document"]
    back = entry.value()
    _compare(VALUES[name](), back, "$")


@pytest.mark.parametrize("name", VALUES)
def test_a_reader_written_from_the_page_agrees(name: str):
    value = VALUES[name]()
    document, parts = document_of(entry_of(value))
    theirs = valuedecoder.decode(document, parts)
    assert matches(value, theirs), theirs


def matches(value: object, theirs: object) -> bool:
    """Equal to the bit, seen through our own encoding; registered types by their plain form."""
    return plain_document(value) == plain_document(theirs)


def plain_document(value: object) -> tuple[bytes, list[tuple[str, str, bytes]]]:
    draft = Draft(stripped(value), b"k", meta={}, refreshed_ms=0, ttl_ms=None)
    return document_of(Entry.from_bytes(draft.compose().tobytes()))


def stripped(value: object) -> object:
    """Without registered types, which the independent reader gives as it finds them."""
    if isinstance(value, valuedecoder.Registered):
        return ["registered", stripped(value.plain)]
    if isinstance(value, valuedata.Word):
        return ["registered", {name: stripped(item) for name, item in vars(value).items()}]
    if isinstance(value, valuedata.Point):
        return ["registered", (value.x, value.y)]
    if isinstance(value, valuedata.Colour | valuedata.Rights):
        named = value.name in type(value).__members__
        return ["registered", value.name if named else value.value]
    if isinstance(value, dict):
        return {key: stripped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [stripped(item) for item in value]
    if isinstance(value, tuple):
        return tuple(stripped(item) for item in value)
    return value


if __name__ == "__main__":  # write the golden file anew: only for a new value
    valuedata.DATA.mkdir(exist_ok=True)
    made = {name: described(name) for name in VALUES}
    GOLDEN.write_text(json.dumps(made, indent=1) + "\n")
