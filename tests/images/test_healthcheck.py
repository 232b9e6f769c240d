"""The health check of the images, against real servers."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.operations.local.stores import free_ports
from services.shared.rpc import healthcheck
from services.shared.rpc.healthcheck import Unhealthy, check
from services.shared.rpc.server import write_port_file
from services.shared.telemetry import MetricsServer


@contextmanager
def model_service(is_healthy: bool) -> Iterator[int]:
    """Metrics port of a model service."""
    server = MetricsServer("127.0.0.1", 0, lambda: is_healthy)
    try:
        yield server.port
    finally:
        server.close()


@pytest.fixture
def ports(tmp_path: Path) -> Path:
    """Path of the port file."""
    return tmp_path / "ports.json"


def test_serving_model_service_is_healthy(ports: Path) -> None:
    with model_service(is_healthy=True) as port:
        write_port_file(ports, port=1, metrics_port=port)
        assert check(ports) == f"http://127.0.0.1:{port}/healthz returned 200"


def test_loading_or_draining_model_service_is_unhealthy(ports: Path) -> None:
    with model_service(is_healthy=False) as port:
        write_port_file(ports, port=1, metrics_port=port)
        with pytest.raises(Unhealthy, match="returned 503"):
            check(ports)


def test_worker_with_metrics_is_healthy(ports: Path) -> None:
    server = MetricsServer("127.0.0.1", 0)
    try:
        write_port_file(ports, port=server.port, metrics_port=server.port)
        assert check(ports) == f"http://127.0.0.1:{server.port}/metrics returned 200"
    finally:
        server.close()


@pytest.mark.parametrize("metrics_port", [None, 1, "same"], ids=["gateway", "model service", "worker"])
def test_exited_process_is_unhealthy(ports: Path, metrics_port: int | str | None) -> None:
    (port,) = free_ports(1)
    write_port_file(ports, port=port, metrics_port=port if metrics_port == "same" else metrics_port)  # type: ignore[arg-type]
    with pytest.raises(Unhealthy, match="does not respond"):
        check(ports)


def test_process_without_open_ports_is_unhealthy(ports: Path) -> None:
    with pytest.raises(Unhealthy, match="does not exist"):
        check(ports)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", json.dumps({"port": None, "metrics_port": 1}), '{"port": 1, "metrics_port": "x"}']
)
def test_invalid_port_file_is_named(ports: Path, content: str) -> None:
    ports.write_text(content)
    with pytest.raises(Unhealthy, match=r"ports\.json cannot be read"):
        check(ports)


def test_exit_code_and_message(
    ports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "LYRA_PORT_FILE", str(ports))
    assert healthcheck.main() == 1
    assert capsys.readouterr().out.count("\n") == 1


def test_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("LYRA_PORT_FILE", raising=False)
    assert healthcheck.main() == 1
    assert "LYRA_PORT_FILE is not set" in capsys.readouterr().err
