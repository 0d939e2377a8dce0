"""What goes in comes out: every kind of value, with type, order and bits."""

import base64
import collections
import gc
import sys
import threading
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.valuedata import VALUES, Word, draft, entry_of, round_trip

from cogcache import _core
from cogcache.codecs import stored_form
from cogcache.exceptions import CogcacheWarning, ValueTypeError
from cogcache.testing import assert_round_trips

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.text(st.characters(blacklist_categories=())),  # lone surrogates too
    st.binary(),
    st.binary().map(bytearray),
    st.complex_numbers(),
    st.fractions(),
    st.decimals(),
    st.dates(),
    st.datetimes(timezones=st.none() | st.timezones()),
    st.timedeltas(),
    st.uuids(),
)
KEYS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False),
        st.text(max_size=8),
        st.binary(max_size=8),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
VALUE_TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(KEYS, inner, max_size=5),
        st.sets(KEYS, max_size=5),
        st.frozensets(KEYS, max_size=5),
    ),
    max_leaves=25,
)


@given(VALUE_TREES)
def test_any_value_comes_back_as_it_was(value: Any):
    assert_round_trips(value)


@given(VALUE_TREES)
def test_equal_values_have_one_encoding_and_compression_changes_nothing(value: Any):
    plain = entry_of(value, compress=False).read(0)
    assert entry_of(stored_form(value), compress=False).read(0) == plain


@given(hnp.arrays(hnp.scalar_dtypes() | hnp.unicode_string_dtypes(), hnp.array_shapes(min_side=0)))
def test_any_array_comes_back_as_it_was(array: Any):
    assert_round_trips(array)
    assert_round_trips({"f": np.asfortranarray(array), "strided": array[::-1]})


@pytest.mark.parametrize("name", VALUES)
def test_every_kind_of_the_table_round_trips(name: str):
    assert_round_trips(VALUES[name]())
    assert_round_trips([VALUES[name](), {"again": VALUES[name]()}])


@pytest.mark.parametrize("value", [None, {}, [], "", 0, False, b"", (), set(), 0.0])
def test_false_values_are_values(value: Any):
    assert round_trip(value) == value
    assert type(round_trip(value)) is type(value)


def test_dict_keys_of_several_types_stay_apart():
    value = {1: "int", "1": "str", 2.5: "float", None: 0, (0.0, 1.5): "span", b"1": "bytes"}
    assert list(round_trip(value).items()) == list(value.items())


def test_dict_order_is_kept_in_any_order():
    names = [f"name {i % 7} {i}" for i in range(200)]
    assert list(round_trip(dict.fromkeys(names))) == names
    assert list(round_trip(dict.fromkeys(reversed(names)))) == names[::-1]


def test_each_read_is_a_value_of_its_own():
    entry = entry_of({"list": [1, 2], "array": np.zeros(5000), "raw": bytearray(9000)})
    first, second = entry.value(), entry.value()
    first["list"].append(3)
    first["array"][:] = 7
    first["raw"][0] = 9
    assert second["list"] == [1, 2]
    assert not second["array"].any()
    assert second["raw"][0] == 0
    assert entry.value()["array"].sum() == 0


def test_changing_the_argument_after_composing_changes_nothing():
    value = {"list": [1], "array": np.zeros(5000), "raw": bytearray(9000), "small": np.zeros(3)}
    image = draft(value).compose().tobytes()
    value["list"].append(2)
    value["array"][:] = 1
    value["raw"][:] = b"x" * 9000
    value["small"][:] = 1
    back = _core.Entry.from_bytes(image).value()
    assert back["list"] == [1]
    assert not back["array"].any()
    assert not any(back["raw"])
    assert not back["small"].any()


def test_small_buffers_are_copied_by_the_draft_already():
    small, large = bytearray(b"a" * 4096), bytearray(b"a" * 4097)
    made = draft([small, large])
    small[0] = ord("b")
    with pytest.raises(BufferError):
        large.clear()  # borrowed until the draft is gone
    assert _core.Entry.from_bytes(made.compose().tobytes()).value()[0] == b"a" * 4096


def test_a_draft_lets_go_of_what_it_borrowed():
    large = bytearray(100_000)
    made = draft(large)
    image = made.compose()
    del made
    with pytest.raises(BufferError):
        large.clear()  # the image's pieces lie in it
    image.tobytes()
    del image
    gc.collect()
    large.clear()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 70_000, 300_000, 5_300_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, str])
def test_sizes_around_every_limit(size: int, kind: Any):
    data = bytes(range(251)) * (size // 251 + 1)
    text = data[:size].decode("latin-1").encode("ascii", "replace").decode()
    value = text if kind is str else kind(data[:size])
    entry = entry_of([value])
    assert entry.value() == [value]
    assert [part.kind for part in entry.parts()] == (["blob"] if size > 4096 else []) + ["doc"]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 200_000])
def test_array_sizes_around_the_limit(size: int):
    entry = entry_of(np.arange(size, dtype="f8"))
    assert (entry.value() == np.arange(size)).all()
    assert [part.kind for part in entry.parts()] == (["array"] if size > 512 else []) + ["doc"]


def test_parts_are_numbered_arrays_blobs_and_named_by_kind():
    value = ["a" * 5000, np.zeros(2000), b"b" * 5000, np.ones(2000), bytearray(5000)]
    entry = entry_of(value)
    listed = [(part.kind, part.name) for part in entry.parts()]
    assert listed == [
        ("array", "0"),
        ("array", "1"),
        ("blob", "0"),
        ("blob", "1"),
        ("blob", "2"),
        ("doc", ""),
    ]
    back = entry.value()
    assert (back[0], back[2], back[4]) == (value[0], value[2], value[4])
    assert (back[1] == 0).all() and (back[3] == 1).all()


def test_compression_on_and_off_read_the_same():
    value = {
        "text": "a description of a frame. " * 400,
        "noise": np.random.default_rng(0).bytes(9000),
    }
    packed, plain = entry_of(value), entry_of(value, compress=False)
    assert packed.value() == plain.value() == value
    codecs = {part.name: part.codec for part in packed.parts() if part.kind == "blob"}
    assert codecs == {"0": 1, "1": 0}  # text packed, noise left alone
    assert {part.codec for part in plain.parts()} == {0}
    assert packed.length < plain.length / 1.8


@pytest.mark.parametrize(
    ("data", "gain"),
    [
        (lambda noise: noise.hex(), 1.9),
        (lambda noise: base64.b64encode(noise), 1.25),
        (lambda noise: [value / 7 for value in noise], 4),
        (lambda noise: "".join(chr(0x4E00 + value * 3) for value in noise), 1.7),
    ],
    ids=["hex", "base64", "numbers", "ideographs"],
)
def test_what_gains_by_its_letters_alone_is_packed_too(data: Any, gain: float):
    """Nothing in it is there twice, but few letters are used."""
    value = data(np.random.default_rng(0).bytes(50_000))
    assert entry_of(value).length * gain < entry_of(value, compress=False).length
    assert round_trip(value) == value


def test_incompressible_values_cost_no_more_than_their_index():
    noise = np.random.default_rng(0).bytes(100_000)
    assert entry_of(noise).length <= entry_of(noise, compress=False).length
    assert entry_of(noise).length < len(noise) + 400


def test_arrays_are_packed_when_asked_and_come_back_to_the_bit():
    array = np.arange(100_000, dtype="f4").reshape(100, 1000)
    packed = entry_of({"a": array, "f": np.asfortranarray(array)}, compress_arrays=True)
    assert packed.length < array.nbytes / 2
    back = packed.value()
    assert back["a"].tobytes() == array.tobytes()
    assert back["f"].flags.f_contiguous and (back["f"] == array).all()


def test_a_vector_of_768_floats_takes_3_2_kilobytes_at_most():
    vector = np.random.default_rng(1).standard_normal(768).astype("f4")
    assert entry_of(vector).length <= 3300
    assert entry_of({"vector": vector, "title": "a"}).length <= 3400
    many = np.random.default_rng(1).standard_normal((10_000, 768)).astype("f4")
    assert entry_of(many).length / 10_000 <= 3200


def test_nested_to_the_limit_and_no_deeper():
    def nested(depth: int, kind: Any) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = kind(value)
        return value

    kinds = [lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: Word("w", 1.0, v)]
    for kind in kinds:
        assert_round_trips(nested(1000, kind))
        with pytest.raises(ValueTypeError, match="nested more than 1000 deep") as caught:
            draft(nested(1001, kind))
        assert caught.value.path.startswith("$") and len(caught.value.path) < 1000


def test_deep_values_need_no_stack():
    """In a thread with the smallest stack there is, at Python's lowest recursion limit."""
    value: Any = 1
    for _ in range(330):
        value = [{"k": (value,)}]
    answers: list[Any] = []

    def work() -> None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(60)
        try:
            answers.append(round_trip(value))
        finally:
            sys.setrecursionlimit(limit)

    before = threading.stack_size(128 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    back = answers[0]
    for _ in range(330):
        back = back[0]["k"][0]
    assert back == 1


def test_the_same_object_twice_is_no_cycle():
    shared = [1, 2]
    assert round_trip([shared, shared, {"a": shared}]) == [shared, shared, {"a": shared}]
    back = round_trip([shared, shared])
    assert back[0] is not back[1]


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not the text"


class Numbers(list):
    def __iter__(self) -> Any:
        raise AssertionError("a subclass may do anything here")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (np.str_("text"), "text"),
        (np.bytes_(b"data"), b"data"),
        (Text("text"), "text"),
        (Numbers([1, 2]), [1, 2]),
    ],
)
def test_kin_are_stored_as_their_base_with_one_warning_a_type(value: Any, plain: Any):
    from cogcache import codecs

    codecs._warned.clear()
    with pytest.warns(CogcacheWarning, match=type(value).__name__) as caught:
        first = draft([value, value])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = draft({"again": value})
    assert _core.Entry.from_bytes(first.compose().tobytes()).value() == [plain, plain]
    back = _core.Entry.from_bytes(second.compose().tobytes()).value()["again"]
    assert type(back) is type(plain)
    assert back == plain


def test_kin_as_keys_become_their_base():
    from cogcache import codecs

    codecs._warned.clear()
    with pytest.warns(CogcacheWarning):
        back = round_trip({np.str_("a"): 1, Text("b"): 2})
    assert [(type(key), key) for key in back] == [(str, "a"), (str, "b")]


def test_a_value_that_changes_while_it_is_stored_is_refused():
    from cogcache.codecs import register_type

    class Meddler:
        pass

    value: dict[str, Any] = {"a": Meddler(), "b": 2}

    def grow(_: Any) -> int:
        value["c"] = 3
        return 1

    register_type(Meddler, name="tests.Meddler", to_plain=grow, from_plain=lambda plain: plain)
    with pytest.raises(RuntimeError, match="changed while"):
        draft(value)
    items: list[Any] = [Meddler(), 2]
    register_type(
        Meddler, name="tests.Meddler", to_plain=lambda _: items.append(1), from_plain=lambda p: p
    )
    with pytest.raises(RuntimeError, match="changed while"):
        draft(items)


def test_short_keys_are_made_once():
    back = round_trip([{"start": 1, "text": "a"}, {"start": 2, "text": "b"}])
    first, second = back
    assert next(iter(first)) is next(iter(second))


def test_the_collector_runs_again_after_a_large_value():
    value = [{"a": i} for i in range(5000)]
    assert gc.isenabled()
    round_trip(value)
    assert gc.isenabled()
    gc.disable()
    try:
        round_trip(value)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_type_of_a_value_is_told_without_decoding():
    for value, name in [
        (b"x", "bytes"),
        (b"x" * 9000, "bytes"),
        ("x" * 9000, "str"),
        (bytearray(9000), "bytearray"),
        ({}, "dict"),
        ([1], "list"),
        ((1,), "tuple"),
        (None, "NoneType"),
        (True, "bool"),
        (7, "int"),
        (2**70, "int"),
        (1.5, "float"),
        (np.zeros(9000), "ndarray"),
        (Word("a", 1.0), "object"),
    ]:
        assert entry_of(value).value_type() == name
