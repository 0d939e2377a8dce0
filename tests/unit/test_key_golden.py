"""Golden vectors: what was released is encoded, printed and identified the same for ever."""

import pytest
from support import keytwin
from support.keydata import from_json, load

from cogcache import _core
from cogcache.keys import Key
from cogcache.sources import SourceRef
from cogcache.uris import file_uri, place_of

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("row", load("values"), ids=lambda row: row["encoding"][:40])
def test_a_value_has_its_golden_encoding(row):
    value = from_json(row["value"])

    assert _core.encode_key_value(value).hex() == row["encoding"]
    assert keytwin.item(value).hex() == row["encoding"]


def test_golden_values_with_one_encoding_are_equal_numbers():
    by_encoding = {}
    for row in load("values"):
        by_encoding.setdefault(row["encoding"], []).append(from_json(row["value"]))

    shared = [values for values in by_encoding.values() if len(values) > 1]

    # 0, 0.0 and -0.0; 30, 30.0 and 30/1; and two spellings of one map.
    assert sorted(map(len, shared)) == [2, 3, 3]
    assert all(value == values[0] for values in shared for value in values)


@pytest.mark.parametrize("row", load("keys"), ids=lambda row: row["digest"][:8])
def test_a_key_has_its_golden_encoding_digest_and_print(row):
    key = Key(
        row["profile"], bytes.fromhex(row["source"]), row["artifact"], from_json(row["params"])
    )

    assert key.encoded.hex() == row["encoding"]
    assert key.digest.hex() == row["digest"]
    assert str(key) == row["printed"]


@pytest.mark.parametrize("row", load("keys"), ids=lambda row: row["digest"][:8])
def test_a_golden_key_comes_back_from_print_and_from_encoding(row):
    from_print = Key.parse(row["printed"])
    from_encoding = Key.from_encoded(bytes.fromhex(row["encoding"]))

    assert from_print == from_encoding
    assert from_print.encoded.hex() == row["encoding"]
    assert str(from_encoding) == row["printed"]
    assert from_print.profile == row["profile"]
    assert from_print.source.hex() == row["source"]
    assert from_print.artifact == row["artifact"]


@pytest.mark.parametrize("row", load("raw"), ids=lambda row: row["digest"][:8])
def test_a_raw_key_has_its_golden_encoding(row):
    key = Key.parse(row["text"])

    assert key.text == str(key) == row["text"]
    assert key.encoded.hex() == _core.raw_key(row["text"]).hex() == row["encoding"]
    assert key.digest.hex() == row["digest"]


@pytest.mark.parametrize("row", load("identities"), ids=lambda row: row["fingerprint"][:8])
def test_an_identity_has_its_golden_fingerprint(row):
    identity = from_json(row["identity"])
    uri = identity[1] if identity[0] in ("stat", "etag", "absent", "opaque") else "file:///v"
    ref = SourceRef.from_identity(identity, uri=uri)

    assert ref is not None
    assert ref.identity == identity
    assert ref.fingerprint.hex() == row["fingerprint"]
    assert keytwin.fingerprint(identity).hex() == row["fingerprint"]


@pytest.mark.parametrize("row", load("uris"), ids=lambda row: row["source"][:60])
def test_an_opaque_source_has_its_golden_uri(row):
    assert place_of(row["source"]).uri == row["uri"]
    assert place_of(row["source"].encode()).uri == row["uri"]
    assert keytwin.uri(row["source"]) == row["uri"]


@pytest.mark.parametrize("row", load("paths"), ids=lambda row: row["path"])
def test_a_path_has_its_golden_uri(row):
    path = bytes.fromhex(row["path"])

    assert file_uri(path) == row["uri"]
    assert keytwin.path_uri(path) == row["uri"]
