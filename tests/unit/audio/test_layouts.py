"""Every channel layout of FFmpeg in every supported codec decodes to the mean of its channels, without a crash."""

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from av.audio.layout import AudioLayout

from model_core.audio.decoding import SAMPLE_RATE, Mono, open_audio
from model_core.audio.opening import MAX_CHANNELS
from model_core.errors import InvalidInput

RATE = 48_000
SECONDS = 0.5
# As FFmpeg's `-layouts` lists them.
LAYOUTS = (
    *("mono", "stereo", "2.1", "3.0", "3.0(back)", "4.0", "quad", "quad(side)", "3.1", "5.0", "5.0(side)", "4.1"),
    *("5.1", "5.1(side)", "6.0", "6.0(front)", "3.1.2", "hexagonal", "6.1", "6.1(back)", "6.1(front)", "7.0"),
    *("7.0(front)", "7.1", "7.1(wide)", "7.1(wide-side)", "5.1.2", "5.1.2(back)", "octagonal", "cube", "5.1.4"),
    *("7.1.2", "7.1.4", "7.2.3", "9.1.4", "9.1.6", "hexadecagonal", "binaural", "downmix", "22.2"),
)
# Container, encoder, sample format, and how many of the layouts the encoder takes at least.
CODECS = (
    ("wav", "pcm_s16le", "s16", 40),
    ("wav", "pcm_f32le", "flt", 40),
    ("flac", "flac", "s16", 30),
    ("mp3", "libmp3lame", "fltp", 2),
    ("ipod", "aac", "fltp", 24),
    ("ogg", "libopus", "flt", 8),
    ("webm", "libopus", "flt", 8),
)


def channels_of(layout: str) -> int:
    return AudioLayout(layout).nb_channels


def encoded(layout: str, container: str, codec: str, sample_format: str) -> bytes | None:
    """A tone of 100 Hz, which LFE channels keep too; None if the encoder refuses the layout."""
    times = np.arange(int(RATE * SECONDS)) / RATE
    tone = 0.25 * np.sin(2 * np.pi * 100 * times)
    samples = np.repeat(tone[np.newaxis], channels_of(layout), axis=0).astype(np.float32)
    file = io.BytesIO()
    try:
        with av.open(file, "w", format=container) as output:
            stream: Any = output.add_stream(codec, rate=RATE, layout=layout)
            stream.bit_rate = 96_000 * channels_of(layout)
            packed = np.ascontiguousarray(samples.T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            frame.sample_rate, frame.pts = RATE, 0
            to_codec = av.AudioResampler(format=sample_format, layout=layout, rate=RATE)
            for resampled in (*to_codec.resample(frame), *to_codec.resample(None)):
                output.mux(stream.encode(resampled))
            output.mux(stream.encode(None))
    except (av.FFmpegError, ValueError):
        return None
    return file.getvalue()


def loudness(samples: Mono) -> float:
    """Loudness of the decoded audio, relative to the tone in every channel."""
    middle = samples[SAMPLE_RATE // 8 : SAMPLE_RATE * 3 // 8]
    return float(np.sqrt(np.mean(middle**2)) / (0.25 / np.sqrt(2)))


def takes(container: str, codec: str, sample_format: str) -> Iterator[tuple[str, bytes]]:
    for layout in LAYOUTS:
        data = encoded(layout, container, codec, sample_format)
        if data is not None:
            yield layout, data


@pytest.mark.parametrize(("container", "codec", "sample_format", "least"), CODECS)
def test_every_layout_decodes_to_the_mean_of_its_channels(
    container: str, codec: str, sample_format: str, least: int
) -> None:
    decoded = refused = 0
    for layout, data in takes(container, codec, sample_format):
        if channels_of(layout) > MAX_CHANNELS:
            with pytest.raises(InvalidInput, match="channels are outside 1 to 8"):
                open_audio(data, max_seconds=60)
            refused += 1
            continue
        with open_audio(data, max_seconds=60) as sound:
            samples = np.concatenate(list(sound))
        # FFmpeg's AAC encoder writes nothing into the third channel of 2.1.
        expected = 2 / 3 if (codec, layout) == ("aac", "2.1") else 1.0
        assert loudness(samples) == pytest.approx(expected, abs=0.2), layout
        decoded += 1
    assert decoded + refused >= least


@pytest.mark.parametrize("channels", range(1, MAX_CHANNELS + 1))
def test_vorbis_of_any_number_of_channels_decodes_to_their_mean(channels: int) -> None:
    tone = 0.25 * np.sin(2 * np.pi * 100 * np.arange(int(RATE * SECONDS)) / RATE)
    file = io.BytesIO()
    soundfile.write(file, np.repeat(tone[:, np.newaxis], channels, axis=1), RATE, format="OGG", subtype="VORBIS")
    with open_audio(file.getvalue(), max_seconds=60) as sound:
        assert loudness(np.concatenate(list(sound))) == pytest.approx(1.0, abs=0.05)


def test_channels_that_differ_are_averaged_in_eight_channels_too() -> None:
    times = np.arange(RATE) / RATE
    levels = np.arange(1, 9)[:, np.newaxis] / 10
    packed = (levels * np.sin(2 * np.pi * 100 * times)).astype(np.float32).T.reshape(1, -1)
    file = io.BytesIO()
    with av.open(file, "w", format="wav") as output:
        stream = output.add_stream("pcm_f32le", rate=RATE, layout="7.1")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), format="flt", layout="7.1")
        frame.sample_rate, frame.pts = RATE, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with open_audio(file.getvalue(), max_seconds=60) as sound:
        samples = np.concatenate(list(sound))
    assert np.abs(samples).max() == pytest.approx(0.45, abs=0.01)
