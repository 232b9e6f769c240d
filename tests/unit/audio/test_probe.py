"""Files are identified by their bytes; those that only pose as audio are refused."""

import gzip
import io
import zipfile

import numpy as np
import pytest

from model_core.audio.probe import AudioInfo, probe
from model_core.errors import InvalidInput
from tests.unit.audio.recordings import FORMATS, encoded, warble, wav
from tests.videos import make_video

CODECS = {"libmp3lame": "mp3", "libopus": "opus"}
CONTAINERS = {"adts": "aac"}


@pytest.mark.parametrize(("container", "codec", "rate"), FORMATS)
def test_container_codec_length_rate_and_channels_are_reported(container: str, codec: str, rate: int) -> None:
    info = probe(encoded(warble(3, rate, 2), rate, container, codec))
    assert info.seconds == pytest.approx(3, abs=0.15)
    assert info == AudioInfo(
        container=CONTAINERS.get(container, container),
        codec=CODECS.get(codec, codec),
        seconds=info.seconds,
        sample_rate=rate,
        channels=2,
        video=False,
    )


def test_the_length_of_a_short_recording_is_its_decoded_length() -> None:
    assert probe(wav(warble(0.5, 16_000)[0])).seconds == 0.5


def test_a_video_is_recognized_and_its_audio_described() -> None:
    info = probe(make_video("mp4", loudness=0.2))
    assert (info.container, info.codec, info.video, info.channels) == ("mp4", "aac", True, 1)


def test_a_truncated_mp3_does_not_have_the_length_in_its_header() -> None:
    data = encoded(warble(6, 44_100), 44_100, "mp3", "libmp3lame")
    assert probe(data).seconds == pytest.approx(6, abs=0.1)
    assert probe(data[: len(data) // 2]).seconds is None


def archive(kind: str) -> bytes:
    zeros = bytes(20 << 20)
    if kind == "gzip":
        return gzip.compress(zeros)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("speech.mp3", zeros)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"not audio at all" * 100,
        np.random.default_rng(1).bytes(1 << 20),
        archive("zip"),
        archive("gzip"),
        b"ID3\4\0\0\0\0\0\0" + archive("zip"),
        b"RIFF\xff\xff\xff\xffWAVE",
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"\xff\xfb\x90\x64" + bytes(4_000),
    ],
    ids=["text", "noise", "zip", "gzip", "zip with a tag", "header alone", "playlist", "frame alone"],
)
def test_files_that_pose_as_audio_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput) as refusal:
        probe(data, "file")
    assert refusal.value.field == "file"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty: 0 bytes"),
        (make_video("mp4"), "holds no audio stream"),
        (wav(np.zeros(0, np.float32)), "holds no audio: 0 s"),
        (wav(np.zeros(800, np.float32)), "0.05 s is under the minimum of 0.1 s"),
    ],
    ids=["nothing", "video without sound", "0 s", "too short"],
)
def test_files_without_audio_are_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        probe(data)
