"""docs/keys.md is the specification: every example in it is true, and its tables are complete."""

import re
from fractions import Fraction
from pathlib import Path

import pytest
from support import keytwin

from cogcache import _core
from cogcache.artifacts import ARTIFACTS, REQUIRED
from cogcache.keys import Key
from cogcache.uris import place_of

TEXT = (Path(__file__).parents[2] / "docs" / "keys.md").read_text(encoding="utf-8")


def table(header):
    """The cells of the table whose first row starts with these columns."""
    _, found, rest = TEXT.partition(f"| {header} |")
    assert found, header
    rows = rest.splitlines()[2:]
    cells = []
    for row in rows:
        if not row.startswith("|"):
            break
        cells.append([cell.strip() for cell in row.strip("|").split(" | ")])
    return cells


EXAMPLES = {
    "null": [None],
    "true": [True],
    "0, -0.0": [0, -0.0],
    "30, 30.0, 60/2": [30, 30.0, Fraction(60, 2)],
    "-1": [-1],
    "2^63": [2**63],
    "-2^63 - 1": [-(2**63) - 1],
    "0.5": [0.5, Fraction(1, 2)],
    "30000/1001": [Fraction(30000, 1001)],
    "-1/3": [Fraction(-1, 3)],
    "text, empty": [""],
    'text "1"': ["1"],
    'text "é"': ["é"],
    "bytes 00 ff": [b"\x00\xff"],
    "list of 1 and null": [[1, None], (1, None)],
    "map b: 1, a: empty list": [{"b": 1, "a": []}],
}


def test_every_example_of_an_item_is_what_is_encoded():
    rows = table("value | bytes")
    assert [name for name, _ in rows] == list(EXAMPLES)
    for name, shown in rows:
        expected = bytes.fromhex(tagged(shown.strip("`")))
        for value in EXAMPLES[name]:
            assert _core.encode_key_value(value) == expected == keytwin.item(value)


def tagged(text):
    return re.sub(r"\s", "", text)


def test_the_example_keys_are_what_is_encoded():
    blocks = re.findall(r"\n((?:    6c .*\n)(?:    .*\n)*?)    digest ([0-9a-f]{32})\n", TEXT)
    smallest, raw = Key("", bytes(16), "a"), Key.parse("a")

    assert [tagged(block) for block, _ in blocks] == [smallest.encoded.hex(), raw.encoded.hex()]
    assert [digest for _, digest in blocks] == [smallest.digest.hex(), raw.digest.hex()]


def test_the_example_of_a_folded_value_is_what_is_encoded():
    shown = re.search(r'65 times "x":\s+(64 73 [^\n]*)', TEXT)
    encoded = Key("", bytes(16), "a", {"p": "x" * 65}).encoded

    assert shown is not None
    assert encoded.endswith(bytes.fromhex(tagged(shown[1])))


def test_every_tag_of_the_item_table_is_the_letter_it_claims():
    rows = table("type | tag | body")
    tags = [re.fullmatch(r"`(.)` ([0-9a-f]{2})", row[1]) for row in rows]

    assert all(tag is not None and f"{ord(tag[1]):02x}" == tag[2] for tag in tags)
    assert {tag[1] for tag in tags if tag} == set("nfti+-r?><sblmd")


def test_every_printed_example_is_what_is_printed():
    source = bytes(16)
    keyframes = {"threshold": 0.999, "max_frames": 3000}
    keys = [
        Key("", source, "keyframes", keyframes),
        Key("a:b*", source, "keyframes", keyframes),
        Key("", source, "transcript", {"model": "base", "lang": "auto"}),
        Key("", source, "a", {"x": 1}),
        Key("", source, "a", {"x": "1"}),
        Key("", source, "a", {"x": None, "y": True, "z": Fraction(1, 3)}),
        Key("", source, "a", {"params": {"u": [1, "it's"]}}),
    ]

    assert [row[1].strip("`") for row in table("key | printed")] == [str(key) for key in keys]


def test_the_parameter_table_is_that_of_the_code():
    documented = [
        (name, argument.strip("`"), printed.strip("`"), default.partition(" = ")[0], encoded)
        for name, argument, printed, default, encoded in table(
            "artifact | argument | printed name | default | encoded"
        )
    ]
    actual = [
        (
            artifact.name,
            parameter.argument,
            parameter.printed,
            "required" if parameter.default is REQUIRED else f"`{parameter.default!r}`",
            "when set" if parameter.when_set else "always",
        )
        for artifact in ARTIFACTS.values()
        for parameter in artifact.parameters
    ]

    assert documented == actual


def documented_identity(text):
    parts = re.findall(r'"(?:\\.|[^"\\])*"|bytes [0-9a-f]+|-?\d+', text)
    return [
        part[1:-1].replace('\\"', '"')
        if part[0] == '"'
        else bytes.fromhex(part[6:])
        if part.startswith("bytes")
        else int(part)
        for part in parts
    ]


def test_every_example_of_a_fingerprint_is_what_is_computed():
    rows = table("identity | fingerprint")
    kinds = [documented_identity(identity)[0] for identity, _ in rows]

    assert kinds == [row[0] for row in table("kind | list | when")]
    for identity, fingerprint in rows:
        assert keytwin.fingerprint(documented_identity(identity)).hex() == fingerprint.strip("`")


@pytest.mark.parametrize("row", table("source | URI"), ids=lambda row: row[0][:50])
def test_every_example_of_a_uri_is_what_is_made(row):
    source, uri = row[0].strip("`"), row[1].strip("`")
    if source.startswith("path "):
        path = source[5:].encode()
        if path.endswith(b" and the byte ff"):
            path = path.removesuffix(b" and the byte ff") + b"\xff"
        assert keytwin.path_uri(path) == uri
    else:
        assert keytwin.uri(source) == uri
        place = place_of(source)
        assert (place.uri or keytwin.path_uri(place.path)) == uri
