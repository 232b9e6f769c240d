import base64

import pytest

from services.gateway.http.api_errors import ApiError
from services.shared.pipeline.messages import Message, Role, VideoPart
from tests.unit.gateway.test_chat_requests import TEXT, understood, user

PATH = "messages[0].content[0].video_url.url"
DATA = base64.b64encode(b"video").decode()


def video(url: str) -> dict[str, object]:
    return {"type": "video_url", "video_url": {"url": url}}


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        ("data:video/mp4;base64,", "video/mp4"),
        ("DATA:Video/MP4;BASE64,", "video/mp4"),
        ("data:video/quicktime;base64,", "video/quicktime"),
        ("data:video/webm;codecs=vp8,opus;base64,", "video/webm"),
    ],
)
def test_a_video_reaches_the_pipeline_with_its_media_type(head: str, media_type: str) -> None:
    request = understood(messages=user(video(head + DATA)))
    assert request.messages == (Message(Role.USER, (VideoPart(b"video", media_type, PATH),)),)


@pytest.mark.parametrize(
    ("url", "message", "code"),
    [
        ("https://example.com/a.mp4", "has to be a data URI (data:video/mp4;base64,...)", "invalid_video_url"),
        ("file:///etc/passwd", "web URLs are not fetched", "invalid_video_url"),
        ("", "has to be a data URI", "invalid_video_url"),
        ("data:video/x-msvideo;base64,AAAA", "'video/x-msvideo' is not one of video/mp4", "invalid_video_format"),
        ("data:image/png;base64,AAAA", "'image/png' is not one of video/mp4", "invalid_video_format"),
        ("data:;base64,AAAA", "'' is not one of", "invalid_video_format"),
        ("data:video/mp4,AAAA", "has to be in base64", "invalid_video_url"),
        ("data:video/mp4;base64", "has to be in base64", "invalid_video_url"),
        ("data:video/mp4;base64,", "0 bytes", "empty_file"),
        ("data:video/mp4;base64,a", "is not valid base64", "invalid_base64"),
        ("data:video/mp4;base64,AA AA", "is not valid base64", "invalid_base64"),
    ],
)
def test_videos_come_only_as_data_uris(url: str, message: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        understood(messages=user(video(url)))
    error = caught.value
    assert (error.status_code, error.param, error.code) == (400, PATH, code)
    assert message in error.detail


def test_videos_count_among_the_media_of_a_request() -> None:
    with pytest.raises(ApiError, match="3 recordings, pictures and videos are over the limit of 2"):
        understood(messages=user(*[video(f"data:video/mp4;base64,{DATA}")] * 3, TEXT))


def test_unknown_fields_of_a_video_are_refused_by_name() -> None:
    part = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{DATA}", "fps": 2}}
    with pytest.raises(ApiError) as caught:
        understood(messages=user(part))
    assert caught.value.param == "messages[0].content[0].video_url.fps"
