"""Recordings of any format decode to blocks of 16 kHz mono; truncation is reported."""

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from model_core.audio.decoding import SAMPLE_RATE, open_audio
from model_core.errors import InvalidInput
from tests.unit.audio.recordings import FORMATS, encoded, read, vorbis, warble, wav

SECONDS = 3.0


class FailingFile(io.BytesIO):
    """A file that cannot be read from an offset on."""

    def __init__(self, data: bytes, good: int) -> None:
        super().__init__(data)
        self._good = good

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self._good:
            raise ConnectionError("the store is down")
        return super().read(min(self._good - self.tell(), 1_000))


def long_header(data: bytes, factor: int) -> bytes:
    """A WAV file whose header claims a multiple of its length."""
    at = data.index(b"data") + 4
    (size,) = struct.unpack("<I", data[at : at + 4])
    return data[:at] + struct.pack("<I", size * factor) + data[at + 4 :]


@pytest.mark.parametrize(("container", "codec", "rate"), FORMATS)
def test_a_whole_file_decodes_completely_and_is_not_truncated(container: str, codec: str, rate: int) -> None:
    samples, truncated = read(encoded(warble(SECONDS, rate), rate, container, codec))
    assert samples.dtype == np.float32
    assert len(samples) / SAMPLE_RATE == pytest.approx(SECONDS, abs=0.1)
    assert not truncated


@pytest.mark.parametrize(("container", "codec", "rate"), [one for one in FORMATS if one[0] != "mp4"])
def test_a_file_cut_in_half_gives_its_first_half_and_is_truncated(container: str, codec: str, rate: int) -> None:
    data = encoded(warble(SECONDS, rate), rate, container, codec)
    samples, truncated = read(data[: len(data) // 2])
    whole, _ = read(data)
    assert 0.25 * SECONDS < len(samples) / SAMPLE_RATE < 0.75 * SECONDS
    assert np.corrcoef(samples[:12_000], whole[:12_000])[0, 1] > 0.9
    assert truncated


def test_a_truncated_mp4_with_a_leading_index_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as output:
        stream = output.add_stream("aac", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(warble(SECONDS, 44_100), format="fltp", layout="mono")
        frame.sample_rate = 44_100
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    data = path.read_bytes()
    assert not read(data)[1]
    samples, truncated = read(data[: int(0.6 * len(data))])
    assert 1 < len(samples) / SAMPLE_RATE < SECONDS
    assert truncated


def test_an_mp4_without_its_index_is_refused_with_the_reason() -> None:
    data = encoded(warble(SECONDS, 44_100), 44_100, "mp4", "aac")
    with pytest.raises(InvalidInput, match="it is truncated, its index is missing"):
        read(data[: len(data) // 2])


@pytest.mark.parametrize("factor", [2, 1_000])
def test_an_exaggerated_length_in_the_header_only_marks_the_file_as_truncated(factor: int) -> None:
    data = wav(warble(SECONDS, SAMPLE_RATE)[0])
    samples, truncated = read(long_header(data, factor))
    assert np.array_equal(samples, read(data)[0])
    assert truncated


def test_a_wav_of_unknown_length_from_a_pipe_is_complete() -> None:
    data = bytearray(wav(warble(SECONDS, SAMPLE_RATE)[0]))
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = b"\xff\xff\xff\xff"
    samples, truncated = read(bytes(data))
    assert len(samples) == SECONDS * SAMPLE_RATE
    assert not truncated


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (96_000, 2), (48_000, 6)])
def test_telephone_studio_and_surround_audio_decode_alike(rate: int, channels: int) -> None:
    samples, truncated = read(encoded(warble(SECONDS, rate, channels), rate, "flac", "flac"))
    assert len(samples) == SECONDS * SAMPLE_RATE
    assert not truncated
    spectrum = np.abs(np.fft.rfft(samples))
    assert spectrum.argmax() / SECONDS == pytest.approx(440, abs=1)


def test_a_vbr_mp3_without_a_header_is_complete() -> None:
    quiet, loud = 1e-3 * warble(SECONDS, 44_100), warble(SECONDS, 44_100)
    parts = [encoded(part, 44_100, "mp3", "libmp3lame", write_xing="0", id3v2_version="0") for part in (quiet, loud)]
    samples, truncated = read(parts[0] + parts[1])
    assert len(samples) / SAMPLE_RATE == pytest.approx(2 * SECONDS, abs=0.2)
    assert not truncated


@pytest.mark.parametrize(
    "tag", [b"TAG" + bytes(125), bytes(1_000), b"LYRICSBEGIN la la la"], ids=["id3", "zeros", "lyrics"]
)
def test_an_mp3_with_trailing_data_is_complete(tag: bytes) -> None:
    data = encoded(warble(SECONDS, 44_100), 44_100, "mp3", "libmp3lame")
    samples, truncated = read(data + tag)
    assert np.array_equal(samples, read(data)[0])
    assert not truncated


def links() -> dict[str, tuple[bytes, ...]]:
    mono, stereo = warble(1, 48_000), warble(1, 48_000, 2)
    return {
        "vorbis, alike": (vorbis(mono, 48_000),) * 2,
        "vorbis, other rate and channels": (vorbis(mono, 48_000), vorbis(warble(1, 22_050, 2), 22_050)),
        "opus, other channels": (encoded(mono, 48_000, "ogg", "libopus"), encoded(stereo, 48_000, "ogg", "libopus")),
        "another codec": (encoded(mono, 48_000, "ogg", "libopus"), vorbis(mono, 48_000)),
    }


@pytest.mark.parametrize("kind", links())
def test_every_link_of_a_chained_ogg_is_decoded(kind: str) -> None:
    one, other = links()[kind]
    for chain in (one + other, other + one + other):
        samples, truncated = read(chain)
        count = 2 if chain == one + other else 3
        assert len(samples) / SAMPLE_RATE == pytest.approx(count, abs=0.06 * count)
        assert np.abs(samples[-SAMPLE_RATE // 2 :]).max() > 0.2
        assert not truncated


def test_a_chained_ogg_cut_off_in_its_last_link_is_truncated() -> None:
    one, other = links()["vorbis, other rate and channels"]
    samples, truncated = read(one + other[: len(other) // 2])
    assert len(samples) >= SAMPLE_RATE
    assert truncated


def test_an_mp3_whose_rate_changes_midway_is_decoded_to_its_end() -> None:
    parts = [encoded(warble(SECONDS, rate, 2), rate, "mp3", "libmp3lame") for rate in (44_100, 16_000)]
    samples, _ = read(parts[0] + parts[1])
    assert len(samples) / SAMPLE_RATE == pytest.approx(2 * SECONDS, abs=0.2)


def test_missing_audio_in_the_middle_becomes_silence() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as output:
        stream = output.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(warble(SECONDS, 48_000), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            assert packet.pts is not None
            if packet.pts * packet.time_base >= 1:
                packet.pts += int(2 / packet.time_base)
                packet.dts = packet.pts
            output.mux(packet)
    samples, _ = read(file.getvalue())
    assert len(samples) / SAMPLE_RATE == pytest.approx(SECONDS + 2, abs=0.1)
    assert np.abs(samples[int(1.2 * SAMPLE_RATE) : int(2.8 * SAMPLE_RATE)]).max() == 0


def test_tags_and_their_embedded_pictures_are_skipped() -> None:
    def size(count: int) -> bytes:
        return bytes((count >> shift) & 127 for shift in (21, 14, 7, 0))

    picture = zlib.compress(bytes(4 << 20))
    frame = b"APIC" + size(len(picture) + 4) + struct.pack(">H", 9) + size(4 << 20) + picture
    tag = b"ID3\4\0\0" + size(len(frame)) + frame
    data = encoded(warble(SECONDS, 44_100), 44_100, "mp3", "libmp3lame", id3v2_version="0")
    with open_audio(tag + tag + data, max_seconds=60) as sound:
        assert not sound.container.streams.video
        assert np.array_equal(np.concatenate(list(sound)), read(data)[0])
        assert not sound.truncated


def test_read_errors_propagate_and_are_not_taken_for_the_end() -> None:
    for container, codec, rate in FORMATS:
        data = encoded(warble(SECONDS, rate), rate, container, codec)
        for good in (0, len(data) // 2):
            with pytest.raises(ConnectionError), open_audio(FailingFile(data, good), max_seconds=60) as sound:
                list(sound)


def test_an_open_file_is_read_from_its_start_and_stays_open() -> None:
    data = wav(warble(1, SAMPLE_RATE)[0])
    file = io.BytesIO(data)
    file.seek(100)
    with open_audio(file, max_seconds=60) as sound:
        assert np.array_equal(np.concatenate(list(sound)), read(data)[0])
    assert not file.closed


def test_blocks_are_short_however_long_the_recording() -> None:
    with open_audio(wav(warble(20, SAMPLE_RATE)[0]), max_seconds=60) as sound:
        assert max(map(len, sound)) < 2 * SAMPLE_RATE


def test_reading_stops_at_the_length_limit() -> None:
    with open_audio(wav(np.zeros(60 * SAMPLE_RATE, np.float32)), max_seconds=5, field="media") as sound:
        with pytest.raises(InvalidInput, match="media: is over the limit of 5 s"):
            list(sound)
        assert sound.seconds < 8


def test_truncation_is_unknown_before_the_end() -> None:
    with open_audio(wav(np.zeros(5 * SAMPLE_RATE, np.float32)), max_seconds=60) as sound:
        next(iter(sound))
        with pytest.raises(RuntimeError, match="reading it to its end"):
            assert sound.truncated


def test_an_empty_recording_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"audio: holds no audio: 0 s"):
        read(wav(np.zeros(0, np.float32)))


def test_a_file_whose_packets_do_not_decode_is_refused() -> None:
    data = encoded(warble(SECONDS, 44_100), 44_100, "mp4", "aac")
    begin, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    with pytest.raises(InvalidInput, match=r"is damaged: \d+ of its \d+ packets do not decode"):
        read(data[:begin] + b"\xff" * (end - begin) + data[end:])


def test_an_unsupported_codec_is_refused_by_name_and_never_run() -> None:
    data = encoded(warble(1.0, 16_000), 16_000, "matroska", "wavpack")

    with pytest.raises(InvalidInput, match="is in wavpack; accepted are aac"):
        read(data)


def test_a_path_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        open_audio(tmp_path / "nothing.wav", max_seconds=60)
