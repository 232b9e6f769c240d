"""How the client handles the gateway's responses; a scripted transport stands in for the gateway."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from cli.ask import collect, write_wav
from cli.client import GatewayClient, audio_part, image_part, text_part
from cli.connection import Connection
from cli.failure import CommandFailed

Handler = Callable[[httpx.Request], httpx.Response]


def client_of(handler: Handler) -> GatewayClient:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "lyra-test"}]})
        return handler(request)

    return GatewayClient(Connection("http://gateway", "secret"), transport=httpx.MockTransport(answer))


def sse(*events: object) -> bytes:
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events).encode()


def delta(**fields: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def ask(handler: Handler) -> str:
    with client_of(handler) as client:
        return collect(client, [text_part("Hello?")], spoken=True, on_text=lambda text: None).text


def test_a_streamed_answer_is_assembled() -> None:
    pcm = b"\x01\x02" * 240
    shown: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert request.headers["authorization"] == "Bearer secret"
        assert body["model"] == "lyra-test"
        assert body["modalities"] == ["text", "audio"]
        assert body["audio"] == {"format": "pcm16", "voice": "joe"}
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        usage = {"choices": [], "usage": {"total_tokens": 7}}
        sound = delta(audio={"data": base64.b64encode(pcm).decode()})
        return httpx.Response(
            200, content=sse(delta(content="Hel"), sound, delta(audio={"transcript": "lo."}), end, usage, "[DONE]")
        )

    with client_of(handler) as client:
        answer = collect(
            client, [text_part("Hello?")], spoken=True, on_text=shown.append, audio={"voice": "joe"}, max_tokens=5
        )
    assert answer.text == "Hello."
    assert shown == ["Hel", "lo."]
    assert answer.pcm == pcm
    assert answer.audio_seconds == 0.01
    assert answer.finish_reason == "stop"
    assert answer.usage == {"total_tokens": 7}
    assert answer.first_token_seconds is not None
    assert answer.first_audio_seconds is not None


def test_an_error_names_its_field() -> None:
    error = {"error": {"message": "31.0 min is over the limit of 30 min", "param": "messages[0].content[0]"}}
    with pytest.raises(CommandFailed, match=r"messages\[0\]\.content\[0\]: 31\.0 min is over"):
        ask(lambda request: httpx.Response(400, json=error))


def test_a_wrong_key_error_says_how_to_pass_another() -> None:
    error = {"error": {"message": "This API key is unknown or revoked."}}
    with pytest.raises(CommandFailed) as failure:
        ask(lambda request: httpx.Response(401, json=error))
    assert "--key" in failure.value.hint


def test_an_unavailable_service_error_says_when_to_retry() -> None:
    error = {"error": {"message": "The language model is not available at the moment."}}
    with pytest.raises(CommandFailed) as failure:
        ask(lambda request: httpx.Response(503, json=error, headers={"Retry-After": "3"}))
    assert failure.value.hint == "try again in 3 s"


def test_an_error_in_the_middle_of_an_answer_is_raised() -> None:
    body = sse(delta(content="Hel"), {"error": {"message": "The language model went away."}})
    with pytest.raises(CommandFailed, match="went away"):
        ask(lambda request: httpx.Response(200, content=body))


def test_an_answer_without_an_end_is_incomplete() -> None:
    with pytest.raises(CommandFailed, match="cut off"):
        ask(lambda request: httpx.Response(200, content=sse(delta(content="Hel"))))


def test_a_response_that_is_not_json_is_reported_by_its_status() -> None:
    with pytest.raises(CommandFailed, match="HTTP 502"):
        ask(lambda request: httpx.Response(502, content=b"<html>"))


@pytest.mark.parametrize(("name", "wanted"), [("a.WAV", "wav"), ("a.oga", "ogg"), ("a.opus", "opus"), ("a.mp4", "m4a")])
def test_the_format_of_a_recording_follows_from_its_file_name(tmp_path: Path, name: str, wanted: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"sound")
    assert audio_part(path)["input_audio"] == {"data": base64.b64encode(b"sound").decode(), "format": wanted}


def test_a_picture_is_sent_as_a_data_uri(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"pixels")
    assert image_part(path)["image_url"]["url"] == f"data:image/jpeg;base64,{base64.b64encode(b'pixels').decode()}"


def test_the_wav_file_holds_the_received_samples(tmp_path: Path) -> None:
    import wave

    write_wav(tmp_path / "a.wav", b"\x01\x00\x02\x00")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (24_000, 1, 2)
        assert file.readframes(2) == b"\x01\x00\x02\x00"
