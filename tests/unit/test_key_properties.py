"""What must hold for all keys: injective, order-free, reversible, and the same from C as from the
twin."""

import json
import math
import os
import random
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from support import keytwin

from cogcache import _core
from cogcache.keys import Key, key_bytes
from cogcache.sources import SourceRef

TORTURE = os.environ.get("COGCACHE_TORTURE", "0") not in ("", "0")
MANY = settings(
    max_examples=20_000 if TORTURE else 150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Marks of the grammar, quotes, escapes, controls, what folds or normalises, words of the form.
HOSTILE = st.text(
    st.one_of(
        st.sampled_from(
            list(":=%*'\"/\\,[]{}~+ \n\r\t\x7f\x85\x1b.-0123456789abcdefxsblmAéÅ\u0301")
        ),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    max_size=90,
) | st.sampled_from(["", "null", "true", "1", "1.0", "nan", "video", "raw", "params", "~", "%3A"])
NAMES = HOSTILE.filter(bool)
NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.floats(width=32),
    st.fractions(),
    st.sampled_from([0.1, 2.0**53, 2**53 + 1, 2.0**63, -(2.0**63), 5e-324, 1e300, -0.0]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, HOSTILE, st.binary(max_size=80))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(HOSTILE, inner, max_size=4),
    max_leaves=8,
)
PARAMS = st.dictionaries(NAMES, VALUES, max_size=5) | st.fixed_dictionaries(
    {"params": st.dictionaries(HOSTILE, VALUES, max_size=4), "model": HOSTILE}
)
SOURCES = st.binary(min_size=16, max_size=16)
KEYS = st.tuples(HOSTILE, SOURCES, NAMES, PARAMS)


def canonical(value):
    """What makes two values the same input, said once more and differently: no bytes in it."""
    if value is None or isinstance(value, bool | str | bytes):
        return (type(value).__name__, value)
    if isinstance(value, float) and not math.isfinite(value):
        return ("special", str(value))
    if isinstance(value, int | float | Fraction):
        return ("number", Fraction(value))
    if isinstance(value, list | tuple):
        return ("list", *map(canonical, value))
    return ("map", frozenset((name, canonical(item)) for name, item in value.items()))


@MANY
@given(KEYS)
def test_the_core_encodes_and_prints_what_the_specification_says(fields):
    key = Key(*fields)

    assert key.encoded == keytwin.key(*fields)
    assert str(key) == keytwin.print_key(*fields)


def random_value(chance, depth=0):
    kind = chance.randrange(11 if depth < 3 else 9)
    if kind == 0:
        return chance.choice([None, True, False, math.nan, math.inf, -math.inf, 0, "", b""])
    if kind in (1, 2):
        return chance.randrange(-(10**6), 10**6) << chance.choice([0, 0, 0, 40, 60, 200])
    if kind == 3:
        return Fraction(chance.randrange(-(10**6), 10**6), chance.randrange(1, 10**4))
    if kind in (4, 5):
        number = chance.getrandbits(64).to_bytes(8, "little")
        return struct.unpack("<d", number)[0] if kind == 4 else round(chance.random(), 3)
    if kind == 6:
        return chance.randbytes(chance.choice([3, 64, 65, 200]))
    if kind in (7, 8):
        letters = "ab:=%*'é\u0301😀\n\x7f,[]{}~"
        return "".join(chance.choices(letters, k=chance.choice([0, 1, 5, 30, 64, 65])))
    count = chance.randrange(5)
    if kind == 9:
        return [random_value(chance, depth + 1) for _ in range(count)]
    return {random_name(chance): random_value(chance, depth + 1) for _ in range(count)}


def random_name(chance):
    return "".join(chance.choices("abcé:'%*=xyz_", k=chance.randrange(1, 6)))


def compare_with_twin(count):
    chance = random.Random(2025)
    for _ in range(count):
        params = {random_name(chance): random_value(chance) for _ in range(chance.randrange(6))}
        if chance.random() < 0.2:
            params["params"] = {random_name(chance): random_value(chance) for _ in range(3)}
        fields = (random_name(chance)[1:], chance.randbytes(16), random_name(chance), params)
        key = Key(*fields)
        assert key.encoded == keytwin.key(*fields), fields
        assert str(key) == keytwin.print_key(*fields), fields
        assert Key.parse(str(key)) == key, fields


def test_thousands_of_random_keys_are_the_same_from_the_core_and_from_the_twin():
    compare_with_twin(4_000)


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_a_hundred_thousand_random_keys_are_the_same_from_the_core_and_from_the_twin():
    compare_with_twin(100_000)


@MANY
@given(VALUES, VALUES)
@example(1, True)
@example(1, "1")
@example(None, "")
@example({"a": [1]}, {"a": 1})
@example("a:b", "a/b")
@example(2**53 + 1, float(2**53 + 1))
@example(["a", "b"], ["ab"])
@example([["a"], "b"], [["a", "b"]])
@example(b"a", "a")
@example(0.1, Fraction(1, 10))
def test_two_values_share_an_encoding_only_if_they_are_the_same(left, right):
    same = canonical(left) == canonical(right)

    assert (_core.encode_key_value(left) == _core.encode_key_value(right)) == same


@MANY
@given(KEYS, KEYS, st.integers(0, 3))
def test_keys_that_differ_in_one_field_differ(one, other, field):
    changed = list(one)
    changed[field] = other[field]
    same = canonical(list(one)) == canonical(changed)
    left, right = Key(*one), Key(*changed)

    assert (left == right) == (str(left) == str(right)) == (left.digest == right.digest) == same


@given(PARAMS, st.randoms(use_true_random=False))
def test_the_order_of_parameters_and_maps_is_free(params, chance):
    def shuffled(value):
        if isinstance(value, dict):
            names = list(value)
            chance.shuffle(names)
            return {name: shuffled(value[name]) for name in names}
        if isinstance(value, list):
            return tuple(map(shuffled, value))
        return value

    assert Key("", bytes(16), "a", params) == Key("", bytes(16), "a", shuffled(params))


@MANY
@given(KEYS)
def test_a_printed_key_parses_to_the_same_key(fields):
    key = Key(*fields)
    parsed = Key.parse(str(key))

    assert parsed == key
    assert parsed.text is None
    assert (parsed.profile, parsed.source, parsed.artifact) == fields[:3]
    assert str(parsed) == str(key)
    assert key_bytes(str(key)) == key_bytes(key) == key.encoded
    assert Key.from_encoded(key.encoded) == key


@given(KEYS)
def test_a_printed_key_has_no_star_and_no_control_character(fields):
    printed = str(Key(*fields))

    assert "*" not in printed
    assert all(ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0 for c in printed)


@given(KEYS)
def test_the_parts_of_a_printed_key_are_its_segments(fields):
    printed = str(Key(*fields)).split(":")
    head = 4 if fields[0] else 3

    assert len(printed) == head + len(fields[3])
    assert printed[head - 3] == "video"


@MANY
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_every_text_is_a_key_and_prints_as_itself(text):
    key = Key.parse(text)

    assert str(key) == text
    assert key_bytes(text) == key.encoded


@MANY
@given(KEYS, st.data())
def test_a_mangled_printed_key_still_prints_as_itself(fields, data):
    printed = str(Key(*fields))
    at = data.draw(st.integers(0, len(printed)))
    cut = data.draw(st.integers(0, 3))
    extra = data.draw(
        st.sampled_from(["", "'", ":", "=", "%", "%3a", "0", "x", "-", ",", " ", "~"])
    )
    mangled = printed[:at] + extra + printed[at + cut :]
    assume(mangled and mangled != printed)

    key = Key.parse(mangled)

    assert str(key) == mangled
    assert key != Key(*fields)


@MANY
@given(st.binary(max_size=60))
def test_reading_any_bytes_as_an_encoding_is_a_key_or_a_value_error(data):
    check_read(data)


@MANY
@given(KEYS, st.data())
def test_reading_a_mangled_encoding_is_another_key_or_a_value_error(fields, data):
    encoded = bytearray(Key(*fields).encoded)
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))

    check_read(bytes(encoded))
    check_read(bytes(encoded[:at]))


def check_read(data):
    try:
        key = Key.from_encoded(data)
    except ValueError:
        return
    assert key.encoded == data


PROGRAM = """
import json, sys
from support.keydata import from_json
from cogcache.keys import Key
rows = json.load(sys.stdin)
keys = [Key(r[0], bytes.fromhex(r[1]), r[2], from_json(r[3])) for r in rows]
names = {"a", "b", "c", "threshold", "model"}  # iterates in another order for each hash seed
keys.append(Key("", bytes(16), "s", dict.fromkeys(names)))
print(json.dumps([k.encoded.hex() for k in keys]))
"""


@pytest.mark.parametrize("seed", ["0", "1", "4711", "random"])
def test_keys_are_equal_in_other_processes_and_under_other_hash_seeds(seed):
    chance = random.Random(7)
    rows, expected = [], []
    for number in range(50):
        params = {f"p{chance.randrange(10**9)}": number for _ in range(chance.randrange(8))}
        params = dict(sorted(params.items(), key=lambda _: chance.random()))
        source = chance.randbytes(16)
        typed = {"map": [[name, {"int": str(value)}] for name, value in params.items()]}
        rows.append(["profile", source.hex(), "artifact", typed])
        expected.append(Key("profile", source, "artifact", params).encoded.hex())
    names = dict.fromkeys(["a", "b", "c", "threshold", "model"])
    expected.append(Key("", bytes(16), "s", names).encoded.hex())

    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env=os.environ
        | {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"},
    )

    assert json.loads(done.stdout) == expected


def collisions(count):
    fingerprints, digests = set(), set()
    for number in range(count):
        ref = SourceRef(f"file:///videos/{number % 997}/{number}.mp4", "stat", number % 7, number)
        key = Key("", ref, "transcript", {"model": "base", "lang": "auto"})
        fingerprints.add(ref.fingerprint)
        digests.add(key.digest)
    return 2 * count - len(fingerprints) - len(digests)


def test_no_two_of_a_hundred_thousand_sources_share_a_key():
    assert collisions(100_000) == 0


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_no_two_of_a_million_sources_share_a_key():
    assert collisions(1_000_000) == 0
