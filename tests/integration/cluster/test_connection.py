"""Connecting to a cluster through a kubeconfig, and every way in which that fails."""

import ssl
import threading
from http.server import HTTPServer
from pathlib import Path

import pytest
import trustme
import yaml

from services.operations.cluster.api import NODES, PODS, Cluster
from services.operations.cluster.cluster_errors import Forbidden, NoKubeconfig, NotFound, Unauthorized, Unreachable
from services.operations.local.stores import free_ports
from tests.integration.cluster.conftest import Lyra
from tests.integration.cluster.kube_api import KubeApi, _handler


def with_server(kubeconfig: Path, server: str) -> Path:
    config = yaml.safe_load(kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = server
    kubeconfig.write_text(yaml.safe_dump(config))
    return kubeconfig


def test_default_namespace_is_that_of_the_context(empty_api: KubeApi, tmp_path: Path) -> None:
    assert Cluster.connect(empty_api.kubeconfig(tmp_path / "a", "speech")).namespace == "speech"
    assert Cluster.connect(empty_api.kubeconfig(tmp_path / "a", ""), namespace="other").namespace == "other"
    assert Cluster.connect(empty_api.kubeconfig(tmp_path / "a", "")).namespace == "default"


def test_lists_are_paginated(empty_api: KubeApi, kubeconfig: Path) -> None:
    empty_api.page = 2
    assert len(list(Cluster.connect(kubeconfig).list(NODES))) == 3
    assert empty_api.requests.count("GET /api/v1/nodes") == 2


def test_missing_kubeconfig_says_how_to_set_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lyra: Lyra) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    result = lyra("status")
    assert result.exit_code == 1
    assert "there is no kubeconfig" in result.stderr
    assert "KUBECONFIG" in result.stderr


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "clusters: []", "kind: Config\ncurrent-context: x\ncontexts: []"])
def test_invalid_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    with pytest.raises(NoKubeconfig, match="broken"):
        Cluster.connect(path)


def test_unknown_context_lists_the_existing_ones(kubeconfig: Path) -> None:
    with pytest.raises(NoKubeconfig) as raised:
        Cluster.connect(kubeconfig, context="production")
    assert "has no context production" in raised.value.message
    assert "test" in raised.value.hint


def test_stopped_server_is_unreachable(kubeconfig: Path) -> None:
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(Unreachable, match="Connection refused"):
        list(Cluster.connect(with_server(kubeconfig, address)).list(NODES))


def test_other_server_is_not_an_api_server(empty_api: KubeApi, kubeconfig: Path) -> None:
    empty_api.answer = lambda *_: (200, "<html>hello</html>")  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="does not respond like a Kubernetes API server"):
        list(Cluster.connect(kubeconfig).list(NODES))


def test_untrusted_certificate_is_named(empty_api: KubeApi, kubeconfig: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost", "127.0.0.1").configure_cert(context)
    server = HTTPServer(("127.0.0.1", 0), _handler(empty_api))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        with pytest.raises(Unreachable) as raised:
            list(Cluster.connect(with_server(kubeconfig, f"https://127.0.0.1:{server.server_address[1]}")).list(NODES))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "certificate" in raised.value.message
    assert "certificate-authority" in raised.value.hint


def test_rejected_credentials_are_unauthorized(empty_api: KubeApi, kubeconfig: Path) -> None:
    empty_api.token = "another"
    with pytest.raises(Unauthorized):
        list(Cluster.connect(kubeconfig).list(NODES))


def test_forbidden_names_verb_resource_and_namespace(empty_api: KubeApi, kubeconfig: Path) -> None:
    empty_api.denied = {("list", "pods"), ("list", "nodes")}
    cluster = Cluster.connect(kubeconfig)
    with pytest.raises(Forbidden) as raised:
        list(cluster.list(PODS))
    assert raised.value.message == "not allowed to list pods in namespace lyra"
    assert "kubectl auth can-i list pods -n lyra" in raised.value.hint
    with pytest.raises(Forbidden, match="in all namespaces"):
        list(cluster.list(NODES))


def test_namespace_without_a_release_says_how_to_install_one(empty_api: KubeApi, lyra: Lyra) -> None:
    result = lyra("status")
    assert result.exit_code == 1
    assert "there is no release of chart lyra in namespace lyra" in result.stderr
    assert "helm install" in result.stderr


def test_unknown_release_lists_the_existing_ones(api: KubeApi, lyra: Lyra) -> None:
    result = lyra("status", "--release", "other")
    assert result.exit_code == 1
    assert "existing releases: lyra" in result.stderr


def test_unknown_component_lists_the_existing_ones(cluster: Cluster, lyra: Lyra) -> None:
    result = lyra("scale", "ear", 2)
    assert result.exit_code == 1
    assert "speech-encoder" in result.stderr


def test_missing_object_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match="missing"):
        cluster.get(PODS, "missing")
    assert cluster.find(PODS, "missing") is None
