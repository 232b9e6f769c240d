import pytest

from model_core.audio.tensors import SAMPLE_RATE, decode_audio_track, is_silent
from model_core.errors import InvalidInput
from tests.videos import make_video

KINDS = [("mp4", "libx264"), ("mov", "libx264"), ("webm", "libvpx")]


@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_audio_of_a_video_has_the_length_of_the_video(kind: str, codec: str) -> None:
    samples = decode_audio_track(make_video(kind, codec, loudness=0.2), max_seconds=60)
    assert len(samples) / SAMPLE_RATE == pytest.approx(2.0, abs=0.2)
    assert not is_silent(samples)


@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_video_without_a_track_has_no_samples(kind: str, codec: str) -> None:
    samples = decode_audio_track(make_video(kind, codec), max_seconds=60)
    assert len(samples) == 0
    assert is_silent(samples)


def test_silent_track_is_silent() -> None:
    assert is_silent(decode_audio_track(make_video(loudness=0.0), max_seconds=60))


def test_a_track_too_short_for_speech_has_no_samples() -> None:
    video = make_video("webm", "libvpx", seconds=0.05, rate=20, loudness=0.2)
    assert len(decode_audio_track(video, max_seconds=60)) == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty"), (b"no video" * 50, "does not decode as video"), (make_video()[:900], "does not decode")],
)
def test_data_that_is_not_a_video_is_refused_by_field(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refusal:
        decode_audio_track(data, max_seconds=60)
    assert refusal.value.field == "video"


def test_track_over_the_limit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="limit of 1 s"):
        decode_audio_track(make_video(loudness=0.2), max_seconds=1)
