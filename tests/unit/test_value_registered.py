"""Types of the program's own: kept by name and version, never imported by a stored name."""

import dataclasses
import enum
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.valuedata import Point, entry_of, image_of, round_trip

from cogcache import _core, codecs
from cogcache.codecs import register_type
from cogcache.exceptions import ValueTypeError
from cogcache.testing import assert_round_trips


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(codecs, "_by_class", {})
    monkeypatch.setattr(codecs, "_by_name", {})


@dataclasses.dataclass
class Segment:
    start: float
    text: str
    words: list[str] = dataclasses.field(default_factory=list)
    calls: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.calls = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: int
    b: tuple[int, ...] = ()


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mode(enum.StrEnum):
    FAST = "fast"


class Flags(enum.IntFlag):
    A = 1
    B = 2


def test_a_dataclass_keeps_its_state_without_calling_init():
    register_type(Segment, name="t.Segment")
    segment = Segment(1.0, "hi", ["a"])
    segment.calls = 7
    back = assert_round_trips([segment])[0]
    assert back == segment
    assert back.calls == 7


def test_frozen_slots_and_nested():
    register_type(Frozen, name="t.Frozen")
    register_type(Segment, name="t.Segment")
    assert_round_trips({"a": Frozen(1, (2, 3)), "b": [Segment(0.0, "x"), Frozen(2)]})


def test_enums_of_every_kind():
    for cls in (Level, Mode, Flags):
        register_type(cls, name=f"t.{cls.__name__}")
    for value in (Level.HIGH, Mode.FAST, Flags.A, Flags.A | Flags.B, Flags(0)):
        back = round_trip([value])[0]
        assert type(back) is type(value)
        assert back == value


def test_a_registered_kind_of_dict_keeps_its_type():
    class Table(dict):  # type: ignore[type-arg]
        pass

    register_type(Table, name="t.Table", to_plain=dict, from_plain=Table)
    back = round_trip({"t": Table(a=1)})["t"]
    assert type(back) is Table
    assert back == {"a": 1}


def test_subclasses_are_not_included():
    class Sub(Segment):
        pass

    register_type(Segment, name="t.Segment")
    with pytest.raises(ValueTypeError, match="register_type"):
        entry_of(Sub(1.0, "x"))


def test_a_reader_without_the_type_has_a_miss_with_a_reason():
    register_type(Segment, name="t.Segment")
    image = image_of({"list": [Segment(1.0, "x")]})
    codecs._by_name.clear()
    with pytest.raises(_core.UnsupportedError) as caught:
        _core.Entry.from_bytes(image).value()
    assert caught.value.args[0] == "unknown-type"
    assert "'t.Segment' version 1" in caught.value.args[1]
    register_type(Segment, name="t.Segment")
    assert _core.Entry.from_bytes(image).value() == {"list": [Segment(1.0, "x")]}


def test_versions_are_told_apart_and_may_both_be_read():
    register_type(
        Point, name="t.Point", to_plain=lambda p: [p.x], from_plain=lambda v: Point(v[0], 0)
    )
    old = image_of(Point(1, 2))
    codecs._by_name.clear()
    register_type(
        Point,
        name="t.Point",
        version=2,
        to_plain=lambda p: {"x": p.x, "y": p.y},
        from_plain=lambda v: Point(**v),
    )
    with pytest.raises(_core.UnsupportedError, match="version 1 is not registered"):
        _core.Entry.from_bytes(old).value()
    register_type(
        Point,
        name="t.Point",
        version=1,
        to_plain=lambda p: [p.x],
        from_plain=lambda v: Point(v[0], -1),
    )
    assert _core.Entry.from_bytes(old).value() == Point(1, -1)
    assert round_trip(Point(3, 4)) == Point(3, 4)  # written with the highest version


def test_fields_that_changed_without_a_new_version_are_a_miss():
    register_type(Segment, name="t.Segment")
    image = image_of(Segment(1.0, "x"))
    codecs._by_name.clear()

    @dataclasses.dataclass
    class Changed:
        start: float

    register_type(Changed, name="t.Segment")
    with pytest.raises(_core.UnsupportedError) as caught:
        _core.Entry.from_bytes(image).value()
    assert caught.value.args[0] == "type-failed"
    assert "higher version" in caught.value.args[1]


def test_a_member_that_is_gone_is_a_miss():
    register_type(Level, name="t.Level")
    image = image_of(Level.HIGH)
    codecs._by_name.clear()

    class Less(enum.Enum):
        LOW = 1

    register_type(Less, name="t.Level")
    with pytest.raises(_core.UnsupportedError, match="HIGH"):
        _core.Entry.from_bytes(image).value()


def test_an_error_of_from_plain_is_a_miss_with_its_cause():
    def fail(_: Any) -> Any:
        raise ZeroDivisionError("oops")

    register_type(Point, name="t.Point", to_plain=lambda p: p.x, from_plain=fail)
    entry = entry_of([Point(1, 2)])
    with pytest.raises(_core.UnsupportedError, match="oops") as caught:
        entry.value()
    assert caught.value.args[0] == "type-failed"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_from_plain_sees_finished_values():
    seen: list[Any] = []

    def remember(plain: Any) -> Point:
        seen.append(plain)
        return Point(0, 0)

    register_type(
        Point,
        name="t.Point",
        to_plain=lambda p: {"text": "x" * 9000, "raw": b"y" * 9000, "inner": (1, {2})},
        from_plain=remember,
    )
    entry_of([Point(1, 2)]).value()
    assert seen == [{"text": "x" * 9000, "raw": b"y" * 9000, "inner": (1, {2})}]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, {"name": "x"}), TypeError, "a class is needed"),
        ((Point, {"name": ""}), ValueError, "name"),
        ((Point, {"name": "x" * 256}), ValueError, "name"),
        ((Segment, {"name": "x", "version": 0}), ValueError, "version"),
        ((Segment, {"name": "x", "version": True}), ValueError, "version"),
        ((Segment, {"name": "x", "version": 70_000}), ValueError, "version"),
        ((Point, {"name": "x"}), TypeError, "to_plain and from_plain are needed"),
        ((Point, {"name": "x", "to_plain": list}), TypeError, "both or neither"),
        ((dict, {"name": "x", "to_plain": list, "from_plain": dict}), ValueError, "stored exactly"),
        (
            (complex, {"name": "x", "to_plain": list, "from_plain": dict}),
            ValueError,
            "stored exactly",
        ),
    ],
)
def test_registrations_that_cannot_be(arguments: Any, error: Any, message: str):
    cls, named = arguments
    with pytest.raises(error, match=message):
        register_type(cls, **named)


def test_a_name_belongs_to_one_class_but_a_class_may_be_defined_again():
    register_type(Segment, name="t.One")
    register_type(Segment, name="t.One")
    with pytest.raises(ValueError, match="version 1 is .*Segment"):
        register_type(Frozen, name="t.One")

    def defined() -> type:
        @dataclasses.dataclass
        class Cell:
            a: int

        return Cell

    first, second = defined(), defined()
    register_type(first, name="t.Cell")
    register_type(second, name="t.Cell")
    assert type(round_trip(first(1))) is second


def test_nothing_is_imported_by_a_stored_name(tmp_path: Path):
    (tmp_path / "lurking.py").write_text("raise SystemExit('imported by a stored name')")
    register_type(
        Point, name="lurking.Thing", to_plain=lambda p: p.x, from_plain=lambda v: Point(v, v)
    )
    (tmp_path / "entry").write_bytes(image_of(Point(1, 1)))
    script = """
import sys
from pathlib import Path
from cogcache._core import Entry, UnsupportedError
try:
    Entry.from_bytes(Path(sys.argv[1]).read_bytes()).value()
except UnsupportedError as error:
    assert error.args[0] == "unknown-type"
else:
    raise SystemExit("decoded")
assert "lurking" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "entry")],
        check=True,
        timeout=300,
        env={"PYTHONPATH": f"{Path.cwd()}:{tmp_path}"},
    )
