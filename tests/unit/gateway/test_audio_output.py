import io
from typing import get_args

import av
import numpy as np
import numpy.typing as npt
import pytest

from services.gateway.audio.encoding import PCM_RATE, AudioEncoder, AudioFormat, encode_file

FORMATS: tuple[AudioFormat, ...] = get_args(AudioFormat)
RATE = 22_050


def tone(seconds: float, rate: int = RATE) -> npt.NDArray[np.int16]:
    return (np.sin(np.arange(int(seconds * rate)) / rate * 440 * 2 * np.pi) * 12_000).astype("<i2")


def encoded(audio_format: AudioFormat, samples: npt.NDArray[np.int16], chunk: int) -> bytes:
    encoder = AudioEncoder(audio_format)
    pieces: list[bytes] = []
    for start in range(0, len(samples), chunk):
        pieces += encoder.push(samples[start : start + chunk].tobytes(), RATE)
    return b"".join([*pieces, encoder.finish()])


def decoded(audio_format: AudioFormat, data: bytes) -> tuple[npt.NDArray[np.float64], int]:
    if audio_format == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float64) / 2**15, PCM_RATE
    with av.open(io.BytesIO(data), "r") as container:
        rate = container.streams.audio[0].rate
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        frames = [*container.decode(audio=0), None]
        return np.concatenate([out.to_ndarray()[0] for frame in frames for out in resampler.resample(frame)]), rate


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("chunk", [977, 60_000])
def test_streamed_audio_decodes_to_the_same_samples(audio_format: AudioFormat, chunk: int) -> None:
    samples, rate = decoded(audio_format, encoded(audio_format, tone(1.0), chunk))
    assert abs(len(samples) / rate - 1.0) < 0.08
    middle = samples[rate // 4 : rate // 4 + rate // 2]
    spectrum = np.abs(np.fft.rfft(middle))
    assert abs(np.argmax(spectrum) * 2 - 440) <= 4
    assert abs(np.sqrt(np.mean(middle**2)) - 12_000 / 2**15 / np.sqrt(2)) < 0.03


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_lossless_formats_keep_every_sample(audio_format: AudioFormat) -> None:
    samples, rate = decoded(audio_format, encode_file(audio_format, tone(0.5).tobytes(), RATE))
    assert rate == RATE
    assert np.array_equal((samples * 2**15).astype(np.int16), tone(0.5))


@pytest.mark.parametrize("audio_format", FORMATS)
def test_an_empty_audio_stream_is_not_an_error(audio_format: AudioFormat) -> None:
    data = AudioEncoder(audio_format).finish()
    if audio_format in ("wav", "flac", "opus"):
        assert data


def test_a_complete_wav_has_its_length_and_a_streamed_one_starts_with_a_header() -> None:
    whole = encode_file("wav", tone(0.5).tobytes(), RATE)
    assert int.from_bytes(whole[4:8], "little") == len(whole) - 8
    first = next(AudioEncoder("wav").push(tone(0.5).tobytes(), RATE))
    assert first[:4] == b"RIFF"


def test_audio_is_sent_before_the_text_is_complete() -> None:
    for audio_format in FORMATS:
        encoder = AudioEncoder(audio_format)
        assert sum(len(data) for data in encoder.push(tone(2.0).tobytes(), RATE)) > 0, audio_format
        encoder.finish()


def test_a_change_of_the_sample_rate_is_an_error() -> None:
    encoder = AudioEncoder("wav")
    list(encoder.push(tone(0.1).tobytes(), RATE))
    with pytest.raises(ValueError, match="sample rate"):
        list(encoder.push(tone(0.1).tobytes(), 16_000))
