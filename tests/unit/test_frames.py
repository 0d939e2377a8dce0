"""Frames in every form: what is stored of them, what comes back, and what is refused by name."""

import io
import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from PIL import Image
from support.valuedata import KEY, draft, entry_of

from cogcache import _core
from cogcache import frames as frames_module
from cogcache import images as pictures
from cogcache.exceptions import ValueTypeError
from cogcache.frames import Bundle, Frames, frame_ids, make_bundle

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40
PNG = b"\x89PNG\r\n\x1a\n" + bytes(9000)


def smooth(height: int = 48, width: int = 64, channels: int = 3) -> Any:
    """A picture without sharp edges, with channels that differ: what JPEG keeps well."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [40 + 3 * y, 200 - 2 * x, 90 + x + y][:channels]
    return np.stack(planes, axis=2).astype("u1") if channels > 1 else planes[0].astype("u1")


def stored(images: Any, metadata: Any = None, **options: Any) -> Frames:
    """Through a container and back."""
    bundle = make_bundle({} if metadata is None else metadata, images, **options)
    _, frames = entry_of(bundle).value()
    assert isinstance(frames, Frames)
    return frames


def rms(one: Any, other: Any) -> float:
    return math.sqrt(((one.astype("f8") - other.astype("f8")) ** 2).mean())


# --- bytes and files are never touched ------------------------------------------------------------


@pytest.mark.parametrize("data", [JPEG, PNG, b"x", bytearray(JPEG), memoryview(JPEG)])
def test_bytes_come_back_as_the_same_bytes(data: Any):
    frames = stored({7: data})
    assert frames[7] == frames.encoded(7) == bytes(data)
    assert type(frames[7]) is bytes


@pytest.mark.parametrize("as_type", [Path, str])
def test_files_are_read_at_once_and_stored_untouched(tmp_path: Path, as_type: Any):
    file = tmp_path / "frame.jpg"
    file.write_bytes(JPEG)
    bundle = make_bundle({}, {"a": as_type(file)})
    file.write_bytes(b"another run wrote here")
    file.unlink()
    _, frames = entry_of(bundle).value()
    assert frames["a"] == JPEG


def test_a_missing_file_names_the_frame_and_the_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="frame 12: no such file") as caught:
        make_bundle({}, {11: JPEG, 12: tmp_path / "gone.jpg"})
    assert caught.value.filename == str(tmp_path / "gone.jpg")


def test_an_empty_file_is_no_frame(tmp_path: Path):
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="frame 'e' has no bytes"):
        make_bundle({}, {"e": tmp_path / "empty"})


def test_each_frame_is_a_part_stored_without_compression():
    entry = entry_of(make_bundle({"a": 1}, {1: JPEG, "two": PNG}))
    parts = {(part.kind, part.name): part for part in entry.parts()}
    assert set(parts) == {("frame", "1"), ("frame", "two"), ("doc", "")}
    assert entry.read(parts["frame", "1"].number) == JPEG
    assert parts["frame", "1"].codec == 0
    assert parts["frame", "two"].codec == 0


# --- arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", ["bgr", "rgb"])
def test_the_stored_jpeg_has_the_colours_of_the_array(channels: str):
    array = smooth()
    frames = stored({0: array}, channels=channels)
    assert frames.content_type(0) == "image/jpeg"
    seen = np.asarray(Image.open(io.BytesIO(frames.encoded(0))).convert("RGB"))
    meant = array[:, :, ::-1] if channels == "bgr" else array
    assert rms(seen, meant) < 3
    assert rms(seen, meant[:, :, ::-1]) > 20  # exchanged, it would be far off
    back = frames[0]
    assert back.dtype == np.uint8 and back.shape == array.shape
    assert back.flags.writeable and back.flags.c_contiguous
    assert rms(back, array) < 3


def test_jpeg_has_quality_95_unless_said_otherwise():
    array = np.random.default_rng(0).integers(0, 255, (64, 64, 3), "u1")
    default, ninety_five, ten = (
        stored({0: array}, **options).encoded(0)
        for options in ({}, {"image_codec": "jpeg:95"}, {"image_codec": "jpeg:10"})
    )
    assert default == ninety_five
    assert len(ten) < len(default) / 3
    plain = io.BytesIO()
    Image.fromarray(array[:, :, ::-1]).save(plain, "JPEG", quality=95)
    assert default == plain.getvalue()


def test_gray_arrays_of_both_shapes_keep_their_shape():
    flat = smooth(channels=1)
    frames = stored({"flat": flat, "deep": flat[:, :, None]})
    assert frames["flat"].shape == (48, 64)
    assert frames["deep"].shape == (48, 64, 1)
    assert Image.open(io.BytesIO(frames.encoded("flat"))).mode == "L"
    assert rms(frames["flat"], flat) < 2


def test_png_is_exact():
    array = np.random.default_rng(1).integers(0, 255, (31, 17, 3), "u1")
    frames = stored({0: array, 1: array[:, :, 0]}, image_codec="png")
    assert frames.content_type(0) == "image/png"
    assert (frames[0] == array).all()
    assert (frames[1] == array[:, :, 0]).all()
    assert (np.asarray(Image.open(io.BytesIO(frames.encoded(0)))) == array[:, :, ::-1]).all()


def test_raw_is_exact_and_a_picture_of_no_format():
    array = smooth()
    frames = stored({0: array}, image_codec="raw")
    assert (frames[0] == array).all()
    assert frames.content_type(0) == "application/octet-stream"


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).integers(0, 60_000, (9, 8), "u2"),
        np.random.default_rng(0).standard_normal((9, 8, 3)).astype("f4"),
        np.random.default_rng(0).integers(0, 255, (9, 8, 4), "u1"),
        np.random.default_rng(0).integers(0, 255, (9, 8, 2), "u1"),
        np.arange(12, dtype=">i4").reshape(3, 4),
        np.array([[True, False]]),
        np.arange(7, dtype="u1"),
        np.zeros((2, 3, 4, 5), "u1"),
        np.zeros((0, 8, 3), "u1"),
        np.ones((1, 65_501), "u1"),
        np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
        np.asfortranarray(np.arange(12, dtype="u2").reshape(3, 4)),
    ],
    ids=lambda a: f"{a.dtype} {a.shape}",
)
def test_whatever_is_no_picture_of_8_bits_is_kept_bit_for_bit(array: Any):
    frames = stored({0: array})
    back = frames[0]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.dtype.byteorder == array.dtype.byteorder
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_each_look_gives_a_fresh_picture():
    frames = stored({0: smooth(), 1: np.arange(6, dtype="u2")})
    for frame_id in (0, 1):
        frames[frame_id][:] = 0
        assert frames[frame_id].any()


# --- PIL images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_pillow_images_become_jpeg(mode: str):
    image = Image.fromarray(smooth()).convert(mode)
    frames = stored({0: image})
    back = frames[0]
    assert frames.content_type(0) == "image/jpeg"
    assert (back.mode, back.size) == (mode, image.size)
    assert type(back) is Image.Image  # of no file
    assert rms(np.asarray(back), np.asarray(image)) < 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "I;16"])
def test_alpha_palette_and_16_bits_are_png_and_exact(mode: str):
    if mode == "I;16":
        image = Image.fromarray(np.arange(2000, dtype="u2").reshape(40, 50))
    else:
        image = Image.fromarray(smooth()).convert(mode)
    assert image.mode == mode
    frames = stored({0: image})
    assert frames.content_type(0) == "image/png"
    assert frames[0].mode == mode
    assert frames[0].tobytes() == image.tobytes()
    assert frames[0].getpalette() == image.getpalette()


@pytest.mark.parametrize("mode", ["CMYK", "F", "YCbCr", "HSV"])
def test_other_modes_are_kept_as_pixels(mode: str):
    image = Image.fromarray(smooth()).convert("L" if mode == "F" else "RGB").convert(mode)
    frames = stored({0: image})
    assert frames.content_type(0) == "application/octet-stream"
    assert frames[0].mode == mode
    assert frames[0].tobytes() == image.tobytes()


def test_transparent_rgb_is_not_lossy():
    image = Image.fromarray(smooth())
    image.info["transparency"] = (1, 2, 3)
    frames = stored({0: image})
    assert frames.content_type(0) == "image/png"
    assert frames[0].tobytes() == image.tobytes()
    assert frames[0].info["transparency"] == (1, 2, 3)


def test_an_image_of_an_open_file_is_tied_to_no_file(tmp_path: Path):
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        bundle = make_bundle({}, {0: opened}, image_codec="png")
    (tmp_path / "a.png").unlink()
    _, frames = entry_of(bundle).value()
    assert (np.asarray(frames[0]) == smooth()).all()
    pickle.dumps(frames[0])


# --- the mapping ----------------------------------------------------------------------------------


def test_frames_are_a_mapping_by_text_that_takes_ints():
    frames = stored({0: JPEG, "x": PNG, np.int64(5): b"five"})
    assert isinstance(frames, Mapping)
    assert list(frames) == ["0", "x", "5"]
    assert len(frames) == 3
    assert 0 in frames and "0" in frames and np.int32(5) in frames
    assert 1 not in frames and None not in frames and 0.0 not in frames
    assert dict(frames) == {"0": JPEG, "x": PNG, "5": b"five"}
    assert frames.get(9) is None
    for missing in (1, "nope"):
        for look in (frames.__getitem__, frames.encoded, frames.content_type):
            with pytest.raises(KeyError, match=str(missing)):
                look(missing)
    assert repr(frames) == "<Frames: 3 frames>"


def test_content_types_are_told_by_the_first_bytes():
    kinds = {
        "image/jpeg": JPEG,
        "image/png": PNG,
        "image/gif": b"GIF89a....",
        "image/bmp": b"BM....",
        "image/tiff": b"II*\0....",
        "image/webp": b"RIFF....WEBPVP8 ",
        "image/avif": b"\0\0\0\x20ftypavif....",
        "application/octet-stream": b"anything",
    }
    frames = stored(kinds)
    assert {kind: frames.content_type(kind) for kind in kinds} == {kind: kind for kind in kinds}


def test_pickled_frames_hold_their_bytes():
    array, image = smooth(), Image.fromarray(smooth())
    frames = stored({0: JPEG, 1: array, 2: image, 3: np.arange(6, dtype="u2")})
    again = pickle.loads(pickle.dumps(frames))
    assert list(again) == list(frames)
    for frame_id in frames:
        assert again.encoded(frame_id) == frames.encoded(frame_id)
        assert again.content_type(frame_id) == frames.content_type(frame_id)
    assert (again[1] == frames[1]).all()
    assert again[2].tobytes() == frames[2].tobytes()
    assert again[3].tolist() == list(range(6))


def test_frames_may_be_stored_again_as_they_are():
    first = stored({0: JPEG, 1: smooth(), 2: Image.fromarray(smooth())})
    second = stored(first, image_codec="jpeg:10")
    for frame_id in first:
        assert second.encoded(frame_id) == first.encoded(frame_id)
    assert (second[1] == first[1]).all()
    third = stored({}, metadata={"keyframes": []})
    assert dict(third) == {}


def test_who_stored_the_frames_gets_what_every_later_caller_gets():
    metadata = {"keyframes": [{"frame_id": 3, "at": (1, 2)}, {"frame_id": 1}], "text": "x" * 9000}
    bundle = make_bundle(metadata, {3: smooth(), 1: JPEG})
    cold_metadata, cold = bundle.decoded()
    warm_metadata, warm = entry_of(bundle).value()
    assert cold_metadata == warm_metadata == metadata
    assert cold_metadata is not metadata
    assert list(cold) == list(warm) == ["3", "1"]
    assert (cold[3] == warm[3]).all()
    assert (cold[3] != smooth()).any()  # decoded from the JPEG, as later
    assert cold[1] == warm[1] == JPEG
    assert bundle.decoded(load_images=False) == metadata
    assert list(bundle.decoded(frames=["1"])[1]) == ["1"]
    assert len(bundle) == 2


# --- decoding -------------------------------------------------------------------------------------


def jpeg_of(array: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "JPEG", quality=95)
    return out.getvalue()


async def test_decode_gives_arrays_for_bytes_and_what_was_stored_for_others():
    rgb = smooth()
    image = Image.fromarray(rgb)
    frames = stored({0: jpeg_of(rgb), 1: rgb, 2: image, 3: jpeg_of(smooth(channels=1))})
    found = await frames.decode()
    assert list(found) == ["0", "1", "2", "3"]
    assert rms(found["0"], rgb[:, :, ::-1]) < 3  # blue first, as OpenCV has it
    assert rms(found["1"], rgb) < 3
    assert isinstance(found["2"], Image.Image)
    assert found["3"].shape == (48, 64)
    assert found["0"].flags.writeable
    as_rgb = await frames.decode([0, 1], channels="rgb")
    assert rms(as_rgb["0"], rgb) < 3
    assert rms(as_rgb["1"], rgb) < 3  # its order is its own


async def test_decode_of_some_and_of_none():
    frames = stored({n: jpeg_of(smooth()) for n in range(4)})
    assert list(await frames.decode([2, "0"])) == ["2", "0"]
    assert await frames.decode([]) == {}
    with pytest.raises(KeyError, match="9"):
        await frames.decode([9])
    with pytest.raises(ValueError, match="channels: 'bgra'"):
        await frames.decode(channels="bgra")
    with pytest.raises(ValueError, match="threads: 0"):
        await frames.decode(threads=0)


async def test_decoding_never_runs_in_the_loops_thread(monkeypatch: pytest.MonkeyPatch):
    seen: set[int] = set()
    real = pictures.decode_bytes

    def watched(data: bytes, channels: str) -> Any:
        seen.add(threading.get_ident())
        return real(data, channels)

    monkeypatch.setattr(pictures, "decode_bytes", watched)
    frames = stored({n: jpeg_of(smooth()) for n in range(20)})
    for threads in (None, 1, 3):
        await frames.decode(threads=threads)
    assert seen and threading.get_ident() not in seen


def test_decode_here_is_the_same_without_a_loop():
    frames = stored({0: jpeg_of(smooth()), 1: smooth()})
    found = frames.decode_here(threads=2)
    assert list(found) == ["0", "1"]
    assert found["0"].shape == (48, 64, 3)


async def test_alpha_and_palette_bytes_decode_to_three_channels():
    out = io.BytesIO()
    Image.fromarray(smooth()).convert("P").save(out, "PNG")
    assert (await stored({0: out.getvalue()}).decode())["0"].shape == (48, 64, 3)


@pytest.mark.parametrize("data", [b"no picture at all", jpeg_of(smooth())[:-400], PNG])
async def test_bytes_that_are_no_picture_name_the_frame(data: bytes):
    frames = stored({"good": jpeg_of(smooth()), "bad one": data})
    assert frames["bad one"] == data  # it is what was stored
    with pytest.raises(ValueError, match="frame 'bad one': "):
        await frames.decode()
    assert list(await frames.decode(["good"])) == ["good"]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("size", (9, 9)),
        ("format", "png"),
        ("done", {"from": "array"}),
        ("done", {"from": "array", "shape": [1, 2, 3]}),
        ("done", {"from": "array", "shape": ["a"]}),
        ("done", {"from": "array", "shape": 5}),
    ],
)
def test_a_record_that_does_not_fit_names_the_frame(field: str, wrong: Any):
    """What an entry says of a picture is not believed."""
    good = pictures.encode_array(smooth(), pictures.ImageCodec.parse("jpeg"), "bgr")
    forged = pictures.EncodedImage(
        **{**{n: getattr(good, n) for n in good.__slots__}, field: wrong}
    )
    bundle = Bundle({}, [frames_module._Frame(5, forged, good.data)])
    _, frames = entry_of(bundle).value()
    with pytest.raises(ValueError, match="frame 5: "):
        frames[5]
    assert frames.encoded(5) == good.data


# --- ids and shapes of the argument ---------------------------------------------------------------


def test_a_list_is_in_the_order_of_the_metadata():
    metadata = {"keyframes": [{"frame_id": 30}, {"frame_number": 7}, {}, {"frame_id": "x"}]}
    assert frame_ids(metadata) == [30, 7, 2, "x"]
    assert dict(stored([b"a", b"b", b"c", b"d"], metadata)) == {
        "30": b"a",
        "7": b"b",
        "2": b"c",
        "x": b"d",
    }


def test_a_mapping_comes_in_the_order_of_the_metadata():
    metadata = {"keyframes": [{"frame_id": 2}, {"frame_id": 1}]}
    assert list(stored({1: b"a", "2": b"b"}, metadata)) == ["2", "1"]


def test_without_a_list_of_keyframes_ids_are_those_given():
    assert frame_ids({"video": "v"}) is None
    assert frame_ids(None) is None
    assert list(stored([b"a", b"b"])) == ["0", "1"]
    assert list(stored(iter([b"a", b"b"]))) == ["0", "1"]


@pytest.mark.parametrize(
    ("metadata", "images", "message"),
    [
        ({}, {1: b"a", "1": b"b"}, "frame id '1' is there twice"),
        ({"keyframes": [{"frame_id": 1}, {"frame_id": "1"}]}, [b"a", b"b"], "'1' is there twice"),
        ({"keyframes": [{"frame_id": 1}, {}]}, [b"a", b"b"], "frame id 1 is there twice"),
        ({"keyframes": [{}, {}]}, [b"a"], "1 images for 2 keyframes"),
        ({"keyframes": [{}]}, [b"a", b"b"], "2 images for 1 keyframes"),
        ({"keyframes": [{}, {}]}, {0: b"a"}, "no image for frame 1 of the metadata"),
        ({"keyframes": [{}]}, {0: b"a", 5: b"b"}, "frame '5', which the metadata does not have"),
        ({}, {True: b"a"}, "frame id True: an int or a text"),
        ({}, {1.5: b"a"}, "frame id 1.5: an int or a text"),
        ({}, {"": b"a"}, "1 to 255 bytes"),
        ({}, {"x" * 256: b"a"}, "1 to 255 bytes"),
        ({}, {0: b""}, "frame 0 has no bytes"),
    ],
)
def test_ids_that_do_not_fit_are_refused(metadata: Any, images: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make_bundle(metadata, images)


def test_ids_of_any_text_come_back():
    ids: list[Any] = ["a/b", "ü" * 100, "x" * 255, " ", "..", -5, 2**70, "\U0001f3ac"]
    assert list(stored(dict.fromkeys(ids, b"x"))) == [str(frame_id) for frame_id in ids]


@pytest.mark.parametrize("wrong", [None, 5, "a path", b"bytes", Path("one")])
def test_images_that_are_no_collection_are_refused(wrong: Any):
    with pytest.raises(ValueTypeError, match="images: a mapping or a list"):
        make_bundle({}, wrong)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "NoneType is no picture"),
        ([1, 2], "list is no picture"),
        (object(), "object is no picture"),
        (np.ma.array([[1]], mask=[[0]]), r"filled\(\)"),
        (np.array([[object()]]), "objects"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_place(image: Any, message: str):
    with pytest.raises(ValueTypeError, match=message) as caught:
        make_bundle({}, {0: b"a", "b c": image})
    assert caught.value.path == "$.frames['b c']"


def test_moving_pictures_are_refused():
    out = io.BytesIO()
    still = Image.fromarray(smooth())
    still.save(out, "GIF", save_all=True, append_images=[still.rotate(90)])
    with Image.open(out) as moving, pytest.raises(ValueTypeError, match="several frames"):
        make_bundle({}, [moving])


@pytest.mark.parametrize("codec", ["jpeg:0", "jpeg:101", "jpeg:x", "webp", "png:5", "", "JPEG", 5])
def test_unknown_codecs_are_named(codec: Any):
    with pytest.raises(ValueError, match="image_codec"):
        make_bundle({}, [b"a"], image_codec=codec)


def test_unknown_channel_orders_are_named():
    with pytest.raises(ValueError, match="channels: 'gbr'"):
        make_bundle({}, [b"a"], channels="gbr")


def test_metadata_that_cannot_be_stored_has_its_place():
    with pytest.raises(ValueTypeError) as caught:
        draft(make_bundle({"model": object()}, [b"a"]))
    assert "model" in caught.value.path


# --- reading ----------------------------------------------------------------------------------


class Far:
    """A container behind a read function that remembers what was asked."""

    def __init__(self, bundle: Bundle) -> None:
        self.bytes = draft(bundle).compose().tobytes()
        self.reads: list[tuple[int, int]] = []
        self.entry = _core.Entry.from_reader(len(self.bytes), self.read, KEY)

    def read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        return self.bytes[offset : offset + size]

    def covers(self, data: bytes) -> bool:
        at = self.bytes.index(data)
        return any(o < at + len(data) and at < o + n for o, n in self.reads)


PICTURES = {n: np.random.default_rng(n).bytes(60_000) for n in range(20)}


def test_metadata_alone_reads_no_picture():
    far = Far(make_bundle({"keyframes": [{}] * 20}, PICTURES))
    far.reads.clear()
    assert far.entry.value(frames=False) == {"keyframes": [{}] * 20}
    assert not any(far.covers(data) for data in list(PICTURES.values())[:18])
    assert sum(size for _, size in far.reads) < 65_536


def test_chosen_pictures_are_the_only_ones_read():
    far = Far(make_bundle({}, PICTURES))
    far.reads.clear()
    _, frames = far.entry.value(frames=[3, "11", "unknown"])
    assert [n for n in range(18) if far.covers(PICTURES[n])] == [3, 11]
    far.reads.clear()
    assert dict(frames) == {"3": PICTURES[3], "11": PICTURES[11]}
    assert far.reads == []  # at hand when the value is


def test_all_pictures_of_a_far_entry_come_in_few_reads():
    far = Far(make_bundle({}, PICTURES))
    far.reads.clear()
    _, frames = far.entry.value()
    assert len(far.reads) <= 3
    far.reads.clear()
    assert dict(frames) == {str(n): data for n, data in PICTURES.items()}
    assert far.reads == []


def test_frames_of_a_store_outlive_the_file(tmp_path: Path):
    store = _core.Store(str(tmp_path), max_bytes=200_000_000)
    assert store.put(draft(make_bundle({}, PICTURES))) is None
    entry = store.fetch(KEY)
    assert isinstance(entry, _core.Entry)
    _, frames = entry.value()
    del entry
    assert store.delete(KEY)
    assert dict(frames) == {str(n): data for n, data in PICTURES.items()}


def test_a_damaged_picture_is_noticed_before_the_frames_are_handed_out():
    image = bytearray(draft(make_bundle({"a": 1}, PICTURES)).compose().tobytes())
    image[image.index(PICTURES[7]) + 30_000] ^= 1
    entry = _core.Entry.from_bytes(image, KEY)
    assert entry.value(frames=False) == {"a": 1}
    assert entry.value(frames=[6])[1][6] == PICTURES[6]
    for frames in (True, [7]):
        with pytest.raises(_core.DamagedError):
            entry.value(frames=frames)


def test_nothing_is_decoded_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    real = pictures.EncodedImage.decode

    def watched(image: pictures.EncodedImage) -> Any:
        asked.append(image.format)
        return real(image)

    monkeypatch.setattr(pictures.EncodedImage, "decode", watched)
    frames = stored({0: smooth(), 1: smooth()})
    assert (len(frames), list(frames), frames.encoded(0)[:2]) == (2, ["0", "1"], b"\xff\xd8")
    assert asked == []
    assert frames[1].any()
    assert asked == ["jpeg"]


# --- without Pillow -------------------------------------------------------------------------------


def test_without_pillow_bytes_work_and_the_rest_names_the_extra(tmp_path: Path):
    (tmp_path / "entry").write_bytes(
        draft(make_bundle({"a": 1}, {0: JPEG, 1: smooth(), 2: np.arange(6, dtype="u2")}))
        .compose()
        .tobytes()
    )
    (tmp_path / "value").write_bytes(
        draft({"picture": Image.fromarray(smooth())}).compose().tobytes()
    )
    (tmp_path / "frame.jpg").write_bytes(JPEG)
    script = """
import sys
sys.modules["PIL"] = None  # as if it were not installed
from pathlib import Path
import numpy as np
from cogcache import MissingExtraError
from cogcache._core import Draft, Entry, UnsupportedError
from cogcache.frames import make_bundle
here = Path(sys.argv[1])

def refused(work):
    try:
        work()
    except MissingExtraError as error:
        assert isinstance(error, ImportError)
        assert "[images]" in str(error), error
        return
    raise SystemExit("not refused")

gray, wide = np.zeros((4, 5), "u1"), np.arange(6, dtype="u2")
refused(lambda: make_bundle({}, [gray]))  # never silently another codec
refused(lambda: make_bundle({}, [gray], image_codec="png"))
bundle = make_bundle({}, {"file": here / "frame.jpg", "wide": wide})
raw = make_bundle({}, [gray], image_codec="raw")
for made in (bundle, raw):
    draft = Draft(made, b"k", meta={}, refreshed_ms=0, ttl_ms=None)
    Entry.from_bytes(draft.compose().tobytes()).value()
metadata, frames = Entry.from_bytes((here / "entry").read_bytes()).value()
assert metadata == {"a": 1} and frames[0] == (here / "frame.jpg").read_bytes()
assert frames.encoded(1)[:2] == b"\\xff\\xd8" and frames.content_type(1) == "image/jpeg"
assert frames[2].tolist() == list(range(6))
refused(lambda: frames[1])
refused(lambda: frames.decode_here([0]))
try:
    Entry.from_bytes((here / "value").read_bytes()).value()
except UnsupportedError as error:
    assert error.args[0] == "missing-extra" and "[images]" in error.args[1]
else:
    raise SystemExit("not refused")
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=300)
