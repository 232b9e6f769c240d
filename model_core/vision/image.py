"""Bytes of a picture to pixels, with every limit checked before memory is spent."""

import io

from PIL import Image, ImageOps

from model_core.errors import InvalidInput

FORMATS = ("JPEG", "PNG", "WEBP")
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def decode_image(data: bytes, *, max_pixels: int, field: str = "image") -> Image.Image:
    """The picture as RGB, upright as its EXIF orientation says; see-through parts lie on white.

    The size is read from the header and checked before any pixel is decoded. Of an animation the first frame is taken.

    Args:
        data: A whole JPEG, PNG or WebP file.
        max_pixels: Most pixels (height times width) a picture may have.
        field: Name that errors give to the value.

    Raises:
        InvalidInput: empty, another format, over the limit, truncated or broken.
        MemoryError: where the process may take no more.
    """
    if not data:
        raise InvalidInput(field, "is empty (0 bytes)")
    image = _open(data, max_pixels, field)
    try:
        image.load()
        return _on_white(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for broken bytes
        raise InvalidInput(field, f"the {image.format} file is truncated or broken ({error})") from error


def _open(data: bytes, max_pixels: int, field: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        # Pillow's own limit is met while it reads the header; of the two limits the smaller one is told.
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise InvalidInput(field, f"has more pixels than the limit of {limit:,} pixels") from error
    except MemoryError:
        raise
    except Exception as error:  # broken headers surface as OSError, SyntaxError, ValueError, struct.error ...
        raise InvalidInput(field, "is no JPEG, PNG or WebP file that can be read") from error
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidInput(
            field, f"{width} x {height} is {width * height:,} pixels, over the limit of {max_pixels:,} pixels"
        )
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_GREY:
        # Pillow would cut 16-bit grey off at 255; scale it instead.
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
