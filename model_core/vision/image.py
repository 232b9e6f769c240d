"""Decoding images, with every limit checked before memory is allocated."""

import io

import numpy as np
from PIL import Image

from model_core.errors import InvalidInput
from model_core.vision.png import is_deep, without_metadata

FORMATS = ("JPEG", "PNG", "WEBP")
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_ORIENTATION = 0x0112  # EXIF
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(data: bytes, *, max_pixels: int, field: str = "image") -> Image.Image:
    """The image as RGB, turned upright by its EXIF orientation; transparency is blended onto white.

    The size is read from the header and checked before any pixel is decoded. Of an animation, the first frame is used.
    Broken or large metadata is ignored.

    Args:
        data: A whole JPEG, PNG or WebP file.
        max_pixels: Maximum height times width.
        field: Field that errors name.

    Raises:
        InvalidInput: empty, another format, over the limit, truncated or broken.
        MemoryError: the process is at its memory limit.
    """
    if not data:
        raise InvalidInput(field, "is empty (0 bytes)")
    image = _open(data, max_pixels, field)
    name = image.format
    try:
        image.load()
        transpose = _transpose(image)
        if is_deep(data):
            _reduce_transparency(image)
        if name == "WEBP":
            image = image.copy()  # frees the decoder's buffers, three times the size of the image
        image = _on_white(image)
        return image if transpose is None else image.transpose(transpose)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds of exceptions for broken files
        raise InvalidInput(field, f"the {name} file is truncated or broken ({error})") from error


def _open(data: bytes, max_pixels: int, field: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(without_metadata(data)), formats=FORMATS)
    except Image.DecompressionBombError as error:
        # Pillow's own limit applies while it reads the header; report the smaller of the two.
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise InvalidInput(field, f"has more pixels than the limit of {limit:,} pixels") from error
    except MemoryError:
        raise
    except Exception as error:  # broken headers surface as OSError, SyntaxError, ValueError, struct.error ...
        raise InvalidInput(field, "is not a readable JPEG, PNG or WebP file") from error
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidInput(
            field, f"{width} x {height} is {width * height:,} pixels, over the limit of {max_pixels:,} pixels"
        )
    return image


def _transpose(image: Image.Image) -> Image.Transpose | None:
    """How to turn the image upright; None where it is, or where its EXIF data cannot be read."""
    try:
        return _TRANSPOSES.get(image.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # Pillow raises many kinds of exceptions for broken metadata
        return None


def _reduce_transparency(image: Image.Image) -> None:
    """Reduces the transparent colour from 16 to 8 bits, as Pillow has done with the pixels."""
    colour = image.info.get("transparency")
    if isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_GREY:
        # Pillow would clip 16-bit grey at 255; scale it instead.
        grey = image.convert("I")
        flat = grey.point(lambda value: value * (1 / 257)).convert("L")
        if isinstance(clear := image.info.get("transparency"), int):
            flat.paste(255, mask=_equal(grey, clear))
        return flat.convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    flat = Image.new("RGB", layer.size, "white")
    flat.paste(layer, mask=layer)
    return flat


def _equal(grey: Image.Image, value: int) -> Image.Image:
    """A mask of the pixels with this value."""
    return Image.fromarray((np.asarray(grey) == value).astype(np.uint8) * 255)
