"""`Key`: frozen, comparable, explained, and the same namespace as its text."""

import copy
import gc
import inspect
import math
import operator
import pickle
import sys
from fractions import Fraction
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest
from support import keytwin

from cogcache import _core
from cogcache.keys import Key, LongValue, key_bytes
from cogcache.sources import SourceRef

SOURCE = bytes(range(16))
REF = SourceRef("file:///videos/a.mp4", "stat", 1000, 1763700000123456789)


def test_a_key_is_frozen_hashable_and_picklable():
    key = Key("p", REF, "descriptions", {"prompt": "x" * 100, "n": 1})

    for name in ("profile", "encoded", "anything"):
        with pytest.raises(AttributeError):
            setattr(key, name, "other")
        with pytest.raises(AttributeError):
            delattr(key, name)
    assert copy.copy(key) is copy.deepcopy(key) is key
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(key, protocol))
        assert back == key
        assert hash(back) == hash(key)
        assert back.origin == REF
        assert back.long_values == {"prompt": "x" * 100}
        assert (back.profile, back.source, back.artifact) == ("p", REF.fingerprint, "descriptions")
    raw = Key.parse("my:key")
    assert pickle.loads(pickle.dumps(raw)) == raw
    assert pickle.loads(pickle.dumps(raw)).text == "my:key"


def test_a_key_is_not_its_text_in_a_dict_but_in_a_cache():
    key = Key("", SOURCE, "transcript", {"model": "base", "lang": "auto"})

    assert key != str(key)
    assert key_bytes(key) == key_bytes(str(key)) == key.encoded


def test_no_profile_is_the_empty_one():
    assert Key(None, SOURCE, "a") == Key("", SOURCE, "a")
    assert Key("a", SOURCE, "a") != Key("", SOURCE, "a")
    assert Key("a", SOURCE, "a").profile == "a"


def test_a_later_change_of_an_argument_changes_no_key():
    sizes = [1, 2]
    params = {"sizes": sizes, "long": ["x" * 100]}
    key = Key("", SOURCE, "a", params)
    before = str(key), key.params, key.long_values

    sizes.append(3)
    params["long"].append("y")
    key.params["other"] = 1

    assert (str(key), key.params, key.long_values) == before


def test_params_are_plain_values_again():
    key = Key("", SOURCE, "a", {"f": 0.999, "i": 30.0, "l": [1, {"m": None}], "n": math.inf})

    assert key.params == {"f": 0.999, "i": 30, "l": (1, {"m": None}), "n": math.inf}
    assert isinstance(key.params["i"], int)


def test_a_long_value_is_in_the_key_as_digest_and_kept_beside_it():
    prompt, system = "Describe the frame. " * 50, b"\0" * 65
    key = Key("", SOURCE, "d", {"prompt": prompt, "params": {"system": system, "short": "s"}})
    parsed = Key.parse(str(key))

    assert key.params["prompt"] == LongValue("s", keytwin.hash128(keytwin.item(prompt)), 1000)
    assert key.long_values == {"prompt": prompt, "params": {"system": keytwin.item(system)}}
    assert prompt[:20] not in str(key)
    assert f"prompt=~{key.params['prompt'].digest.hex()}+1000s" in str(key)
    assert parsed == key
    assert parsed.long_values == {}
    assert len(key.encoded) < 300


@pytest.mark.parametrize(
    ("value", "folded"),
    [
        ("x" * 64, False),
        ("x" * 65, True),
        ("é" * 32, False),
        ("é" * 33, True),
        (b"x" * 64, False),
        (b"x" * 65, True),
        ([1] * 6, False),  # 5 + 6 * 9 = 59 bytes
        ([1] * 7, True),
        ({"a": "y" * 47}, False),  # 5 + 6 + 5 + 48 = 63 and 64 bytes
        ({"a": "y" * 48}, False),
        ({"a": "y" * 49}, True),
        (10**100, False),
        (1e-300, False),
    ],
    ids=lambda value: str(value)[:12],
)
def test_what_is_over_64_bytes_is_folded_as_a_whole(value, folded):
    top = Key("", SOURCE, "a", {"x": value})
    inside = Key("", SOURCE, "a", {"params": {"x": value}})
    deeper = Key("", SOURCE, "a", {"other": {"x": value}})

    assert isinstance(top.params["x"], LongValue) == folded
    assert isinstance(inside.params["params"]["x"], LongValue) == folded
    assert not isinstance(top.params["x"], LongValue) or isinstance(
        deeper.params["other"], LongValue
    )


def test_a_sub_map_is_never_folded_itself():
    many = {f"name{i}": i for i in range(50)}

    assert Key("", SOURCE, "a", {"params": many}).params == {"params": many}
    assert isinstance(Key("", SOURCE, "a", {"x": many}).params["x"], LongValue)


def test_long_values_are_compared_where_both_sides_know_them():
    key = Key("", SOURCE, "d", {"prompt": "x" * 100, "params": {"p": "y" * 100}})

    assert key.matches_long_values(key.long_values)
    assert key.matches_long_values({})
    assert key.matches_long_values({"params": {}})
    assert key.matches_long_values({"prompt": "x" * 100, "params": None})
    assert not key.matches_long_values({"prompt": "x" * 101})
    assert not key.matches_long_values({"params": {"p": "z" * 100}})
    assert not key.matches_long_values({"params": {"p": b"y" * 100}})
    assert not key.matches_long_values({"params": {"p": 5}})
    assert Key.parse(str(key)).matches_long_values({"prompt": "anything"})


def test_long_values_of_every_type_can_be_kept_in_metadata():
    value = [Fraction(1, 3), 10**30, math.nan, (1, None), {"a": b"x" * 70}]
    key = Key("", SOURCE, "d", {"x": value, "params": {"y": {"z": value}}, "prompt": "é" * 50})
    kept = _core.unpack(_core.pack(key.long_values))

    assert kept == key.long_values
    assert kept["prompt"] == "é" * 50
    assert kept["x"] == keytwin.item(value)
    assert key.matches_long_values(kept)
    other = Key("", SOURCE, "d", {"x": [*value, 1]})
    assert not other.matches_long_values(kept)


def test_long_values_have_a_limit_that_is_named():
    Key("", SOURCE, "a", {"x": "x" * 900_000})
    for params in (
        {"x": "x" * 983_041},
        {"x": b"x" * 983_041},
        {"x": "x" * 600_000, "y": "y" * 600_000},
        {"x": [["x" * 1000] * 1000]},
        {"x": list(range(200_000))},
        {"params": {"x": "x" * 1_000_000}},
    ):
        with pytest.raises(ValueError, match=r"^\$\..*983,040 bytes"):
            Key("", SOURCE, "a", params)


def test_a_key_has_a_limit_that_is_named():
    with pytest.raises(ValueError, match="65,536"):
        Key("", SOURCE, "a", {f"p{i}": "x" * 60 for i in range(1000)})
    with pytest.raises(ValueError, match="65,536"):
        Key("p" * 65_536, SOURCE, "a")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", ["1 to 65000", "0"]),
        ("x" * 65_001, ["65000", "65001"]),
        ("é" * 32_501, ["65000", "65002"]),
        ("a\0b", ["NUL"]),
        ("a\ud800", ["surrogate"]),
        ("x" * 2**20, ["65000"]),
    ],
    ids=["empty", "long", "long in bytes", "nul", "surrogate", "1 MB"],
)
def test_a_raw_key_that_cannot_be_is_a_value_error(key, words):
    for make in (Key.parse, key_bytes, _core.raw_key):
        with pytest.raises(ValueError, match=".*".join(words)):
            make(key)


def test_the_longest_raw_key_is_a_key():
    assert Key.parse("x" * 65_000).text == "x" * 65_000
    assert key_bytes("é" * 32_500) == keytwin.raw_key("é" * 32_500)


@pytest.mark.parametrize("key", [None, 1, b"a", ["a"], object()])
def test_what_is_no_key_is_a_type_error(key):
    for make in (Key.parse, key_bytes):
        with pytest.raises(TypeError, match=type(key).__name__):
            make(key)


@pytest.mark.parametrize("source", [b"", b"x" * 15, b"x" * 17])
def test_a_source_that_is_no_fingerprint_is_a_type_error(source):
    with pytest.raises(TypeError, match="16 bytes"):
        Key("", source, "a")


@pytest.mark.parametrize(
    "text",
    [
        "video:abc:keyframes:threshold=0.999",
        "video:0011223344556677:transcript:lang=auto:model=base",
        f"video:{'0' * 32}",
        f"video:{'0' * 31}G:a",
        f"video:{'A' * 32}:a",
        f"Video:{'0' * 32}:a",
        f"audio:{'0' * 32}:a",
        f":video:{'0' * 32}:a",
        f"video:{'0' * 32}:",
        f"video:{'0' * 32}:a:",
        f"video:{'0' * 32}:a:b",
        f"video:{'0' * 32}:a:=1",
        f"video:{'0' * 32}:a:b=1.0",
        f"video:{'0' * 32}:a:b=01",
        f"video:{'0' * 32}:a:b=+1",
        f"video:{'0' * 32}:a:b=1_0",
        f"video:{'0' * 32}:a:b=0x1",
        f"video:{'0' * 32}:a:b=2/4",
        f"video:{'0' * 32}:a:b=1/2",
        f"video:{'0' * 32}:a:b=1/0",
        f"video:{'0' * 32}:a:b=Null",
        f"video:{'0' * 32}:a:b=base",
        f"video:{'0' * 32}:a:b='base",
        f"video:{'0' * 32}:a:b='%61'",
        f"video:{'0' * 32}:a:b='%3a'",
        f"video:{'0' * 32}:a:b='%FF'",
        f"video:{'0' * 32}:a:b='%00'",
        f"video:{'0' * 32}:a:b='*'",
        f"video:{'0' * 32}:a:b=x'F0'",
        f"video:{'0' * 32}:a:b=[1, 2]",
        f"video:{'0' * 32}:a:b=[1,]",
        f"video:{'0' * 32}:a:b=[" + "[" * 10_000,
        f"video:{'0' * 32}:a:b={{'b'=1,'a'=2}}",
        f"video:{'0' * 32}:a:b=~{'0' * 32}+64s",
        f"video:{'0' * 32}:a:b=~{'0' * 32}+99999999999s",
        f"video:{'0' * 32}:a:b=[~{'0' * 32}+65s]",
        f"video:{'0' * 32}:a:b=1:b=1",
        f"video:{'0' * 32}:a:c=1:b=1",
        f"video:{'0' * 32}:a:b={'9' * 5000}",
        f"p:q:video:{'0' * 32}:a",
    ],
)
def test_a_text_that_no_key_prints_as_is_a_raw_key_of_its_own(text):
    key = Key.parse(text)

    assert key.text == str(key) == text
    assert key.encoded == keytwin.raw_key(text)


def test_a_raw_key_equals_no_other():
    assert Key.parse("a") != Key.parse("b")
    assert Key("raw", bytes(16), "a") != Key.parse("a")
    assert Key.parse("a").params == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"l",
        b"n",
        b"x" * 49,
        keytwin.item([1, "", bytes(16), "a"]),
        keytwin.item([2, "", bytes(16), "a", {}]),
        keytwin.item([1, "", bytes(15), "a", {}]),
        keytwin.item([1, "raw", ""]),
        keytwin.item([1, "own", "a"]),
        keytwin.item([True, "raw", "a"]),
        keytwin.raw_key("a") + b"n",
        keytwin.key("", bytes(16), "a", {})[:-1],
        b"l\xff\xff\xff\xff" + b"n" * 20,
        b"l" * 100_000,
    ],
    ids=lambda data: data[:24].hex(),
)
def test_what_is_no_encoding_of_a_key_is_a_value_error(data):
    with pytest.raises(ValueError, match="key"):
        Key.from_encoded(data)


def test_explain_shows_every_part():
    key = Key("prod", REF, "descriptions", {"model": "Qwen/Qwen2-VL", "batch_size": 500})
    parts = key.explain()

    assert (parts.kind, parts.version, parts.profile) == ("video", 1, "prod")
    assert (parts.uri, parts.source_kind) == ("file:///videos/a.mp4", "stat")
    assert parts.params == {"batch_size": "500", "model": "'Qwen/Qwen2-VL'"}
    assert parts.digest == key.digest.hex()
    assert parts.size == len(key.encoded)
    for shown in ("prod", "file:///videos/a.mp4", "descriptions", "'Qwen/Qwen2-VL'", "500"):
        assert shown in str(parts)
    assert Key.parse(str(key)).explain().uri is None


def test_explain_of_a_raw_key_shows_its_text():
    parts = Key.parse("my:key").explain()

    assert (parts.kind, parts.text, parts.artifact, parts.source) == ("raw", "my:key", "", "")
    assert "my:key" in str(parts)


def differences(one, other):
    return [(found.part, found.mine, found.theirs) for found in one.diff(other)]


def test_diff_says_which_part_differs():
    one = Key("p", SOURCE, "keyframes", {"threshold": 0.999, "max_frames": 3000, "a": 1})
    other = Key("q", SOURCE, "keyframes", {"threshold": 0.5, "max_frames": 3000, "b": None})

    assert one.diff(one) == []
    assert differences(one, other) == [
        ("profile", "'p'", "'q'"),
        ("a", "1", None),
        ("b", None, "null"),
        ("threshold", "0.999", "0.5"),
    ]
    assert str(one.diff(other)[-1]) == "threshold: 0.999 here, 0.5 there"
    assert str(one.diff(other)[1]) == "a: 1 here, absent there"


def test_diff_looks_into_the_sub_map():
    one = Key("", SOURCE, "a", {"params": {"x": 1, "y": 2}})

    assert differences(one, Key("", SOURCE, "a", {"params": {"x": 1, "y": "2"}})) == [
        ("params.y", "2", "'2'")
    ]
    assert differences(one, Key("", SOURCE, "a")) == [
        ("params.x", "1", None),
        ("params.y", "2", None),
    ]
    assert differences(one, Key("", SOURCE, "a", {"params": 5})) == [
        ("params", "{'x'=1,'y'=2}", "5")
    ]


def test_diff_says_what_of_the_source_differs_where_it_is_known():
    grown = SourceRef(REF.uri, "stat", 1001, REF.mtime_ns)
    one, other = Key("", REF, "a"), Key("", grown, "b")

    assert differences(one, other) == [
        ("source.size", "1,000 bytes", "1,001 bytes"),
        ("artifact", "a", "b"),
    ]
    assert differences(one, Key.parse(str(other)))[0] == (
        "source",
        REF.fingerprint.hex(),
        grown.fingerprint.hex(),
    )


def test_diff_of_a_raw_key_is_the_key():
    assert differences(Key.parse("a"), Key.parse("b")) == [("key", "a", "b")]


def test_a_key_lets_go_of_what_it_was_made_from():
    class Source:
        fingerprint = bytes(range(16))

    origin: Any = Source()
    profile, artifact = "".join(["pro", "file"]), "".join(["art", "ifact"])
    params = {"long": "x" * 100, "number": 10**6}
    held = [profile, artifact, origin, origin.fingerprint, params, params["long"]]
    before = [sys.getrefcount(one) for one in held]
    box = SimpleNamespace(one=b"".join([b"a ", b"text"]))
    alone = sys.getrefcount(box.one)  # of what only one attribute holds
    for _ in range(3):
        key = Key(profile, origin, artifact, params)
        copies = [pickle.loads(pickle.dumps(Key(profile, bytes(16), artifact, params))), key]
        count = sys.getrefcount(key.encoded)
        assert count == alone
        assert key._folded and not Key.parse("text")._folded
        assert len({*copies, *copies}) == 2
        with pytest.raises(TypeError, match="mapping"):
            Key(profile, origin, artifact, 5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="NUL"):
            Key(profile, origin, artifact, {**params, "wrong": "\0"})
        with pytest.raises(TypeError, match="source"):
            Key(profile, params, artifact, params)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="artifact"):
            Key(profile=profile, source=origin)  # type: ignore[call-arg]
        del key, copies
    gc.collect()
    assert [sys.getrefcount(one) for one in held] == before


def test_a_key_is_made_by_name_and_of_any_mapping():
    source, params = bytes(16), {"a": 1}
    key = Key("p", source, "a", params)
    assert Key(artifact="a", source=source, params=MappingProxyType(params), profile="p") == key
    assert Key(None, source, "a") == Key("", source, "a", None) == Key("", source, "a", {})
    assert key != "p" and key != key.encoded
    with pytest.raises(TypeError):
        operator.lt(*cast("list[Any]", [key, key]))
    with pytest.raises(AttributeError):
        key.encoded = b""  # type: ignore[misc]
    assert str(inspect.signature(Key)) == "(profile, source, artifact, params=None)"
