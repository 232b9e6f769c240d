"""Request bodies that are expensive to parse, against a separate gateway: responses and resource usage."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.attack.bodies import MAX_RSS_BYTES, SHAPES, attack
from tests.integration.gateway.conftest import Gateway, StartGateway, picture
from tests.integration.gateway.processes import gateway_process

CHAT = "/v1/chat/completions"
_JSON = {"content-type": "application/json"}
_PROTECTION = 8 * 2**30


async def held(home: Path, shapes: list[str], body_bytes: int) -> None:
    async with gateway_process(home, max_memory_bytes=_PROTECTION) as gateway:
        url, chosen = f"http://127.0.0.1:{gateway.port}", {name: SHAPES[name] for name in shapes}
        findings = await attack(url, gateway.secret, gateway.pid, body_bytes=body_bytes, shapes=chosen)
    for finding in findings:  # latency of /healthz is left to the bench, as other tests run at the same time
        assert finding.refused, str(finding)
        assert finding.rss_bytes <= MAX_RSS_BYTES, str(finding)


async def test_fifty_bodies_at_once_are_refused_within_the_memory_limit(tmp_path: Path) -> None:
    await held(tmp_path, ["numbers", "empty objects", "many keys", "a long word", "deep", "tiny chunks"], 8_000_000)


@pytest.mark.full
@pytest.mark.timeout(600)
async def test_fifty_bodies_of_every_shape_are_refused_within_the_memory_limit(tmp_path: Path) -> None:
    await held(tmp_path, list(SHAPES), 40_000_000)


def chat(*parts: Any) -> dict[str, Any]:
    return {"model": "lyra-tiny", "messages": [{"role": "user", "content": list(parts)}], "max_tokens": 1}


async def test_inline_media_may_exceed_the_limit_for_other_json(
    start_gateway: StartGateway, tiny_addresses: dict[str, str]
) -> None:
    gateway = await start_gateway(tiny_addresses, max_json_bytes=2_000)
    url = "data:image/png;base64," + base64.b64encode(picture(size=(300, 200))).decode()
    body = json.dumps(chat({"type": "image_url", "image_url": {"url": url}}))
    assert len(body) > 200_000
    for sent in (body, body.replace("/", "\\/")):
        response = await gateway.http.post(CHAT, content=sent, headers=_JSON)
        assert response.status_code == 200, response.text
    refused = await gateway.http.post(CHAT, json=chat({"type": "text", "text": "word " * 1_000}))
    assert refused.status_code == 413
    assert refused.json()["error"]["message"] == "The body is over the limit of 2,000 bytes beside its media."


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/jobs", "/v1/media/uploads", "/v1/jobs/job-1/questions"])
async def test_bodies_without_media_have_a_small_limit(gateway: Gateway, path: str) -> None:
    response = await gateway.http.post(path, content=b'"' + b"A" * 2_000_000 + b'"', headers=_JSON)
    assert response.status_code == 413
    assert "1,048,576 bytes" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b'{"model": NaN}', {}, 400, "NaN is not a number"),
        (b'{"model": "a", "model": "b"}', {}, 400, "'model' twice"),
        (b"\xef\xbb\xbf{}", {}, 400, "byte order mark"),
        (b'{"model": "\\ud800"}', {}, 400, "surrogate"),
        (b'{"model": "\\u0000"}', {}, 400, "NUL"),
        (b"\x1f\x8b\x08", {"content-encoding": "gzip"}, 415, "compressed bodies are not supported"),
        (b'{"model": "\xe9"}', {"content-type": "application/json; charset=latin-1"}, 400, "charset"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/jobs"])
async def test_unusual_json_is_refused_with_the_reason(
    gateway: Gateway, path: str, content: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    response = await gateway.http.post(path, content=content, headers={**_JSON, **headers})
    assert response.status_code == status, response.text
    if not (
        path == "/v1/jobs" and message == "charset"
    ):  # the content type does not matter there, and this is not UTF-8
        assert message in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("messages", "code"),
    [([{}] * 300, "too_many_messages"), ([{"role": "user", "content": [{}] * 40}], "too_many_parts")],
)
async def test_list_lengths_are_checked_before_their_items(gateway: Gateway, messages: list[Any], code: str) -> None:
    response = await gateway.http.post(CHAT, json={"model": "lyra-tiny", "messages": messages})
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


async def test_validation_of_a_list_stops_at_the_first_error(gateway: Gateway) -> None:
    parts = [{"number": 0, "etag": ""}] * 10_000
    response = await gateway.http.post("/v1/media/uploads/upload-1/complete", json={"parts": parts})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("parts[0].")


async def test_a_form_takes_only_one_recording(gateway: Gateway) -> None:
    files = [("file", ("a.wav", b"x")), ("file", ("b.wav", b"x"))]
    response = await gateway.http.post("/v1/audio/transcriptions", data={"model": "lyra-tiny"}, files=files)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("Too many files")
