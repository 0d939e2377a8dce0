"""What a Python value becomes in a key, and what is refused with the place and the remedy."""

import array
import collections
import datetime
import decimal
import enum
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cogcache import _core
from cogcache.exceptions import CogcacheError, KeyTypeError
from cogcache.keys import Key

encode = _core.encode_key_value


def key(**params):
    return Key("", bytes(16), "artifact", params)


class Model(enum.StrEnum):
    BASE = "base"


class OldModel(str, enum.Enum):  # noqa: UP042 - the older spelling is the subject
    BASE = "base"


class Size(enum.IntEnum):
    SMALL = 30


class Plain(enum.Enum):
    BASE = "base"


@pytest.mark.parametrize(
    "same",
    [
        [30, 30.0, Fraction(30), np.int64(30), np.uint8(30), np.float32(30), np.float16(30)],
        [30, Size.SMALL, np.intp(30), Fraction(60, 2), np.float64(30)],
        [True, np.bool_(True), np.True_],
        ["base", Model.BASE, OldModel.BASE, np.str_("base")],
        [b"a", np.bytes_(b"a")],
        [0, 0.0, -0.0, np.float32(-0.0)],
        [float("nan"), -float("nan"), np.float32("nan"), np.nan],
        [(1, 2), [1, 2], range(1, 3), collections.deque([1, 2]), collections.UserList([1, 2])],
        [0.5, Fraction(1, 2), np.float16(0.5)],
        [float(np.float32(0.999)), np.float32(0.999)],
        [2**70, 2.0**70, Fraction(2**70)],
        [-(2**63), np.int64(-(2**63)), -(2.0**63)],
        [2**64 - 1, np.uint64(2**64 - 1)],
        [
            {"a": 1, "b": 2},
            {"b": 2, "a": 1},
            collections.OrderedDict(b=2, a=1),
            types.MappingProxyType({"a": 1, "b": 2}),
            collections.UserDict(a=1, b=2),
            collections.ChainMap({"a": 1}, {"b": 2}),
            {Plain.__name__[3:3] + "a": 1, np.str_("b"): 2},
        ],
    ],
    ids=str,
)
def test_equal_values_are_one_key(same):
    assert len({encode(value) for value in same}) == 1
    assert len({key(x=value) for value in same}) == 1


@pytest.mark.parametrize(
    "different",
    [
        [1, True, "1", b"1", [1], {"1": 1}, 1.5],
        [0, False, None, "", b"", [], {}],
        [2**53, 2**53 + 1],
        [2**53 + 1, float(2**53 + 1)],
        [0.999, np.float32(0.999), "0.999", Fraction(999, 1000)],
        [30, np.nextafter(30.0, 31.0)],
        ["\u00e9", "e\u0301"],
        [["a", "b"], ["ab"], ["a", ["b"]], "ab"],
        [{"a": {"b": 1}}, {"a": 1, "b": 1}, {"a": ["b", 1]}],
        [float("inf"), -float("inf"), float("nan"), 1e308],
        ["None", None],
        [1e-320, 0],
    ],
    ids=str,
)
def test_different_values_are_different_keys(different):
    assert len({encode(value) for value in different}) == len(different)
    assert len({key(x=value) for value in different}) == len(different)


def test_a_sub_map_never_meets_a_parameter_of_its_own_name():
    assert len({key(a=1), key(params={"a": 1}), key(params={"params": {"a": 1}})}) == 3
    assert key(params={"threshold": 1}, threshold=2) != key(params={"threshold": 2}, threshold=1)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (Plain.BASE, ".value"),
        (Path("weights.pt"), "cogcache.file_digest(path)"),
        ({1, 2}, "sorted"),
        (frozenset({1}), "sorted"),
        (datetime.datetime(2025, 11, 21), "isoformat"),
        (datetime.date(2025, 11, 21), "isoformat"),
        (decimal.Decimal("0.1"), "fractions.Fraction"),
        (1j, "z.real"),
        (np.complex64(1), ".item()"),
        (np.longdouble(1), "float"),
        (np.datetime64(1, "s"), ".item()"),
        (np.timedelta64(1, "s"), ".item()"),
        (np.zeros(3), "tolist"),
        (np.array(1.0), ".item()"),
        (bytearray(b"x"), "bytes"),
        (memoryview(b"x"), "bytes"),
        (array.array("i", [1]), "tolist"),
        (object(), ""),
        (lambda: None, ""),
        (iter([1]), ""),
        (int, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_type_that_keys_cannot_hold_is_refused_with_its_place(value, hint):
    with pytest.raises(KeyTypeError) as caught:
        key(model="m", params={"sizes": [1, {"two words": value}]})

    assert caught.value.path == "$.params.sizes[1]['two words']"
    assert str(caught.value).startswith(caught.value.path)
    assert type(value).__name__ in str(caught.value)
    assert hint in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, CogcacheError)


@pytest.mark.parametrize("text", ["\ud800", "a\udcff", "\udfff" * 100])
def test_a_lone_surrogate_is_a_type_error_with_its_place(text):
    with pytest.raises(KeyTypeError, match=r"\$\.prompt.*surrogate"):
        key(prompt=text)
    with pytest.raises(KeyTypeError, match=r"\$\.x.*surrogate"):
        key(x={text: 1})


def test_a_nul_character_is_a_value_error_with_its_place():
    with pytest.raises(ValueError, match=r"\$\.a\[0\].*NUL"):
        key(a=["x\0y"])
    with pytest.raises(ValueError, match="NUL"):
        Key("pro\0file", bytes(16), "a")
    with pytest.raises(ValueError, match="NUL"):
        Key("", bytes(16), "arti\0fact")
    assert key(a=b"x\0y") != key(a=b"xy")


def test_profile_and_artifact_with_lone_surrogates_are_value_errors():
    for profile, artifact in (("\ud800", "a"), ("", "\ud800")):
        with pytest.raises(ValueError, match="surrogate"):
            Key(profile, bytes(16), artifact)


@pytest.mark.parametrize("name", [1, b"a", None, ("a",), 1.5])
def test_names_of_maps_are_text(name):
    with pytest.raises(KeyTypeError, match=rf"\$\.x: the names .* {type(name).__name__}"):
        key(x={name: 1})
    with pytest.raises(KeyTypeError, match="names"):
        Key("", bytes(16), "a", {name: 1})


def test_a_parameter_has_a_name_and_nested_maps_may_have_an_empty_one():
    with pytest.raises(ValueError, match="empty"):
        Key("", bytes(16), "a", {"": 1})
    assert Key.parse(str(key(x={"": 1}))) == key(x={"": 1})


def test_an_artifact_has_a_name():
    with pytest.raises(ValueError, match="artifact"):
        Key("", bytes(16), "")


def test_two_names_that_are_the_same_text_are_refused():
    class Own(str):
        __slots__ = ()
        __hash__ = object.__hash__

        def __eq__(self, other):
            return self is other

    with pytest.raises(ValueError, match="same text"):
        key(x={Own("a"): 1, "a": 2})


def test_nesting_is_limited_with_a_clear_error():
    def nested(depth):
        value = 1
        for _ in range(depth):
            value = [value]
        return value

    deepest = key(x=nested(31))
    assert Key.parse(str(deepest)) == Key.from_encoded(deepest.encoded) == deepest
    with pytest.raises(ValueError, match="at most 32 deep"):
        key(x=nested(32))
    with pytest.raises(ValueError, match="at most 32 deep"):
        key(x={"m": nested(100_000)})


def test_a_value_that_holds_itself_is_refused():
    cycle = []
    cycle.append({"again": cycle})

    with pytest.raises(ValueError, match="does it hold itself"):
        key(x=cycle)


def test_integers_have_no_limit_of_digits_below_the_size_of_a_key():
    huge = 7**20_000  # beyond the limit of digits that int() has
    made = key(x=huge, y=-huge)

    assert made.params == {"x": huge, "y": -huge}
    assert Key.parse(str(made)) == made
    with pytest.raises(ValueError, match="at most 65,536 bytes"):
        key(x=1 << 8 * 65_536)


def test_a_subclass_is_its_plain_value():
    class Loud(str):
        __slots__ = ()

        def __str__(self):
            raise AssertionError("a key asked a subclass for its text")

        def encode(self, *args):
            raise AssertionError("a key asked a subclass for its bytes")

    class Odd(int):
        def __index__(self):
            raise AssertionError("a key asked a subclass for its number")

        def __float__(self):
            raise AssertionError("a key asked a subclass for its number")

    assert encode(Loud("a")) == encode("a")
    assert encode(Odd(5)) == encode(5)
    assert encode(Odd(2**80)) == encode(2**80)


def test_a_map_that_shrinks_while_it_is_read_does_no_harm():
    class Shrinking(Fraction):
        @property
        def numerator(self):
            victim.clear()
            return 1

        @property
        def denominator(self):
            return 3

    victim = {"a": Shrinking(1, 3), "b": "text" * 10, "c": [1]}

    assert key(x=victim) == key(x={"a": Fraction(1, 3), "b": "text" * 10, "c": [1]})


def test_a_list_that_shrinks_while_it_is_read_is_refused():
    class Shrinking(Fraction):
        @property
        def numerator(self):
            victim.clear()
            return 1

    victim = [Shrinking(1, 3), 2, 3]

    with pytest.raises(RuntimeError, match="changed size"):
        key(x=victim)


def test_an_error_inside_a_parameter_comes_through():
    class Broken(collections.UserDict):
        def items(self):
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        key(x=Broken(a=1))
