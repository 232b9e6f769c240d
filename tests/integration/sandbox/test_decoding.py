"""A child process returns the same data and errors as the decoder in this process."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from model_core.audio.decoding import open_audio
from model_core.audio.planning import plan_audio, plan_clips
from model_core.errors import InvalidInput as Refused
from model_core.vision.image import decode_image
from model_core.vision.video import sample_frames
from services.shared.sandbox.decoders import Decoders
from services.shared.sandbox.inspecting import inspect
from services.shared.sandbox.settings import VisionLimits
from services.shared.service_errors import InvalidInput
from tests.paths import DATA
from tests.unit.audio.test_layouts import CODECS, encoded
from tests.videos import make_video

LIMITS = VisionLimits()
PICTURES = sorted(path for path in (DATA / "pictures").iterdir() if path.suffix in (".jpg", ".png"))
# Limits for sample_frames.
FRAMES: dict[str, Any] = {
    "max_frames": 4,
    "max_seconds": 60.0,
    "max_pixels": 1_000_000,
    "max_decoding_seconds": 60.0,
    "field": "video",
}


class Remote(io.RawIOBase):
    """A file that only this process can read."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.bytes_read = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        self.bytes_read += len(data)
        return data


def recordings() -> dict[str, bytes]:
    made = {
        f"{codec} {layout}": encoded(layout, *kind[:3])
        for kind in CODECS
        for codec in kind[1:2]
        for layout in ("mono", "5.1", "7.1")
    }
    vorbis = io.BytesIO()
    soundfile.write(vorbis, np.random.default_rng(0).normal(scale=0.1, size=(48_000, 2)), 44_100, format="OGG")
    made["vorbis"] = vorbis.getvalue()
    return {name: data for name, data in made.items() if data is not None}


def whole(data: bytes) -> np.ndarray[Any, Any]:
    with open_audio(data, max_seconds=60) as sound:
        return np.concatenate(list(sound))


def test_recordings_of_every_codec_decode_as_in_process(decoders: Decoders) -> None:
    made = recordings()
    assert len(made) >= 15
    for name, data in made.items():
        assert np.array_equal(decoders.samples(data, max_seconds=60, field="audio"), whole(data)), name


def test_a_recording_may_be_bytes_a_path_or_an_open_file(decoders: Decoders, tmp_path: Path) -> None:
    data = encoded("stereo", "mp3", "libmp3lame", "fltp")
    assert data is not None
    path = tmp_path / "a.mp3"
    path.write_bytes(data)
    for source in (path, Remote(data)):
        assert np.array_equal(decoders.samples(source, max_seconds=60, field="audio"), whole(data))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_pictures_decode_as_in_process(decoders: Decoders, path: Path) -> None:
    data = path.read_bytes()
    found, here = decoders.picture(data, max_pixels=1_000_000), decode_image(data, max_pixels=1_000_000)
    assert ((found.width, found.height), bytes(found.rgb)) == (here.size, here.tobytes())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1", "LA", "I;16"])
def test_pictures_of_every_format_and_mode_decode_inside_the_sandbox(decoders: Decoders, kind: str, mode: str) -> None:
    file = io.BytesIO()
    try:
        Image.new("RGB", (40, 30), "red").convert(mode if mode != "I;16" else "I;16").save(file, kind)
    except (OSError, ValueError):
        pytest.skip(f"no {kind} is {mode}")
    found = decoders.picture(file.getvalue(), max_pixels=10_000)
    assert bytes(found.rgb) == decode_image(file.getvalue(), max_pixels=10_000).tobytes()


@pytest.mark.parametrize(
    ("kind", "codec"), [("mp4", "libx264"), ("mp4", "mpeg4"), ("webm", "libvpx"), ("webm", "libvpx-vp9")]
)
def test_video_frames_decode_as_in_process(decoders: Decoders, kind: str, codec: str) -> None:
    data = make_video(kind, codec, loudness=0.1, rotation=90 if kind == "mp4" else 0)
    found, here = decoders.frames(data, **FRAMES), sample_frames(data, **FRAMES)
    assert [((each.width, each.height), bytes(each.rgb)) for each in found] == [
        (each.size, each.tobytes()) for each in here
    ]


def test_audio_of_a_video_is_decoded_and_a_silent_video_has_none(decoders: Decoders) -> None:
    options: dict[str, Any] = {"max_seconds": 60, "field": "video", "of_video": True, "min_seconds": 0.0}
    assert len(decoders.samples(make_video("mp4", loudness=0.1), **options)) > 16_000
    assert len(decoders.samples(make_video("mp4"), **options)) == 0


def inspected_in_process(data: bytes) -> dict[str, Any]:
    limits = ("max_image_bytes", "max_image_pixels", "max_video_pixels")
    found = inspect(io.BytesIO(data), field="file", **{name: getattr(LIMITS, name) for name in limits})
    names = ("kind", "container", "codec", "seconds", "channels", "sample_rate")
    return {name: found.get(name) for name in names}


def test_inspection_gives_the_same_result_as_in_process(decoders: Decoders) -> None:
    files = [*recordings().values(), make_video("webm", "libvpx"), make_video("mp4", loudness=0.2)]
    files += [path.read_bytes() for path in PICTURES]
    for data in files:
        assert decoders.inspect(data, field="file", limits=LIMITS) == inspected_in_process(data)


def test_inspection_reads_little_of_a_long_remote_file(decoders: Decoders) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16_000 * 600, np.int16), 16_000, format="WAV")
    remote = Remote(file.getvalue())
    assert decoders.inspect(remote, field="file", limits=LIMITS)["seconds"] == 600.0  # type: ignore[arg-type]
    assert remote.bytes_read < 3 * 2**20


def test_clips_are_planned_as_in_process(decoders: Decoders) -> None:
    data = (DATA / "held_out" / "audio").glob("*")
    speech = np.concatenate([soundfile.read(path, dtype="int16")[0] for path in sorted(data)[:8]])
    file = io.BytesIO()
    soundfile.write(file, speech, 16_000, format="FLAC")
    there = plan_audio(decoders.audio(Remote(file.getvalue()), max_seconds=600, field="media_id"))  # type: ignore[arg-type]
    here = plan_clips(file.getvalue(), max_seconds=600)
    assert [(cut, samples.tobytes()) for cut, samples in there] == [(cut, samples.tobytes()) for cut, samples in here]
    assert there.summary == here.summary
    assert there.summary.clips >= 1


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"", "is empty: 0 bytes"),
        (b"no sound" * 100, "does not decode as audio"),
        (encoded("5.1.4", "wav", "pcm_s16le", "s16"), "10 channels are outside 1 to 8"),
        (encoded("mono", "wav", "pcm_s16le", "s16"), "is over the limit of 0.2 s"),
    ],
)
def test_refusals_name_the_field_and_say_why(decoders: Decoders, data: bytes, refusal: str) -> None:
    with pytest.raises(InvalidInput, match=refusal) as refused:
        decoders.samples(data, max_seconds=0.2, field="messages[0].audio")
    assert refused.value.field == "messages[0].audio"


def test_a_missing_path_is_refused(decoders: Decoders, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        decoders.samples(tmp_path / "nothing.wav", max_seconds=1, field="audio")


def test_errors_raised_by_reading_a_file_propagate(decoders: Decoders) -> None:
    class Failing(Remote):
        def read(self, count: int = -1) -> bytes:
            raise ConnectionError("the store is away")

    with pytest.raises(ConnectionError, match="the store is away"):
        decoders.inspect(Failing(bytes(1_000)), field="file", limits=LIMITS)  # type: ignore[arg-type]


def test_avif_is_refused_by_its_name(decoders: Decoders) -> None:
    data = (DATA / "pictures" / "img_x.avif").read_bytes()
    with pytest.raises(InvalidInput, match="is an AVIF picture; supported are JPEG, PNG and WebP"):
        decoders.inspect(data, field="file", limits=LIMITS)


def test_a_silent_video_whose_frames_do_not_decode_is_refused(decoders: Decoders) -> None:
    data = bytearray(make_video("mp4"))
    start = data.index(b"mdat") + 4
    data[start : start + 2_000] = bytes(len(data[start : start + 2_000]))
    with pytest.raises(InvalidInput, match="decode"):
        decoders.inspect(bytes(data), field="file", limits=LIMITS)


def test_a_playlist_never_opens_the_files_that_it_names(decoders: Decoders, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encoded("mono", "wav", "pcm_s16le", "s16") or b"")
    playlist = f"ffconcat version 1.0\nfile {tmp_path}/a.wav\n".encode()
    with pytest.raises((InvalidInput, Refused)):
        decoders.inspect(playlist, field="file", limits=LIMITS)


def test_codec_names_are_those_of_ffmpeg() -> None:
    assert {kind[1] for kind in CODECS if kind[1] in av.codecs_available} == {kind[1] for kind in CODECS}
