"""`lyra cluster logs`: all pods of a component, at once or streamed."""

import threading
from collections.abc import Iterator

import pytest

from services.operations.cluster import logs
from services.operations.cluster.api import Cluster
from services.operations.cluster.logs import LogLine, LogOptions
from services.operations.cluster.release import find_release
from tests.integration.cluster.conftest import Lyra, pod_of
from tests.integration.cluster.kube_api import KubeApi


@pytest.fixture
def second(api: KubeApi) -> str:
    """Another pod of the gateway."""
    workload = api.find("Deployment", "lyra-gateway")
    assert workload
    api.add(pod_of(workload, 1))
    return "lyra-gateway-1"


def test_lines_are_prefixed_with_their_pod(api: KubeApi, lyra: Lyra, second: str) -> None:
    api.log("lyra-gateway-0", '{"event": "listening"}')
    api.log(second, "[bold]as it is[/]")
    result = lyra("logs", "gateway")
    assert result.exit_code == 0, result.output
    assert result.stdout == 'lyra-gateway-0 {"event": "listening"}\nlyra-gateway-1 [bold]as it is[/]\n'


def test_tail_limits_the_lines_of_each_pod(api: KubeApi, lyra: Lyra) -> None:
    api.log("lyra-gateway-0", *(str(number) for number in range(300)))
    assert len(lyra("logs", "gateway").stdout.splitlines()) == 100
    assert lyra("logs", "gateway", "--tail", 1).stdout == "lyra-gateway-0 299\n"
    assert len(lyra("logs", "gateway", "--tail", -1).stdout.splitlines()) == 300


def test_container_that_never_terminated_has_no_previous_log(api: KubeApi, lyra: Lyra) -> None:
    result = lyra("logs", "gateway", "--previous")
    assert result.exit_code == 1
    assert "previous terminated container" in result.stderr


def test_component_without_pods_is_an_error(api: KubeApi, lyra: Lyra) -> None:
    api.remove("Pod", "lyra-vision-encoder-0")
    result = lyra("logs", "visionEncoder")
    assert result.exit_code == 1
    assert "vision-encoder has no pods" in result.stderr


def test_following_includes_pods_created_later(api: KubeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_POLL_SECONDS", 0.05)
    api.log("lyra-gateway-0", "old", "first")
    stop = threading.Event()
    options = LogOptions(tail=1)
    lines: Iterator[LogLine] = logs.follow(cluster, find_release(cluster), "gateway", options, stop)
    assert next(lines) == LogLine("lyra-gateway-0", "first")
    api.log("lyra-gateway-0", "second")
    assert next(lines) == LogLine("lyra-gateway-0", "second")
    workload = api.find("Deployment", "lyra-gateway")
    assert workload
    api.log("lyra-gateway-9", "begin", "listening")
    api.add(pod_of(workload, 9))
    assert [next(lines), next(lines)] == [LogLine("lyra-gateway-9", "begin"), LogLine("lyra-gateway-9", "listening")]
    stop.set()
    assert next(lines, None) is None
    api.end_logs()


def test_following_without_the_right_fails(api: KubeApi, lyra: Lyra) -> None:
    api.denied = {("get", "pods/log")}
    result = lyra("logs", "gateway", "--follow")
    assert result.exit_code == 1
    assert "not allowed to get pods/log in namespace lyra" in result.stderr
