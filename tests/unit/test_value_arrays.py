"""Arrays out of a store: writable, private, exact; lent once, never shared."""

import asyncio
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.valuedata import KEY, draft, entry_of, image_of

from cogcache import _core
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.config import FilesystemCacheConfig

LARGE = np.arange(500_000, dtype="f8").reshape(500, 1000)


@pytest.fixture
def store(tmp_path: Path) -> _core.Store:
    return _core.Store(str(tmp_path), max_bytes=200_000_000)


def put(store: _core.Store, value: Any, **options: Any) -> None:
    assert store.put(draft(value, **options)) is None


def get(store: _core.Store) -> _core.Entry:
    entry = store.fetch(KEY)
    assert isinstance(entry, _core.Entry)
    return entry


def test_a_large_array_is_mapped_and_writable(store: _core.Store):
    put(store, {"emb": LARGE})
    entry = get(store)
    assert entry.mapped
    array = entry.value()["emb"]
    del entry
    assert array.flags.writeable and array.flags.aligned and not array.flags.owndata
    assert array.ctypes.data % 64 == 0
    assert type(array) is np.ndarray
    array /= 2  # as it works on a computed one
    assert (array == LARGE / 2).all()


def test_writing_into_a_hit_reaches_neither_file_nor_other_hits(store: _core.Store):
    put(store, LARGE)
    first, second = get(store), get(store)
    mine, theirs = first.value(), second.value()
    mine[:] = -1
    assert (theirs == LARGE).all()
    assert (get(store).value() == LARGE).all()
    get(store).verify()


def test_an_entry_gives_its_map_away_once(store: _core.Store):
    put(store, [LARGE, "x" * 9000])
    entry = get(store)
    entry.value()[0][:] = -1
    for use in (entry.value, entry.verify, entry.tobytes, entry.to_image):
        with pytest.raises(ValueError, match="read the entry again"):
            use()
    part = entry.find("array", "0")
    blob = entry.find("blob", "0")
    assert part is not None and blob is not None
    with pytest.raises(ValueError, match="read the entry again"):
        entry.read(part.number)
    for many in (entry.check, entry.fetch):
        with pytest.raises(ValueError, match="given away"):
            many([part.number])
    assert entry.read(blob.number) == b"x" * 9000
    assert entry.meta == {}
    get(store).verify()


def test_an_image_taken_first_keeps_the_map_at_home(store: _core.Store):
    put(store, LARGE)
    entry = get(store)
    image = entry.to_image()
    array = entry.value()
    array[:] = -1
    assert (_core.Entry.from_bytes(image.tobytes(), KEY).value() == LARGE).all()
    entry.verify()
    assert (entry.value() == LARGE).all()


def test_the_other_modes_lend_nothing(store: _core.Store):
    put(store, LARGE)
    entry = get(store)
    view, copy = entry.value(mode="view"), entry.value(mode="copy")
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    copy[:] = -1
    assert (view == LARGE).all()
    assert (entry.value(mode="copy") == LARGE).all()


def test_a_view_taken_first_never_changes(store: _core.Store):
    put(store, LARGE)
    entry = get(store)
    view = entry.value(mode="view")
    mine = entry.value()
    mine[:] = -1
    assert (view == LARGE).all()
    assert (entry.value() == LARGE).all()
    entry.verify()


def test_threads_that_share_an_entry_never_share_its_map(store: _core.Store):
    put(store, {"text": ["long enough to let go of the GIL"] * 50_000, "array": LARGE})
    for _ in range(10):
        entry = get(store)
        start = threading.Barrier(4)

        def take(entry: _core.Entry = entry, start: threading.Barrier = start) -> Any:
            start.wait(60)
            try:
                return entry.value()["array"]
            except ValueError:
                return None  # another one has it

        with ThreadPoolExecutor(4) as pool:
            arrays = [future.result() for future in [pool.submit(take) for _ in range(4)]]
        taken = [array for array in arrays if array is not None]
        assert len({array.ctypes.data for array in taken}) == len(taken) >= 1


def test_arrays_outlive_entry_and_file(store: _core.Store):
    put(store, [LARGE, LARGE + 1])
    first, second = get(store).value()
    assert store.delete(KEY)
    first[0] = 9
    assert (second == LARGE + 1).all()
    assert (first[1:] == LARGE[1:]).all()


def test_without_maps_the_same_values(tmp_path: Path):
    store = _core.Store(str(tmp_path), max_bytes=200_000_000, no_map=True)
    put(store, {"emb": LARGE, "text": "x" * 9000})
    entry = get(store)
    assert not entry.mapped
    first, second = entry.value(), entry.value()
    first["emb"][:] = 0
    assert (second["emb"] == LARGE).all()
    assert (entry.value(mode="view")["emb"] == LARGE).all()


def test_small_entries_are_copied(store: _core.Store):
    small = np.arange(1000.0)
    put(store, small)
    entry = get(store)
    first, second = entry.value(), entry.value()
    first[:] = 0
    assert (second == small).all()


def test_packed_arrays_are_expanded_and_writable(store: _core.Store):
    put(store, LARGE, compress_arrays=True)
    array = get(store).value()
    assert array.flags.writeable
    assert array.tobytes() == LARGE.tobytes()


def test_memory_views_are_read_only_and_keep_the_bytes():
    entry = entry_of({"a": LARGE, "small": np.arange(3)})
    back = entry.value(mode="view")
    del entry
    assert not back["a"].flags.writeable and not back["small"].flags.writeable
    assert (back["a"] == LARGE).all()


def test_a_wrong_mode_is_named():
    with pytest.raises(ValueError, match="mode must be 'cow', 'view' or 'copy', not 'mine'"):
        entry_of(1).value(mode="mine")  # type: ignore[arg-type]


def test_layout_is_kept():
    value = {
        "c": LARGE,
        "f": np.asfortranarray(LARGE),
        "strided": LARGE[::2, ::3],
        "reversed": LARGE[::-1],
        "transposed": LARGE.reshape(50, 10, 1000).transpose(2, 0, 1),
        "scalar": np.array(5.0),
        "empty": np.zeros((0, 7), "i2"),
        "broadcast": np.broadcast_to(np.arange(3.0), (400, 3)),
        "big-endian": LARGE.astype(">f4"),
    }
    back = entry_of(value).value()
    for name, array in value.items():
        assert back[name].dtype == array.dtype, name
        assert back[name].dtype.byteorder == array.dtype.byteorder, name
        assert back[name].shape == array.shape, name
        assert back[name].tobytes() == array.tobytes(), name
    assert back["f"].flags.f_contiguous and not back["f"].flags.c_contiguous
    assert all(back[name].flags.c_contiguous for name in ("c", "strided", "reversed", "broadcast"))


def test_read_only_arrays_come_back_writable():
    array = np.arange(1000.0)
    array.flags.writeable = False
    assert entry_of(array).value().flags.writeable


def test_memmap_is_stored_as_an_array_without_a_word(tmp_path: Path):
    np.save(tmp_path / "a.npy", LARGE)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = entry_of(mapped).value()
    assert type(back) is np.ndarray
    assert (back == LARGE).all()


def test_bits_of_nan_survive():
    bits = np.array([0x7FF8_0000_0000_0001, 0xFFF0_DEAD_BEEF_0001, 0x7FF0_0000_0000_0001], "u8")
    back = entry_of([bits.view("f8"), bits.view("f8")[1]]).value()
    assert (back[0].view("u8") == bits).all()
    assert back[1].tobytes() == bits[1].tobytes()


def test_bfloat16_rows_of_a_real_shape(store: _core.Store):
    import ml_dtypes

    array = np.random.default_rng(0).standard_normal((3, 1024, 320)).astype(ml_dtypes.bfloat16)
    array.view("u2")[0, 0, 0] = 0x7FC1  # a NaN with a payload
    put(store, {"patches": array})
    back = get(store).value()["patches"]
    assert back.dtype == ml_dtypes.bfloat16
    assert (back.view("u2") == array.view("u2")).all()


def test_ten_thousand_vectors_are_one_part_with_rows_of_their_own():
    vectors = np.random.default_rng(0).standard_normal((10_000, 768)).astype("f4")
    entry = entry_of(vectors)
    part = entry.find("array", "0")
    assert part is not None and part.chunk_size % (768 * 4) == 0
    assert entry.read(part.number, 3072 * 77, 3072 * 78) == vectors[77].tobytes()


def test_numpy_is_imported_by_the_first_array_and_not_before(tmp_path: Path):
    (tmp_path / "entry").write_bytes(image_of({"a": np.arange(2000.0), "small": np.arange(3)}))
    (tmp_path / "plain").write_bytes(image_of({"a": [1, 2.5, "x" * 9000]}))
    script = """
import sys
import cogcache
from cogcache._core import Draft, Entry
from pathlib import Path
assert Entry.from_bytes(Path(sys.argv[2]).read_bytes()).value()["a"][0] == 1
Draft([1, {"a": b"x" * 9000}], b"k", meta={}, refreshed_ms=0, ttl_ms=None).compose()
assert not {"numpy", "PIL", "ml_dtypes"} & set(sys.modules), "imported too early"
value = Entry.from_bytes(Path(sys.argv[1]).read_bytes()).value()
assert value["a"].sum() == 1999000 and value["small"].tolist() == [0, 1, 2]
assert "numpy" in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "entry"), str(tmp_path / "plain")],
        check=True,
        timeout=300,
    )


@pytest.mark.parametrize(("missing", "word"), [("numpy", "numpy"), ("ml_dtypes", "ml_dtypes")])
def test_without_the_package_an_array_is_a_miss_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, missing: str, word: str
):
    import ml_dtypes

    from cogcache.codecs import dtype_of

    monkeypatch.setitem(sys.modules, missing, None)
    name = "<f4" if missing == "numpy" else "bfloat16"
    with pytest.raises(_core.UnsupportedError, match=word) as caught:
        dtype_of(name)
    assert caught.value.args[0] == "missing-extra"
    assert ml_dtypes


def test_no_warning_from_an_array_that_comes_back(store: _core.Store):
    """torch warns about read-only arrays; what it looks at is the flag."""
    put(store, LARGE)
    array = get(store).value()
    assert array.flags.writeable and array.__array_interface__["data"][1] is False


async def test_loads_of_one_entry_beside_the_loop_never_share_its_map(tmp_path: Path):
    tier = FilesystemCacheBackend(FilesystemCacheConfig(str(tmp_path)))
    await tier.set("k", {"text": [f"frame {i} " * 20 for i in range(20_000)], "array": LARGE})
    for _ in range(5):
        entry = await tier.fetch(_core.raw_key("k"))
        assert isinstance(entry, _core.Entry)
        loads = [tier.load(entry) for _ in range(4)]
        answers = await asyncio.gather(*loads, return_exceptions=True)
        arrays = [answer["array"] for answer in answers if isinstance(answer, dict)]
        assert all(isinstance(answer, dict | ValueError) for answer in answers)
        assert len({array.ctypes.data for array in arrays}) == len(arrays) >= 1
    await tier.aclose()
