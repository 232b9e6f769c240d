import json

import httpx
import pytest
import structlog
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.http.telemetry import Telemetry
from services.shared import telemetry as common_telemetry


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("secret of the house")


def client(app: ASGIApp) -> httpx.AsyncClient:
    """Of the middleware around `app`, which knows one path."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(Telemetry(app, known=["/v1/models/{id}"])), base_url="http://gateway"
    )


async def line(app: ASGIApp, path: str) -> structlog.typing.EventDict:
    """The request's line in the log."""
    with structlog.testing.capture_logs() as log:
        async with client(app) as http:
            await http.get(path)
    return next(each for each in log if each["event"] == "request ended")


async def test_an_unexpected_exception_is_a_500_with_an_id_and_no_internals() -> None:
    async with client(fails) as http:
        response = await http.get("/v1/models/x")
    assert response.status_code == 500
    assert response.headers["x-request-id"].startswith("req_")
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert (await line(fails, "/v1/models/x"))["status"] == 500


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/models/lyra-tiny?key=lyra_0123456789abcdef", "/v1/models/{id}"),
        ("/nowhere?key=lyra_0123456789abcdef", "/nowhere"),
        ("/keys/lyra_0123456789abcdef", "/keys/lyra_***"),
        ("/a%0Arequest%20ended%20status=200", "/a%0Arequest%20ended%20status=200"),
        ("/%1b[2J", "/%1b[2J"),
        ("/" + "x" * 5000, "/" + "x" * 199),
    ],
)
async def test_a_path_is_logged_without_query_keys_and_control_characters(path: str, told: str) -> None:
    assert (await line(PlainTextResponse("found"), path))["path"] == told


@pytest.mark.parametrize("path", [b"/a\nb", b"/\xff\x1b[2J", "/\u202e".encode()])
async def test_a_raw_path_is_printable_whatever_the_server_lets_through(path: bytes) -> None:
    async def send(message: object) -> None:
        return

    scope = {"type": "http", "method": "GET", "path": path.decode("latin-1"), "raw_path": path, "headers": []}
    with structlog.testing.capture_logs() as log:
        await Telemetry(PlainTextResponse("found"), known=[])(scope, None, send)  # type: ignore[arg-type]
    assert log[-1]["path"].isascii()
    assert log[-1]["path"].isprintable()


@pytest.mark.parametrize("given", ["abc", "6f9619ff-8b86-d011-b42d-00cf4fc964ff", "req_1:2.3"])
async def test_a_client_may_choose_the_request_id(given: str) -> None:
    async with client(PlainTextResponse("found")) as http:
        assert (await http.get("/", headers={"x-request-id": given})).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "\u00e9", "a\tb", "lyra_0123456789abcdef"])
async def test_an_invalid_request_id_is_replaced(given: str) -> None:
    async with client(PlainTextResponse("found")) as http:
        response = await http.get("/", headers=[(b"x-request-id", given.encode())])
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_value_cannot_forge_a_log_line(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        common_telemetry.configure_logging("info", style, "gateway")
        evil = "x\nrequest ended\r\x1b[2J\u2028\u202e"
        common_telemetry.get_logger("test").info(evil, reason=evil)
        told = capsys.readouterr().err
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.reset_defaults()
    assert len(told.splitlines()) == 1
    assert told.rstrip("\n").isprintable()
    if style == "json":
        assert json.loads(told)["reason"] == evil
