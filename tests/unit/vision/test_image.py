import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from model_core.errors import InvalidInput
from model_core.vision.image import decode_image
from tests.paths import DATA

LIMIT = 1_000_000


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and has almost no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def colour(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    pixel = image.getpixel((x, y))
    assert isinstance(pixel, tuple)
    return pixel


def noisy_jpeg() -> bytes:
    return encoded(Image.effect_noise((200, 200), 80).convert("RGB"), "JPEG")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_supported_format_becomes_rgb_of_the_same_size(kind: str) -> None:
    image = decode_image(encoded(Image.new("RGB", (30, 20), "red"), kind), max_pixels=LIMIT)
    assert (image.mode, image.size) == ("RGB", (30, 20))
    red, green, blue = colour(image, 10, 10)
    assert red > 250
    assert green < 5
    assert blue < 5


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(InvalidInput, match="JPEG, PNG or WebP") as refused:
        decode_image(encoded(Image.new("RGB", (4, 4)), kind), max_pixels=LIMIT, field="messages[0]")
    assert refused.value.field == "messages[0]"


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_data_that_is_not_a_picture_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_image(data, max_pixels=LIMIT)


@pytest.mark.parametrize("side", [20_000, 12_000, 1_001])
def test_too_many_pixels_are_refused_from_the_header_with_the_limit_named(side: int) -> None:
    with pytest.raises(InvalidInput, match="limit of 1,000,000 pixels"):
        decode_image(png_header(side, side), max_pixels=LIMIT)


def test_a_picture_of_exactly_the_limit_is_accepted() -> None:
    assert decode_image(encoded(Image.new("RGB", (40, 25)), "PNG"), max_pixels=1_000).size == (40, 25)


@pytest.mark.parametrize(
    "data",
    [
        noisy_jpeg(),
        encoded(Image.effect_noise((200, 200), 80), "PNG"),
        encoded(Image.effect_noise((99, 99), 80), "WEBP"),
    ],
)
def test_truncated_file_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_image(data[: len(data) // 2], max_pixels=LIMIT)


def test_a_png_with_fewer_pixels_than_its_header_says_is_refused() -> None:
    with pytest.raises(InvalidInput, match="truncated or broken"):
        decode_image(png_header(500, 500), max_pixels=LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_used(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "red", "lime")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert decode_image(data, max_pixels=LIMIT).getpixel((4, 4)) == (0, 0, 255)


def test_exif_orientation_turns_the_picture_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter clockwise to be upright
    image = decode_image(encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif), max_pixels=LIMIT)
    assert image.size == (20, 30)


def transparent_palette() -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Image.new("RGBA", (4, 4), (255, 0, 0, 0)), (255, 255, 255)),
        (lambda: Image.new("LA", (4, 4), (0, 0)), (255, 255, 255)),
        (transparent_palette, (255, 255, 255)),
        (lambda: Image.new("I;16", (4, 4), 0xFFFF), (255, 255, 255)),
        (lambda: Image.new("I;16", (4, 4), 0x8000), (127, 127, 127)),
        (lambda: Image.new("1", (4, 4), 1), (255, 255, 255)),
    ],
)
def test_unusual_modes_are_converted_to_their_visible_colours(
    make: Callable[[], Image.Image], expected: tuple[int, int, int]
) -> None:
    assert decode_image(encoded(make(), "PNG"), max_pixels=LIMIT).getpixel((1, 1)) == expected


def test_a_cmyk_jpeg_keeps_its_colour() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    red, green, blue = colour(decode_image(data, max_pixels=LIMIT), 8, 8)
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize("name", ["exif_xres_ascii.jpg", "exif_srational_m1_0.jpg"])
def test_partly_invalid_exif_still_turns_the_picture(name: str) -> None:
    data = (DATA / "pictures" / name).read_bytes()
    plain = Image.open(io.BytesIO(data)).convert("RGB").transpose(Image.Transpose.ROTATE_270)
    assert decode_image(data, max_pixels=LIMIT).tobytes() == plain.tobytes()


@pytest.mark.parametrize("name", ["img_png_bigicc.png", "img_png_bigitxt.png"])
def test_oversized_metadata_does_not_invalidate_a_picture(name: str) -> None:
    assert decode_image((DATA / "pictures" / name).read_bytes(), max_pixels=LIMIT).size == (224, 224)


def test_transparent_16_bit_colour_becomes_white() -> None:
    image = decode_image((DATA / "pictures" / "img_rgb16_trns.png").read_bytes(), max_pixels=LIMIT)
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_transparent_16_bit_grey_becomes_white() -> None:
    image = Image.new("I;16", (4, 4), 0x1234)
    assert decode_image(encoded(image, "PNG", transparency=0x1234), max_pixels=LIMIT).getpixel((1, 1)) == (255,) * 3
    assert decode_image(encoded(image, "PNG", transparency=0x1235), max_pixels=LIMIT).getpixel((1, 1)) == (18,) * 3


def test_semi_transparent_colours_are_blended_with_white() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert decode_image(encoded(image, "PNG"), max_pixels=LIMIT).getpixel((1, 1)) == (255, 127, 127)
