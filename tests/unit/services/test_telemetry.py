"""Traces continue across calls."""

import json

import pytest
import structlog

from services.shared import telemetry

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_the_callers_trace_is_continued_and_propagated() -> None:
    telemetry.configure_tracing("test")
    with telemetry.server_span("/lyra.v1.X/Y", {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}):
        ((key, value),) = telemetry.trace_metadata()
    assert key == "traceparent"
    assert TRACE in value
    assert "b7ad6b7169203331" not in value


def test_json_log_line_names_service_event_and_trace(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging("info", "json", "vision_encoder")
    try:
        with telemetry.server_span("/lyra.v1.X/Y", {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}):
            telemetry.get_logger("test").info("call ended", code="OK")
        line = json.loads(capsys.readouterr().err.splitlines()[-1])
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.reset_defaults()
    assert (line["event"], line["service"], line["code"], line["trace_id"]) == (
        "call ended",
        "vision_encoder",
        "OK",
        TRACE,
    )


@pytest.mark.parametrize("style", ["json", "console"])
def test_traceback_is_short_and_shows_no_values(capsys: pytest.CaptureFixture[str], style: str) -> None:
    def deeper(depth: int, key: str) -> int:
        return deeper(depth - 1, key) if depth else 1 // depth

    telemetry.configure_logging("info", style, "gateway")
    try:
        try:
            deeper(800, "lyra_" + "secret")
        except ZeroDivisionError as error:
            telemetry.get_logger("test").error("request failed", exc_info=error)
        logged = capsys.readouterr().err
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.reset_defaults()
    assert "ZeroDivisionError" in logged
    assert "deeper" in logged
    assert "lyra_secret" not in logged
    assert len(logged) < 10_000
