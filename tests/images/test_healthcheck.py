"""The health check of the images, against real servers."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.operations.local.stores import free_ports
from services.shared.rpc import healthcheck
from services.shared.rpc.healthcheck import Unwell, check
from services.shared.rpc.server import write_port_file
from services.shared.telemetry import MetricsServer


@contextmanager
def model_service(is_well: bool) -> Iterator[int]:
    """The metrics port of a model service."""
    server = MetricsServer("127.0.0.1", 0, lambda: is_well)
    try:
        yield server.port
    finally:
        server.close()


@pytest.fixture
def ports(tmp_path: Path) -> Path:
    """The file that a process would write."""
    return tmp_path / "ports.json"


def test_model_service_that_serves_is_well(ports: Path) -> None:
    with model_service(is_well=True) as port:
        write_port_file(ports, port=1, metrics_port=port)
        assert check(ports) == f"http://127.0.0.1:{port}/healthz answers 200"


def test_model_service_that_loads_or_drains_is_not_well(ports: Path) -> None:
    with model_service(is_well=False) as port:
        write_port_file(ports, port=1, metrics_port=port)
        with pytest.raises(Unwell, match="answers 503"):
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


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", json.dumps({"port": None, "metrics_port": 1}), '{"port": 1, "metrics_port": "x"}']
)
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
