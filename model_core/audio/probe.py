"""What a sound file is, from its header and its first second."""

from dataclasses import dataclass, replace

from av.stream import Disposition
from av.video.stream import VideoStream

from model_core.audio.decoding import open_sound
from model_core.audio.opening import Source, stated_seconds

_HEARD_SECONDS = 1.0
_VIDEO_KINDS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


@dataclass(frozen=True, slots=True)
class SoundInfo:
    """A recording, or the sound of a video.

    Attributes:
        container: wav, w64, mp3, flac, ogg, mp4, webm or aac.
        codec: FFmpeg's name for it, such as mp3, aac, opus or pcm_s16le.
        seconds: Length that the header states or the size suggests; None where neither tells, or where the file is
            shorter than it says. Only reading the whole recording gives its length for certain.
        sample_rate: Samples a second and channel.
        channels: Channels.
        video: Whether there is a picture track beside the sound (a cover is none).
    """

    container: str
    codec: str
    seconds: float | None
    sample_rate: int
    channels: int
    video: bool


def probe(source: Source, field: str = "media") -> SoundInfo:
    """Looks at a file's header and decodes its first second, so that what only poses as sound is found out.

    Args:
        source: As for `open_sound`; a binary file stays open, and is read only where needed.
        field: What errors call the value.

    Raises:
        InvalidInput: as `open_sound`, and where the first second does not decode, or the whole is under 0.1 s.
    """
    with open_sound(source, max_seconds=float("inf"), field=field) as sound:
        container, stream = sound.container, sound.stream
        name = container.format.name
        info = SoundInfo(
            container=_container_name(name),
            codec=stream.codec_context.codec.canonical_name,
            seconds=None,
            sample_rate=stream.rate,
            channels=stream.channels,
            video=any(not _is_cover(video) for video in container.streams.video),
        )
        stated = stated_seconds(container, stream)
        for _ in sound:
            if sound.seconds >= _HEARD_SECONDS:
                return replace(info, seconds=None if sound.lacks_bytes() else _credible(stated))
        return replace(info, seconds=sound.seconds)


def _container_name(name: str) -> str:
    return {_VIDEO_KINDS[0]: "mp4", _VIDEO_KINDS[1]: "webm"}.get(name, name)


def _is_cover(video: VideoStream) -> bool:
    return bool(video.disposition & Disposition.attached_pic)


def _credible(seconds: float | None) -> float | None:
    return seconds if seconds is not None and seconds >= _HEARD_SECONDS else None
