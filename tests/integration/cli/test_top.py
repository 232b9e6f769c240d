"""`lyra top` on a running language model."""

import json

from typer.testing import CliRunner

from cli.main import app
from lyra.v1 import language_model_pb2, language_model_pb2_grpc
from lyra.v1.language_model_pb2 import GenerateHeader, GenerateRequest, MessageStart
from tests.conftest import StartService


async def test_figures_of_a_service_and_of_one_that_does_not_respond(start_service: StartService) -> None:
    service = await start_service("language_model")
    stub = language_model_pb2_grpc.LanguageModelStub(service.channel)
    requests = [
        GenerateRequest(header=GenerateHeader(max_tokens=5)),
        GenerateRequest(message_start=MessageStart(role=language_model_pb2.ROLE_USER)),
        GenerateRequest(text="Hello"),
    ]
    async for _ in stub.Generate(iter(requests)):
        pass
    open_page, closed = f"127.0.0.1:{service.server.metrics_port}", "127.0.0.1:9"
    arguments = [
        "top",
        *(part for page in (open_page, closed) for part in ("--metrics", f"http://{page}/metrics")),
        "--once",
        "--every",
        "0.2",
    ]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.output)
    assert figures[closed] is None
    assert figures[open_page]["running"] == 0
    assert figures[open_page]["pages"]["used"] == 0
    assert figures[open_page]["pages"]["free"] > 0
    shown = CliRunner().invoke(app, arguments).output
    assert "pages free" in shown
    assert "down" in shown
