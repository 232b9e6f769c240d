"""Small recordings for tests: tones in any format, and speech."""

import io
from collections.abc import Iterator
from functools import cache

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from model_core.audio.decoding import SAMPLE_RATE, Mono, open_audio
from tests.paths import DATA

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
# Expected container and codec, and how the file is written.
FORMATS = [
    ("wav", "pcm_s16le", 44_100),
    ("w64", "pcm_s16le", 16_000),
    ("mp3", "libmp3lame", 44_100),
    ("flac", "flac", 48_000),
    ("ogg", "libopus", 48_000),
    ("webm", "libopus", 48_000),
    ("mp4", "aac", 44_100),
    ("adts", "aac", 44_100),
]


def warble(seconds: float, rate: int, channels: int = 1) -> NDArray[np.float32]:
    """[channels, samples]: a tone with noise, so that no codec compresses it much."""
    count = int(seconds * rate)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(count) / rate)
    noise = np.random.default_rng(0).uniform(0, 1, count)
    return np.repeat((tone * noise).astype(np.float32)[None], channels, axis=0)


def encoded(sound: NDArray[np.float32], rate: int, container: str, codec: str, **options: str) -> bytes:
    """[channels, samples] as a file of that format; `bit_rate` is for the codec, other options for the container."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout=LAYOUTS[len(sound)])
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout=LAYOUTS[len(sound)])
        frame.sample_rate = rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def vorbis(sound: NDArray[np.float32], rate: int) -> bytes:
    """[channels, samples] as Ogg Vorbis."""
    file = io.BytesIO()
    soundfile.write(file, sound.T, rate, format="OGG", subtype="VORBIS")
    return file.getvalue()


def wav(samples: NDArray[np.float32], rate: int = SAMPLE_RATE) -> bytes:
    """[samples] as a 16-bit WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def read(data: bytes, max_seconds: float = 60) -> tuple[Mono, bool]:
    """All samples of a recording, and whether it is truncated."""
    with open_audio(data, max_seconds=max_seconds) as sound:
        blocks = list(sound)
        assert round(sound.seconds * SAMPLE_RATE) == sum(map(len, blocks))
        return np.concatenate(blocks), sound.truncated


@cache
def sentences(count: int = 6) -> tuple[Mono, ...]:
    """Spoken sentences, each [samples] at 16 kHz."""
    files = sorted((DATA / "held_out" / "audio").glob("sentence-00*.ogg"))[:count]
    assert len(files) == count
    return tuple(np.concatenate(list(_blocks(file.read_bytes()))) for file in files)


def _blocks(data: bytes) -> Iterator[Mono]:
    with open_audio(data, max_seconds=60) as sound:
        yield from sound


def silence(seconds: float) -> Mono:
    """Near silence."""
    return (1e-4 * np.random.default_rng(1).standard_normal(int(seconds * SAMPLE_RATE))).astype(np.float32)
