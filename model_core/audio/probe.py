"""Properties of an audio file, from its header and its first second."""

from dataclasses import dataclass, replace

from av.stream import Disposition
from av.video.stream import VideoStream

from model_core.audio.decoding import open_audio
from model_core.audio.opening import Source, header_seconds

_PROBED_SECONDS = 1.0
_VIDEO_KINDS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """A recording, or the audio track of a video.

    Attributes:
        container: wav, w64, mp3, flac, ogg, mp4, webm or aac.
        codec: FFmpeg's name of it, such as mp3, aac, opus or pcm_s16le.
        seconds: Duration that the header states or the size suggests; None where neither does, or where the file is
            shorter than its header says. Only reading the whole recording gives the exact duration.
        sample_rate: Samples per second and channel.
        channels: Number of channels.
        video: Whether the file has a video track too (a cover does not count).
    """

    container: str
    codec: str
    seconds: float | None
    sample_rate: int
    channels: int
    video: bool


def probe(source: Source, field: str = "media") -> AudioInfo:
    """Reads a file's header and decodes its first second, which unmasks files that only look like audio.

    Args:
        source: As for `open_audio`; a binary file stays open, and is read only where needed.
        field: Field that errors name.

    Raises:
        InvalidInput: as `open_audio`; the first second does not decode, or the recording is under 0.1 s.
    """
    with open_audio(source, max_seconds=float("inf"), field=field) as audio:
        container, stream = audio.container, audio.stream
        name = container.format.name
        info = AudioInfo(
            container=_container_name(name),
            codec=stream.codec_context.codec.canonical_name,
            seconds=None,
            sample_rate=stream.rate,
            channels=stream.channels,
            video=any(not _is_cover(video) for video in container.streams.video),
        )
        stated = header_seconds(container, stream)
        for _ in audio:
            if audio.seconds >= _PROBED_SECONDS:
                return replace(info, seconds=None if audio.ends_early() else _credible(stated))
        return replace(info, seconds=audio.seconds)


def _container_name(name: str) -> str:
    return {_VIDEO_KINDS[0]: "mp4", _VIDEO_KINDS[1]: "webm"}.get(name, name)


def _is_cover(video: VideoStream) -> bool:
    return bool(video.disposition & Disposition.attached_pic)


def _credible(seconds: float | None) -> float | None:
    return seconds if seconds is not None and seconds >= _PROBED_SECONDS else None
