"""What cannot be kept is refused with the place and what to do instead."""

import dataclasses
import enum
import io
import re
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.valuedata import draft

from cogcache import _core
from cogcache.exceptions import CogcacheError, ValueTypeError


class Pair(NamedTuple):
    a: int
    b: int


@dataclasses.dataclass
class Unknown:
    a: int = 1


class Shape(enum.Enum):
    ROUND = 1


class Model:
    def model_dump(self) -> dict[str, Any]:
        return {}


class Tensor:
    """As torch has them, as far as the message looks."""

    __module__ = "torch"

    def __init__(self, requires_grad: bool = False, device: str = "cpu") -> None:
        self.requires_grad, self.device = requires_grad, device

    def detach(self) -> Any: ...
    def numpy(self) -> Any: ...


class Opaque:
    pass


async def coroutine_function() -> None: ...


CASES: list[tuple[Any, str]] = [
    ((i for i in range(3)), r"store list\(\.\.\.\)"),
    (iter([1]), r"store list\(\.\.\.\)"),
    (map(str, [1]), r"store list\(\.\.\.\)"),
    (range(3), r"store list\(\.\.\.\)"),
    ({}.keys(), "cannot be stored"),
    (Pair(1, 2), r"_asdict\(\)"),
    (time.gmtime(0), r"tuple\(value\)"),
    (Unknown(), r"register_type\(\) it, or store dataclasses.asdict"),
    (Shape.ROUND, r"register_type\(\) it, or store value.value"),
    (Model(), r"model_dump\(\)"),
    (Tensor(), r"value\.numpy\(\)"),
    (Tensor(requires_grad=True), r"value\.detach\(\)\.numpy\(\)"),
    (Tensor(requires_grad=True, device="cuda:0"), r"value\.detach\(\)\.cpu\(\)\.numpy\(\)"),
    (memoryview(b"x"), r"bytes\(value\)"),
    (io.BytesIO(b"x"), "what it reads"),
    (lambda: 1, "not data"),
    (Opaque, "class"),
    (Opaque(), r"register_type\(\)"),
    (object(), "object cannot be stored"),
    (SimpleNamespace(a=1), "SimpleNamespace"),
    (ModuleType("m"), "module"),
    (NotImplemented, "NotImplementedType"),
    (np.array([object()]), "objects"),
    (np.array([1, "a", None], dtype=object), "objects"),
    (np.zeros(2, [("a", "i4"), ("b", "f4")]), "structured"),
    (np.zeros(2, "V5"), "only bool"),
    (np.zeros(2, np.longdouble), "only bool"),
    (np.longdouble(1), "only bool"),
    (np.clongdouble(1), "only bool"),
    (np.ma.array([1, 2], mask=[0, 1]), r"filled\(\)"),
    (np.void(b"ab"), "only bool"),
]


@pytest.mark.parametrize(("value", "hint"), CASES, ids=lambda case: type(case).__name__)
def test_refused_with_place_and_hint(value: Any, hint: str):
    with pytest.raises(ValueTypeError, match=hint) as caught:
        draft({"frames": [1, 2, {"meta": value}]})
    assert caught.value.path == "$.frames[2].meta"
    assert str(caught.value).startswith("$.frames[2].meta: ")
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, CogcacheError)


def test_matrix_is_refused():
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix([[1, 2]])
    with pytest.raises(ValueTypeError, match=r"numpy\.asarray"):
        draft(matrix)


def test_coroutine_is_refused():
    waiting = coroutine_function()
    with pytest.raises(ValueTypeError, match="await it first"):
        draft([waiting])
    waiting.close()


def test_open_file_is_refused(tmp_path: Path):
    with (
        (tmp_path / "file").open("w") as file,
        pytest.raises(ValueTypeError, match="what it reads"),
    ):
        draft(file)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "$"),
        ([object()], "$[0]"),
        ({"a": object()}, "$.a"),
        ({"not a name": object()}, "$['not a name']"),
        ({5: object()}, "$[5]"),
        ({None: object()}, "$[None]"),
        ({(1, "b"): object()}, "$[(1, 'b')]"),
        ({"class": [0, (1, object())]}, "$.class[1][1]"),
        ({"a": {frozenset({1}), Shape.ROUND}}, "$.a{}"),
        ({"x" * 100: object()}, "$." + "x" * 100),
        ({"a b" * 50: object()}, "$['" + ("a b" * 50)[:59] + "]"),
    ],
)
def test_the_path_leads_to_the_offender(value: Any, path: str):
    with pytest.raises(ValueTypeError) as caught:
        draft(value)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        (np.int64(3), r"use \.item\(\)"),
        (Shape.ROUND, r"use \.value"),
        (frozenset({1}), "as a key"),
        (object(), "as a key"),
        ((1, object()), "as a key"),
        (1j, "as a key"),
    ],
)
def test_keys_are_of_a_closed_list(key: Any, hint: str):
    with pytest.raises(ValueTypeError, match=hint):
        draft({key: 1})


def test_two_nan_keys_are_refused_for_they_would_be_one():
    nan = float("nan")
    assert len({nan: 1, -nan: 2}) == 2
    for value in ({nan: 1, float("nan"): 2}, {(nan, 1): 1, (float("nan"), 1): 2}):
        with pytest.raises(ValueTypeError, match="NaN"):
            draft([value])
    draft({nan: {nan: 1}})


def test_cycles_are_named():
    loop: list[Any] = [1]
    loop.append({"again": (loop,)})
    with pytest.raises(ValueTypeError, match="list that contains itself") as caught:
        draft({"outer": loop})
    assert caught.value.path == "$.outer[1].again[0]"
    table: dict[str, Any] = {}
    table["self"] = table
    with pytest.raises(ValueTypeError, match="dict that contains itself"):
        draft(table)
    heavy: list[Any] = [bytes(4000) for _ in range(500)]
    heavy.append(heavy)
    with pytest.raises(ValueTypeError, match="contains itself"):
        draft(heavy)


def test_an_object_that_contains_itself_is_named():
    from cogcache.codecs import register_type

    @dataclasses.dataclass
    class Node:
        next: Any = None

    register_type(Node, name="tests.Node")
    node = Node()
    node.next = [node]
    with pytest.raises(ValueTypeError, match="Node that contains itself") as caught:
        draft(node)
    assert caught.value.path == "$.next[0]"


def test_a_subclass_that_yields_new_ones_for_ever_ends():
    from cogcache.codecs import register_type

    class Endless:
        pass

    register_type(
        Endless,
        name="tests.Endless",
        to_plain=lambda _: [Endless()],
        from_plain=lambda plain: plain,
    )
    with pytest.raises(ValueTypeError, match="nested more than 1000 deep"):
        draft(Endless())


def test_an_error_of_to_plain_is_the_callers():
    from cogcache.codecs import register_type

    class Broken:
        pass

    def fail(_: Any) -> Any:
        raise LookupError("broken")

    register_type(Broken, name="tests.Broken", to_plain=fail, from_plain=fail)
    with pytest.raises(LookupError, match="broken"):
        draft([Broken()])


def test_a_refused_value_leaves_nothing_borrowed():
    large = bytearray(100_000)
    with pytest.raises(ValueTypeError):
        draft([large, object()])
    large.clear()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("key", {"key": b""}),
        ("key", {"key": b"k" * 65_537}),
        ("refreshed_ms", {"refreshed_ms": -1}),
        ("refreshed_ms", {"refreshed_ms": 2**48}),
        ("ttl_ms", {"ttl_ms": -1}),
        ("ttl_ms", {"ttl_ms": 2**48 - 1}),
        ("stale_ms", {"stale_ms": -1}),
        ("token", {"token": 2**64}),
        ("level", {"level": 0}),
        ("level", {"level": 23}),
        ("meta", {"meta": {1: "not a time"}}),
        ("meta", {"meta": [1]}),
        ("meta", {"meta": {"text": "x" * (1 << 20)}}),
    ],
)
def test_settings_out_of_range_name_the_field(name: str, options: dict[str, Any]):
    settings = {"key": b"k", "meta": {}, "refreshed_ms": 0, "ttl_ms": None, **options}
    with pytest.raises(ValueError, match=name):
        _core.Draft(1, **settings)


def test_settings_that_are_missing_or_unknown_are_type_errors():
    with pytest.raises(TypeError, match="meta, refreshed_ms and ttl_ms"):
        _core.Draft(1, b"k")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        draft(1, colour="red")
    with pytest.raises(TypeError):
        draft(1, refreshed_ms="now")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "metadata.x"),
        ({1}, "metadata.x"),
        (np.zeros(3), "metadata.x"),
        (2**70, "metadata.x"),
        ("\ud800", "metadata.x"),
        ({(1, 2): 3}, "metadata.x[(1, 2)]"),
    ],
)
def test_metadata_is_plain(value: Any, path: str):
    with pytest.raises(ValueTypeError) as caught:
        draft(1, meta={5: {"x": value}})
    assert caught.value.path == path


def test_fields_of_metadata_are_called_what_the_caller_calls_them():
    named = {3: "tags", 4: "content_type", 7: "artifact", 12: "params", 99: "metadata[99]"}
    for number, name in named.items():
        with pytest.raises(ValueTypeError, match="^" + re.escape(name + ": ")) as caught:
            draft(1, meta={number: object()})
        assert caught.value.path == name
    for strange in (-1, 2**70, True):
        with pytest.raises(ValueTypeError) as caught:
            draft(1, meta={strange: object()})
        assert caught.value.path == f"metadata[{strange!r}]"


def test_metadata_is_at_most_16_deep():
    deep: Any = 1
    for _ in range(14):
        deep = [deep]
    meta = {5: {"x": deep}}
    assert _core.Entry.from_bytes(draft(1, meta=meta).compose().tobytes()).meta == meta
    with pytest.raises(ValueTypeError, match="nested more than 16 deep"):
        draft(1, meta={5: {"x": [deep]}})
