"""Media that are not what they claim: sizes, formats, durations, decoding time."""

import io
import struct
import threading
import time
import zlib

import pytest
from PIL import Image

from model_core.data.data_errors import Reason, SampleError
from model_core.data.media import Limits, TooSlow, audio_seconds, check_image, check_media, time_limit
from model_core.data.picture_size import holds_all_pixels
from tests.unit.data.samples import encoded, picture, speech, spoken, voice


def taller(data: bytes, kind: str, height: int) -> bytes:
    """The file with another height in its header, otherwise unchanged."""
    changed = bytearray(data)
    if kind == "PNG":
        changed[20:24] = struct.pack(">I", height)
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    else:
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        changed[at + 5 : at + 7] = struct.pack(">H", height)
    return bytes(changed)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_with_a_false_size_in_its_header_is_named(kind: str) -> None:
    whole = picture(1, kind, (64, 48))
    check_image("a", "images[0]", whole, Limits())
    with pytest.raises(SampleError, match="says 64 x 480, but it contains fewer pixels") as caught:
        check_image("a", "images[0]", taller(whole, kind, 480), Limits())
    assert caught.value.reason == Reason.IMAGE_SIZE


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA", "I;16"])
def test_a_png_of_any_type_has_enough_data_for_its_pixels(mode: str) -> None:
    image = Image.new("I;16", (37, 51)) if mode == "I;16" else Image.new("RGB", (37, 51), (9, 8, 7)).convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    assert holds_all_pixels(file.getvalue(), "PNG")
    assert not holds_all_pixels(taller(file.getvalue(), "PNG", 60), "PNG")


def test_an_interlaced_png_has_enough_data_for_its_pixels() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def png(width: int, height: int, rows: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + body

    assert holds_all_pixels(png(1, 1, b"\0\x80"), "PNG")
    # (columns, rows) of the seven passes of 3 x 3 grey pixels, by hand from RFC 2083; each row has a filter byte.
    passes = [(1, 1), (0, 1), (1, 0), (1, 1), (2, 1), (1, 2), (3, 1)]
    size = sum(rows * (1 + columns) for columns, rows in passes if columns)
    assert holds_all_pixels(png(3, 3, bytes(size)), "PNG")
    assert not holds_all_pixels(png(3, 3, bytes(size - 1)), "PNG")


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    with pytest.raises(SampleError) as caught:
        check_image("a", "images[0]", taller(picture(1, size=(60_000, 1)), "PNG", 60_000), Limits())
    assert caught.value.reason == Reason.IMAGE_SIZE
    with pytest.raises(SampleError, match="exceeds the limit of 100 pixels"):
        check_image("a", "images[0]", picture(1), Limits(pixels=100))


def test_a_file_suffix_of_another_format_is_named_and_a_missing_one_is_not() -> None:
    check_image("a", "images[0]", picture(1, "JPEG"), Limits(), name="1.JPEG")
    check_image("a", "images[0]", picture(1, "WEBP"), Limits(), name="1")
    with pytest.raises(SampleError, match=r"1\.png contains WEBP, not PNG") as caught:
        check_image("a", "images[0]", picture(1, "WEBP"), Limits(), name="1.png")
    assert caught.value.reason == Reason.IMAGE_FORMAT


def test_duration_is_that_of_the_decoded_audio() -> None:
    assert audio_seconds("a", "speech[0]", encoded(voice(1, 1.25)), Limits()) == 1.25
    sample = spoken(1, speech=(speech(1, 2.0),))
    check_media(sample, Limits())
    wrong = spoken(1, speech=(type(sample.speech[0])(data=sample.speech[0].data, seconds=3.0),))
    with pytest.raises(SampleError, match=r"is 3\.00 s, but the recording has 2\.00 s") as caught:
        check_media(wrong, Limits())
    assert caught.value.reason == Reason.SECONDS


def test_a_time_limit_interrupts_only_what_exceeds_it() -> None:
    with pytest.raises(TooSlow), time_limit(0.02):
        time.sleep(5)
    with time_limit(30):
        pass


def test_in_another_thread_there_is_no_time_limit() -> None:
    done = threading.Event()

    def work() -> None:
        with time_limit(0.001):
            time.sleep(0.01)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done.is_set()


def test_slow_decoding_is_a_sample_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_core.data.media.decode_audio", lambda *args, **options: time.sleep(5))
    with pytest.raises(SampleError, match=r"decoding exceeds the limit of 0\.02 s") as caught:
        audio_seconds("a", "speech[0]", b"x", Limits(decoding_seconds=0.02))
    assert caught.value.reason == Reason.AUDIO
