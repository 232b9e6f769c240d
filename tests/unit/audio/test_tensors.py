"""Recordings in every accepted format decode to 16 kHz mono; everything else is refused with a reason."""

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model_core.audio.tensors import (
    CLIP_SECONDS,
    SAMPLE_RATE,
    decode_audio,
    decode_pcm16,
    encode_wav,
    is_silent,
    split_clips,
)
from model_core.errors import InvalidInput

FORMATS = [
    ("wav", "pcm_s16le", 44_100),
    ("wav", "pcm_f32le", 22_050),
    ("wav", "pcm_u8", 16_000),
    ("mp3", "libmp3lame", 44_100),
    ("flac", "flac", 48_000),
    ("ogg", "libopus", 48_000),
    ("webm", "libopus", 48_000),
    ("mp4", "aac", 44_100),
]


def tone(seconds: float, rate: int, hertz: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(channels: NDArray[np.float32], rate: int, container: str, codec: str) -> bytes:
    """[C, S] floats as a file of that format."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        layout = "mono" if len(channels) == 1 else "stereo"
        stream = output.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=layout)
        frame.sample_rate = rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def wav_header(rate: int, channels: int, kind: int = 1, bits: int = 16, size: int = 64_000) -> bytes:
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, min(rate * align, 2**32 - 1), align, bits)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
    )


def loudest_hertz(samples: torch.Tensor) -> float:
    return float(torch.fft.rfft(samples).abs().argmax()) * SAMPLE_RATE / len(samples)


@pytest.mark.parametrize(("container", "codec", "rate"), FORMATS)
def test_a_tone_in_every_format_keeps_its_length_pitch_and_loudness(container: str, codec: str, rate: int) -> None:
    samples = decode_audio(encoded(tone(1.0, rate)[None], rate, container, codec), max_seconds=10)
    assert samples.dtype == torch.float32
    assert len(samples) == pytest.approx(SAMPLE_RATE, rel=0.08)
    assert loudest_hertz(samples) == pytest.approx(440, abs=3)
    assert float(samples[4_000:12_000].abs().max()) == pytest.approx(0.5, abs=0.05)


def test_channels_are_averaged() -> None:
    left = tone(0.5, 16_000)
    samples = decode_audio(encoded(np.stack([left, np.zeros_like(left)]), 16_000, "wav", "pcm_f32le"), max_seconds=1)
    assert np.allclose(samples.numpy(), left / 2, atol=1e-6)


def test_wav_round_trips_bit_for_bit() -> None:
    sound = (tone(0.5, SAMPLE_RATE) * 32767).astype(np.int16)
    samples = decode_audio(encode_wav(sound, SAMPLE_RATE), max_seconds=1)
    assert np.array_equal((samples.numpy() * 32768).round().astype(np.int16), sound)


def test_a_file_decodes_like_its_bytes(tmp_path: Path) -> None:
    data = encode_wav(np.full(8_000, 1_000, np.int16), SAMPLE_RATE)
    (tmp_path / "a.wav").write_bytes(data)
    assert torch.equal(decode_audio(tmp_path / "a.wav", max_seconds=1), decode_audio(data, max_seconds=1))


@pytest.mark.parametrize(("container", "codec", "rate"), FORMATS)
def test_a_recording_over_the_limit_is_refused_and_one_at_the_limit_is_not(
    container: str, codec: str, rate: int
) -> None:
    data = encoded(tone(2.0, rate)[None], rate, container, codec)
    with pytest.raises(InvalidInput, match=r"audio: is over the limit of 1 s"):
        decode_audio(data, max_seconds=1)
    assert len(decode_audio(data, max_seconds=2)) > 0


def test_a_limit_in_minutes_is_named_in_minutes() -> None:
    data = encode_wav(np.zeros(31 * 60 * 4_000, np.int16), 4_000)
    with pytest.raises(InvalidInput, match="input_audio: is over the limit of 30 min"):
        decode_audio(data, max_seconds=1_800, field="input_audio")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"not audio at all" * 100,
        bytes(range(256)) * 40,
        b"RIFF\xff\xff\xff\xffWAVE",
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"ID3\x04\0\0\0\0\0\x23" + b"\0" * 4_000,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 500,
    ],
)
def test_data_that_is_not_audio_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="audio"):
        decode_audio(data, max_seconds=60)


@given(
    st.binary(max_size=600),
    st.sampled_from([b"", b"RIFF\0\1\0\0WAVEfmt ", b"OggS\0\2", b"fLaC\0", b"ID3\4", b"\xff\xfb\x90"]),
)
def test_garbage_never_raises_anything_but_invalid_input(data: bytes, start: bytes) -> None:
    try:
        decode_audio(start + data, max_seconds=5)
    except InvalidInput:
        return


@pytest.mark.parametrize(("container", "codec", "rate"), FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_decoded_partly_or_refused(container: str, codec: str, rate: int, kept: float) -> None:
    data = encoded(tone(1.0, rate)[None], rate, container, codec)
    try:
        samples = decode_audio(data[: int(len(data) * kept)], max_seconds=10)
    except InvalidInput:
        return
    assert 0 < len(samples) <= 1.1 * SAMPLE_RATE


@pytest.mark.parametrize(
    ("rate", "channels"), [(1, 1), (3_999, 1), (384_001, 1), (2_000_000_000, 1), (16_000, 9), (16_000, 255)]
)
def test_absurd_rates_and_channel_counts_are_refused(rate: int, channels: int) -> None:
    with pytest.raises(InvalidInput, match="outside"):
        decode_audio(wav_header(rate, channels) + bytes(64_000), max_seconds=60)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_samples_that_are_not_finite_are_refused(value: float) -> None:
    sound = tone(0.5, SAMPLE_RATE)
    sound[100] = value
    data = wav_header(SAMPLE_RATE, 1, kind=3, bits=32, size=sound.nbytes) + sound.tobytes()
    with pytest.raises(InvalidInput, match="finite"):
        decode_audio(data, max_seconds=60)


def test_samples_beyond_full_scale_are_clipped() -> None:
    sound = 1e6 * tone(0.5, SAMPLE_RATE)
    data = wav_header(SAMPLE_RATE, 1, kind=3, bits=32, size=sound.nbytes) + sound.tobytes()
    assert float(decode_audio(data, max_seconds=60).abs().max()) == 1.0


def test_hours_of_compressed_silence_are_refused_by_length() -> None:
    data = encoded(np.zeros((1, 360 * 8_000), np.float32), 8_000, "flac", "flac")
    assert len(data) < 360 * 8_000 / 40
    with pytest.raises(InvalidInput, match="over the limit of 5 min"):
        decode_audio(data, max_seconds=300)


def test_a_picture_or_an_empty_container_holds_no_audio() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("mjpeg", rate=1)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuvj420p"
        output.mux(stream.encode(av.VideoFrame(16, 16, "yuvj420p")))
        output.mux(stream.encode(None))
    with pytest.raises(InvalidInput, match="holds no audio stream"):
        decode_audio(file.getvalue(), max_seconds=5)


def test_too_short_a_recording_is_refused() -> None:
    with pytest.raises(InvalidInput, match="under the minimum"):
        decode_audio(encode_wav(np.zeros(1_000, np.int16), SAMPLE_RATE), max_seconds=5)


def test_silence_decodes_and_is_detected() -> None:
    assert is_silent(decode_audio(encode_wav(np.zeros(8_000, np.int16), SAMPLE_RATE), max_seconds=5))
    assert is_silent(torch.zeros(0))
    assert is_silent(0.0009 * torch.ones(10))
    assert not is_silent(torch.tensor([0.0, -0.01]))


def test_raw_samples_are_averaged_and_resampled() -> None:
    left = (tone(1.0, 48_000) * 32767).astype("<i2")
    samples = decode_pcm16(np.stack([left, left], axis=1).tobytes(), sample_rate=48_000, channels=2, max_seconds=5)
    assert len(samples) == SAMPLE_RATE
    assert loudest_hertz(samples) == pytest.approx(440, abs=1)


@pytest.mark.parametrize(
    ("data", "rate", "channels", "reason"),
    [
        (b"", 16_000, 1, "0 bytes"),
        (bytes(6_401), 16_000, 1, "whole 16-bit frames"),
        (bytes(6_402), 16_000, 2, "whole 16-bit frames"),
        (bytes(6_400), 0, 1, "sample rate"),
        (bytes(6_400), 16_000, 0, "channels"),
        (bytes(64_000), 16_000, 1, "limit of 1 s"),
        (bytes(3_000), 16_000, 1, "under the minimum"),
    ],
)
def test_invalid_raw_samples_are_refused(data: bytes, rate: int, channels: int, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        decode_pcm16(data, sample_rate=rate, channels=channels, max_seconds=1)


@given(st.integers(0, 100 * SAMPLE_RATE))
def test_clips_cover_the_recording_without_gaps_or_overlaps(count: int) -> None:
    clips = split_clips(torch.zeros(1).expand(count))
    assert sum(len(clip.samples) for clip in clips) == count
    assert [clip.index for clip in clips] == list(range(len(clips)))
    assert all(0 < len(clip.samples) <= CLIP_SECONDS * SAMPLE_RATE for clip in clips)
    assert all(len(clip.samples) == CLIP_SECONDS * SAMPLE_RATE for clip in clips[:-1])
    edges = [0.0] + [clip.end_seconds for clip in clips]
    assert [clip.start_seconds for clip in clips] == edges[:-1]
    assert edges[-1] == count / SAMPLE_RATE


def test_recording_of_exactly_thirty_seconds_makes_one_clip() -> None:
    data = encode_wav(np.full(30 * SAMPLE_RATE, 1_000, np.int16), SAMPLE_RATE)
    (clip,) = split_clips(decode_audio(data, max_seconds=60))
    assert (clip.start_seconds, clip.end_seconds, len(clip.samples)) == (0.0, 30.0, 30 * SAMPLE_RATE)


def test_speech_in_any_single_channel_is_kept() -> None:
    voice, silence = tone(0.5, 16_000), np.zeros(8_000, np.float32)
    for channels in ([voice, silence], [silence, voice]):
        samples = decode_audio(encoded(np.stack(channels), 16_000, "wav", "pcm_f32le"), max_seconds=1)
        assert float(samples.abs().max()) == pytest.approx(0.25, abs=0.01)


def test_recording_of_exactly_sixty_seconds_makes_two_clips() -> None:
    assert [clip.end_seconds for clip in split_clips(torch.zeros(60 * SAMPLE_RATE))] == [30.0, 60.0]
