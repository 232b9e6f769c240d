"""Small videos for tests: grey frames from black to white, with or without audio."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

SOUND = {"mp4": ("aac", 16_000), "mov": ("aac", 16_000), "webm": ("libopus", 48_000)}


def make_video(
    kind: str = "mp4",
    codec: str = "libx264",
    *,
    seconds: float = 2.0,
    rate: int = 10,
    size: tuple[int, int] = (64, 48),
    key_every: int = 12,
    loudness: float | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> bytes:
    """A video file.

    Args:
        kind: mp4, mov or webm.
        size: Width and height.
        key_every: Number of frames between key frames.
        loudness: Of the noise in the audio track, 0 for a silent one; None for no track.
        rotation: Counter-clockwise rotation for display, in degrees; if set, the top left quarter is red.
        options: Options of the container.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = key_every
        if rotation:
            stream.set_display_rotation(rotation)
        sound: Any = None
        if loudness is not None:
            encoder, sample_rate = SOUND[kind]
            sound = container.add_stream(encoder, rate=sample_rate, layout="mono")
        for index, pixels in enumerate(_pictures(round(seconds * rate), size, turned=bool(rotation))):
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None and loudness is not None:
            noise = loudness * np.random.default_rng(0).uniform(-1, 1, (1, int(sound.rate * seconds)))
            samples = av.AudioFrame.from_ndarray(noise.astype(np.float32), "fltp", "mono")
            samples.sample_rate, samples.pts, samples.time_base = sound.rate, 0, Fraction(1, sound.rate)
            container.mux(sound.encode(samples))
            container.mux(sound.encode())
    return file.getvalue()


def _pictures(count: int, size: tuple[int, int], *, turned: bool) -> list[NDArray[np.uint8]]:
    width, height = size
    pictures = [np.full((height, width, 3), 255 * at // max(1, count - 1), np.uint8) for at in range(count)]
    for picture in pictures if turned else []:
        picture[: height // 2, : width // 2] = (255, 0, 0)
    return pictures
