"""The health check of the images, against real servers."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common import healthcheck
from services.common.healthcheck import Unwell, check
from services.common.server import write_port_file
from services.common.telemetry import MetricsServer
from services.local.stores import free_ports


@contextmanager
def grpc_server(status: int) -> Iterator[int]:
    """The port of a server whose health is `status`."""
    servicer = health.HealthServicer()
    servicer.set("", status)
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@pytest.fixture
def ports(tmp_path: Path) -> Path:
    """The file that a process would write."""
    return tmp_path / "ports.json"


def test_model_service_that_serves_is_well(ports: Path) -> None:
    with grpc_server(health_pb2.HealthCheckResponse.SERVING) as port:
        write_port_file(ports, port=port, metrics_port=1)
        assert check(ports) == f"127.0.0.1:{port} is SERVING"


def test_model_service_that_loads_or_drains_is_not_well(ports: Path) -> None:
    with grpc_server(health_pb2.HealthCheckResponse.NOT_SERVING) as port:
        write_port_file(ports, port=port, metrics_port=1)
        with pytest.raises(Unwell, match="is NOT_SERVING"):
            check(ports)


def test_worker_that_shows_its_metrics_is_well(ports: Path) -> None:
    server = MetricsServer("127.0.0.1", 0)
    try:
        write_port_file(ports, port=server.port, metrics_port=server.port)
        assert check(ports) == f"http://127.0.0.1:{server.port}/metrics answers 200"
    finally:
        server.close()


@pytest.mark.parametrize("metrics_port", [None, 1, "same"], ids=["gateway", "model service", "worker"])
def test_process_that_is_gone_is_not_well(ports: Path, metrics_port: int | str | None) -> None:
    (port,) = free_ports(1)
    write_port_file(ports, port=port, metrics_port=port if metrics_port == "same" else metrics_port)  # type: ignore[arg-type]
    with pytest.raises(Unwell, match="does not answer"):
        check(ports)


def test_process_that_has_not_opened_its_ports_is_not_well(ports: Path) -> None:
    with pytest.raises(Unwell, match="is not there"):
        check(ports)


@pytest.mark.parametrize("content", ["", "{}", "[]", json.dumps({"port": None, "metrics_port": 1})])
def test_file_that_says_nothing_is_named(ports: Path, content: str) -> None:
    ports.write_text(content)
    with pytest.raises(Unwell, match=r"ports\.json cannot be read"):
        check(ports)


def test_exit_code_and_one_line_tell(
    ports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "LYRA_PORT_FILE", str(ports))
    assert healthcheck.main() == 1
    assert capsys.readouterr().out.count("\n") == 1


def test_without_the_variable_it_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LYRA_PORT_FILE", raising=False)
    assert healthcheck.main() == 1
    assert "LYRA_PORT_FILE is not set" in capsys.readouterr().err
