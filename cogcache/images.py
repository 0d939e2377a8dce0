"""Pictures as they are stored: encoding and decoding of arrays and PIL images.

Pillow and numpy are imported when a picture needs them, never before. What was done to a picture
is recorded with it, so that it comes back as what it was.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cogcache._arrays import dtype_name, dtype_of
from cogcache._core import UnsupportedError
from cogcache.exceptions import MissingExtraError, ValueTypeError, shown

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["EncodedImage", "ImageCodec", "content_type_of"]

RAW: Final = "raw"  # pixels of a PIL image as they lie in memory
ARRAY: Final = "array"  # bytes of an array in C order
JPEG: Final = "jpeg"
PNG: Final = "png"

_MAGIC: Final = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
_MEANT: Final = (MissingExtraError, UnsupportedError, ValueError, MemoryError)
_JPEG_SIDE: Final = 65_500  # the longest side that a JPEG can have
_PNG_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
# Bits that one pixel of each PIL mode has in tobytes(); rows begin at whole bytes.
_PIXEL_BITS: Final = {
    **dict.fromkeys(("L", "P"), 8),
    **dict.fromkeys(("LA", "La", "PA", "I;16", "I;16L", "I;16B", "I;16N"), 16),
    **dict.fromkeys(("RGB", "YCbCr", "LAB", "HSV"), 24),
    **dict.fromkeys(("RGBA", "RGBa", "RGBX", "CMYK", "I", "F"), 32),
    "1": 1,
}


def content_type_of(data: bytes) -> str:
    """The MIME type of encoded bytes, by their first ones; ``application/octet-stream`` if none."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    return "application/octet-stream"


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One picture in its stored form.

    Attributes:
        format: ``jpeg``, ``png``, ``raw`` (pixels of a PIL image) or ``array`` (bytes of an array).
        size: Width and height in pixels.
        mode: The PIL mode, or the stored name of an array's dtype.
        done: What it was made from, and how: what the way back needs.
        data: The bytes; a part number while they are still in an entry.
    """

    format: str
    size: tuple[int, int]
    mode: str
    done: Mapping[str, Any] = field(repr=False)
    data: Any = field(repr=False)

    @property
    def content_type(self) -> str:
        """MIME type of ``data``."""
        if self.format in (JPEG, PNG):
            return f"image/{self.format}"
        return "application/octet-stream"

    def fields(self, data: Any) -> list[Any]:
        """The document's form, with ``data`` in the place of the bytes."""
        return [self.format, list(self.size), self.mode, dict(self.done), data]

    @classmethod
    def from_fields(cls, fields: Any) -> EncodedImage:
        """The way back from ``fields``.

        Raises:
            ValueError: Another shape than that.
        """
        kind, size, mode, done, data = fields
        good = isinstance(kind, str) and isinstance(mode, str) and isinstance(done, dict)
        if not good or not isinstance(size, list) or [type(side) for side in size] != [int, int]:
            raise ValueError("an image that is none")
        return cls(kind, (size[0], size[1]), mode, done, data)

    def with_data(self, data: bytes) -> EncodedImage:
        """The same picture with its bytes in hand."""
        return EncodedImage(self.format, self.size, self.mode, self.done, data)

    def decode(self) -> Any:
        """The picture as what it was stored from: an array, or a PIL image tied to no file.

        Raises:
            MissingExtraError: Pillow is needed and not installed.
            UnsupportedError: Its dtype is unknown here, or needs a package that is not installed.
            ValueError: The bytes are not the picture that is recorded.
        """
        try:
            if self.done.get("from") == "array":
                return _array_of(self)
            if self.format == RAW:
                return _raw_image_of(self)
            return _opened(self.data, (self.format,), self.size)
        except _MEANT:
            raise
        except Exception as error:  # a record that is none, or whatever Pillow says of its bytes
            raise ValueError(f"a picture that is none: {error!r}") from error


@dataclass(frozen=True, slots=True)
class ImageCodec:
    """How arrays and plain PIL images are stored: ``jpeg:<quality>``, ``png`` or ``raw``."""

    format: str
    quality: int = 95

    @classmethod
    def parse(cls, text: str) -> ImageCodec:
        """Read ``"jpeg:95"``, ``"jpeg"``, ``"png"`` or ``"raw"``.

        Raises:
            ValueError: Anything else.
        """
        kind, _, quality = text.partition(":") if isinstance(text, str) else ("", "", "")
        if kind == JPEG and not quality:
            return cls(JPEG)
        if kind == JPEG and quality.isdecimal() and len(quality) < 4 and 1 <= int(quality) <= 100:
            return cls(JPEG, int(quality))
        if kind in (PNG, RAW) and not quality:
            return cls(kind)
        raise ValueError(
            f"image_codec: {shown(text)}; 'jpeg:<1 to 100>' (default 'jpeg:95'), 'png' and 'raw' "
            f"are"
        )


def pillow(purpose: str) -> Any:
    """The module ``PIL.Image``.

    Raises:
        MissingExtraError: Pillow is not installed; names what it is needed for.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError(
            f"{purpose} needs Pillow: pip install 'cogcache-video[images]'"
        ) from None
    return Image


# --- arrays ---------------------------------------------------------------------------------------


def encode_array(array: np.ndarray[Any, Any], codec: ImageCodec, channels: str) -> EncodedImage:
    """An array as a picture: uint8 with 1 or 3 channels by the codec, all others bit for bit.

    Args:
        array: Height x width, or height x width x channels.
        codec: For uint8 with 1 or 3 channels.
        channels: What the three are: ``"bgr"`` or ``"rgb"``.

    Raises:
        MissingExtraError: The codec needs Pillow.
        ValueTypeError: An array that cannot be stored at all.
    """
    name = dtype_name(array.dtype)
    done: dict[str, Any] = {"from": "array", "shape": list(array.shape)}
    height, width = array.shape[:2] if array.ndim >= 2 else (1, array.size)
    planes = array.shape[2] if array.ndim == 3 else 1
    if (
        codec.format == RAW
        or name != "|u1"
        or array.ndim not in (2, 3)
        or planes not in (1, 3)
        or not 0 < height <= _JPEG_SIDE
        or not 0 < width <= _JPEG_SIDE
    ):
        return EncodedImage(ARRAY, (width, height), name, done, array.tobytes())
    if planes == 3:
        done["channels"] = channels
    image = pillow("storing an array frame as a picture").fromarray(_to_rgb(array, channels))
    return _saved(image, codec, done, "L" if planes == 1 else "RGB")


def _to_rgb(array: Any, channels: str) -> Any:
    import numpy as np

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and channels == "bgr":
        array = array[:, :, ::-1]
    return np.ascontiguousarray(array)


def _array_of(image: EncodedImage) -> Any:
    import numpy as np

    shape = tuple(image.done["shape"])
    if image.format == ARRAY:
        return np.frombuffer(bytearray(image.data), dtype_of(image.mode)).reshape(shape)
    picture = _opened(image.data, (image.format,), image.size)
    array = np.asarray(picture)
    if image.done.get("channels") == "bgr":
        array = array[:, :, ::-1]
    return np.array(array, order="C").reshape(shape)


# --- PIL images -----------------------------------------------------------------------------------


def is_image(value: Any) -> bool:
    """Is it a PIL image? Only asked where PIL is imported."""
    return isinstance(value, pillow("an image").Image)


def encode_pillow(image: Image, codec: ImageCodec) -> EncodedImage:
    """A PIL image as a frame: RGB and L by the codec, alpha, palette and 16 bit as PNG, others raw.

    Raises:
        ValueTypeError: A picture of several frames.
    """
    _refuse_sequence(image)
    lossy = image.mode in ("RGB", "L") and "transparency" not in image.info
    fits = 0 < image.width <= _JPEG_SIDE and 0 < image.height <= _JPEG_SIDE
    if codec.format == RAW or not fits or image.mode not in _PNG_MODES:
        return EncodedImage.from_fields(encode_exact(image))
    return _saved(image, codec if lossy else ImageCodec(PNG), {"from": "pil"}, image.mode)


def encode_exact(image: Image) -> list[Any]:
    """Mode, size, pixels, palette and plain information of a PIL image, nothing lost.

    Raises:
        ValueTypeError: A picture of several frames, or of a mode that is not stored.
    """
    _refuse_sequence(image)
    if image.mode not in _PIXEL_BITS:
        raise ValueTypeError(f"a PIL image of mode {image.mode}; store image.convert('RGB')")
    if _is_long_line(image.size):
        raise ValueTypeError(f"a PIL image of {image.width} x {image.height}, without a pixel")
    done: dict[str, Any] = {"from": "pil", "info": _plain_info(image.info)}
    data = image.tobytes()
    if image.palette is not None:
        done["palette"] = [image.palette.mode, image.palette.tobytes()]
    return EncodedImage(RAW, image.size, image.mode, done, None).fields(data)


def decode_exact(fields: Any) -> Any:
    """The picture for the fields of a document.

    Raises:
        ValueError: They are not those of ``encode_exact``: only pixels are decoded with the value,
            since a packed picture may be far larger than its bytes.
    """
    image = EncodedImage.from_fields(fields)
    if image.format != RAW or not isinstance(image.data, bytes):
        raise ValueError("an image without pixels")
    return image.decode()


def _is_long_line(size: tuple[int, int]) -> bool:
    """No pixels at all, but so many rows that an image of them takes memory."""
    return 0 in size and max(size) > _JPEG_SIDE


def _refuse_sequence(image: Image) -> None:
    if getattr(image, "n_frames", 1) > 1:
        raise ValueTypeError("a PIL image of several frames; store the bytes of its file")


def _plain_info(info: Mapping[Any, Any]) -> dict[str, Any]:
    """What the file said beside the pixels (exif, dpi, icc_profile ...), as far as it is plain."""
    simple = (bool, int, float, str, bytes, type(None))

    def plain(value: Any) -> bool:
        if type(value) is tuple:
            return all(type(item) in simple for item in value)
        return type(value) in simple

    return {name: value for name, value in info.items() if type(name) is str and plain(value)}


def _raw_image_of(image: EncodedImage) -> Any:
    width, height = image.size
    row = (width * _PIXEL_BITS.get(image.mode, 0) + 7) // 8
    if min(width, height) < 0 or row * height != len(image.data) or _is_long_line(image.size):
        raise ValueError(f"{len(image.data)} bytes are no {width} x {height} pixels {image.mode}")
    module = pillow("an image")
    made = module.frombytes(image.mode, image.size, image.data)
    palette = image.done.get("palette")
    if palette is not None:
        made.putpalette(palette[1], palette[0])
    made.info.update(image.done.get("info") or {})
    return made


def _saved(image: Any, codec: ImageCodec, done: dict[str, Any], mode: str) -> EncodedImage:
    out = io.BytesIO()
    if codec.format == JPEG:
        image.save(out, "JPEG", quality=codec.quality)
        done["quality"] = codec.quality
    else:
        image.save(out, "PNG", compress_level=1)
    return EncodedImage(codec.format, image.size, mode, done, out.getvalue())


def _opened(data: bytes, formats: tuple[str, ...], size: tuple[int, int] | None) -> Any:
    """Decode picture bytes whole; the result holds on to nothing."""
    module = pillow("decoding a picture")
    with module.open(io.BytesIO(data), formats=[name.upper() for name in formats]) as opened:
        if size is not None and opened.size != size:
            raise ValueError(f"a picture of {opened.size}, recorded as {size}")
        opened.load()
        return opened.copy()


def decode_bytes(data: bytes, channels: str) -> Any:
    """Encoded bytes of any common format as a uint8 array: height x width (x 3 channels).

    Raises:
        MissingExtraError: Pillow is not installed.
        ValueError: No picture.
    """
    import numpy as np

    module = pillow("decoding a frame")
    try:
        with module.open(io.BytesIO(data)) as opened:
            picture = opened if opened.mode in ("L", "RGB") else opened.convert("RGB")
            array = np.asarray(picture)
    except module.UnidentifiedImageError as error:
        raise ValueError("no picture") from error
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # truncated, too large, broken: Pillow has many words for it
        raise ValueError(f"a picture that is none: {error!r}") from error
    return np.array(array[:, :, ::-1] if array.ndim == 3 and channels == "bgr" else array)
