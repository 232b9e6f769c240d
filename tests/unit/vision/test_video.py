from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model_core.errors import InvalidInput
from model_core.vision.video import sample_frames
from tests.videos import make_video

LIMITS: dict[str, Any] = {"max_frames": 16, "max_seconds": 60, "max_pixels": 1_000_000}
KINDS = [("mp4", "libx264"), ("mp4", "mpeg4"), ("mov", "libx264"), ("webm", "libvpx"), ("webm", "libvpx-vp9")]


def sampled(data: bytes | Path, **limits: Any) -> list[Image.Image]:
    return sample_frames(data, **{**LIMITS, **limits})


def brightness(frames: list[Image.Image]) -> list[float]:
    return [float(np.asarray(frame).mean()) for frame in frames]


@pytest.mark.parametrize(("kind", "codec"), KINDS)
@pytest.mark.parametrize("key_every", [1, 4, 100])
def test_frames_are_spread_evenly_from_first_to_last(kind: str, codec: str, key_every: int) -> None:
    frames = sampled(make_video(kind, codec, seconds=5, key_every=key_every), max_frames=6)
    assert [frame.size for frame in frames] == [(64, 48)] * 6
    assert brightness(frames) == pytest.approx([0, 51, 102, 153, 204, 255], abs=8)


def test_no_more_than_two_frames_per_second_are_sampled() -> None:
    assert len(sampled(make_video(seconds=3.1))) == 6
    assert len(sampled(make_video(seconds=30, rate=2, size=(16, 16)))) == 16


def test_short_videos_give_all_their_frames() -> None:
    assert len(sampled(make_video(seconds=0.1))) == 1
    assert len(sampled(make_video(seconds=0.2))) == 2
    assert len(sampled(make_video(seconds=0.5))) == 2


def test_single_frame_is_the_first() -> None:
    assert brightness(sampled(make_video(), max_frames=1)) == pytest.approx([0], abs=3)


def test_file_on_disk_equals_its_bytes(tmp_path: Path) -> None:
    data = make_video("webm", "libvpx", loudness=0.1)
    path = tmp_path / "video.webm"
    path.write_bytes(data)
    assert brightness(sampled(path)) == brightness(sampled(data))


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_frames_are_upright(rotation: int) -> None:
    frame = np.asarray(sampled(make_video(rotation=rotation))[0])
    assert frame.shape[:2] == ((48, 64) if rotation == 180 else (64, 48))
    # The red quarter at the top left of the file is turned counter-clockwise with everything else.
    turned = np.rot90(np.array([[1, 0], [0, 0]]), rotation // 90)
    quarters = frame[[8, -8]][:, [8, -8], 0] > 200
    assert quarters.tolist() == turned.astype(bool).tolist()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_seconds": 1.5}, "over the limit of 1.5 s"),
        ({"max_seconds": 0.4}, "over the limit of 0.4 s"),
        ({"max_pixels": 3000}, "64 x 48 is 3,072 pixels per frame, over the limit of 3,000 pixels"),
        ({"max_decoding_seconds": 0.0}, "longer to decode than the limit of 0 s"),
    ],
)
@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("webm", "libvpx")])
def test_exceeded_limits_are_named(kind: str, codec: str, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refusal:
        sampled(make_video(kind, codec), field="video_url", **limits)
    assert refusal.value.field == "video_url"


def test_an_implausible_frame_rate_is_refused() -> None:
    with pytest.raises(InvalidInput, match="over 240 frames per second"):
        sampled(make_video("mp4", "mpeg4", seconds=0.5, rate=1000, size=(16, 16)), max_seconds=0.5)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
@pytest.mark.parametrize(
    ("kind", "codec", "options"),
    [
        ("mp4", "libx264", {}),
        ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("webm", "libvpx", {}),
    ],
)
def test_truncated_video_is_refused(kind: str, codec: str, options: dict[str, str], share: float) -> None:
    data = make_video(kind, codec, seconds=4, options=options)
    with pytest.raises(InvalidInput, match="truncated"):
        sampled(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"no video" * 100, "does not decode as video"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.mp4\n", "does not decode as video"),
    ],
)
def test_data_that_is_not_a_video_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        sampled(data)


def test_an_unsupported_codec_is_refused_listing_the_supported_ones() -> None:
    with pytest.raises(InvalidInput, match="h264, hevc"):
        sampled(make_video("mov", "rawvideo"))


BROKEN = make_video(seconds=1, key_every=4, loudness=0.1)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, len(BROKEN) - 1), st.integers(0, 255)), max_size=30))
def test_corrupt_bytes_give_frames_or_a_clear_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(BROKEN)
    for at, value in changes:
        data[at] = value
    with suppress(InvalidInput, MemoryError):  # which the sandbox, whose memory is limited, answers with a refusal
        assert 1 <= len(sampled(bytes(data))) <= 16
