"""What the chart looks up in a cluster while it renders: helm talks to an HTTP server that serves a few objects."""

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.chart.chart import CHART, NAMESPACE, Rendering
from tests.chart.programs import environment, program

Objects = dict[str, dict[str, Any]]

# Kinds that the server knows, by apiVersion.
_KINDS = {
    "v1": ("Namespace", "Secret", "Service", "ServiceAccount", "Pod"),
    "apps/v1": ("Deployment", "StatefulSet"),
    "policy/v1": ("PodDisruptionBudget",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
}


def _discovery() -> Objects:
    """Unaggregated API discovery: https://kubernetes.io/docs/concepts/overview/kubernetes-api/#api-discovery."""
    groups = [version.split("/") for version in _KINDS if "/" in version]
    known: Objects = {
        "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {"name": group, "versions": [{"groupVersion": f"{group}/{version}", "version": version}]}
                for group, version in groups
            ],
        },
    }
    for version, kinds in _KINDS.items():
        resources = [
            {
                "name": f"{kind.lower().removesuffix('y')}{'ies' if kind.endswith('y') else 's'}",
                "singularName": kind.lower(),
                "namespaced": kind != "Namespace",
                "kind": kind,
                "verbs": ["get", "list"],
            }
            for kind in kinds
        ]
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        known[path] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
    return known


def namespace() -> Objects:
    path = f"/api/v1/namespaces/{NAMESPACE}"
    return {path: {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}}


def secret(name: str, **data: str) -> Objects:
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}"
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"meta.helm.sh/release-name": "demo", "meta.helm.sh/release-namespace": NAMESPACE},
    }
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {path: {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}}


@contextmanager
def cluster(folder: Path, objects: Objects) -> Iterator[Path]:
    """Path of a kubeconfig for a server with exactly these objects."""

    known = _discovery() | objects

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = known.get(self.path.partition("?")[0])
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(found or missing).encode()
            self.send_response(200 if found else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
            "current-context": "test",
        }
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config))
        try:
            yield kubeconfig
        finally:
            server.shutdown()
            thread.join()


def render_with(kubeconfig: Path, **values: str) -> Rendering:
    """Renders as `helm upgrade` does. Raises RuntimeError with helm's error output."""
    command = [str(program("helm")), "template", "demo", str(CHART), "--namespace", NAMESPACE]
    command += ["--dry-run=server", "--disable-openapi-validation"]
    for name, value in values.items():
        command += ["--set", f"{name.replace('__', '.')}={value}"]
    variables = environment() | {"KUBECONFIG": str(kubeconfig)}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Rendering("with a cluster", done.stdout)


def test_missing_secret_is_rejected_by_name(tmp_path: Path) -> None:
    with cluster(tmp_path, namespace()) as kubeconfig, pytest.raises(RuntimeError) as error:
        render_with(kubeconfig, keys__existingSecret="my-keys")

    assert f"keys.existingSecret is my-keys, and there is no such Secret in namespace {NAMESPACE}" in str(error.value)


def test_secret_without_a_required_key_is_rejected_by_name(tmp_path: Path) -> None:
    objects = namespace() | secret("queue", pass_word="x")
    with cluster(tmp_path, objects) as kubeconfig, pytest.raises(RuntimeError) as error:
        render_with(kubeconfig, redis__bundled__existingSecret="queue")

    assert "redis.bundled.existingSecret is queue, and that Secret has no key password: add it" in str(error.value)


def test_certificates_without_a_ca_are_rejected_by_name(tmp_path: Path) -> None:
    objects = namespace() | secret("certificates", **{"tls.crt": "x", "tls.key": "x"})
    with cluster(tmp_path, objects) as kubeconfig, pytest.raises(RuntimeError) as error:
        render_with(kubeconfig, serviceAuth__tls__existingSecret="certificates")

    assert "serviceAuth.tls.existingSecret is certificates, and that Secret has no key ca.crt" in str(error.value)


def test_existing_secret_is_used(tmp_path: Path) -> None:
    objects = namespace() | secret("my-keys", **{"keys.json": "{}"})
    with cluster(tmp_path, objects) as kubeconfig:
        rendered = render_with(kubeconfig, keys__existingSecret="my-keys")

    assert "demo-lyra-keys" not in {each["metadata"]["name"] for each in rendered.of("Secret")}


def test_secrets_generated_on_the_first_install_are_kept(tmp_path: Path) -> None:
    first = (
        secret("demo-lyra-redis", password="old")
        | secret("demo-lyra-object-store", **{"access-key": "a", "secret-key": "b"})
        | secret("demo-lyra-keys", **{"keys.json": "{}", "api-key": "lyra_old"})
        | secret("demo-lyra-service-token", token="old")
    )
    with cluster(tmp_path, namespace() | first) as kubeconfig:
        rendered = render_with(kubeconfig)

    kept = {path.rpartition("/")[2]: each["data"] for path, each in first.items()}
    assert {each["metadata"]["name"]: each["data"] for each in rendered.of("Secret")} == kept
