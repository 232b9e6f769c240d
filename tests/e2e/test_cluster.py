"""The chart on a real cluster: install, inspect, ask the sample question, upgrade, uninstall.

Runs where KUBECONFIG names a cluster, which has to be able to fetch the images: LYRA_TEST_IMAGE_REGISTRY names the
registry that has them (for kind, `make images` and `kind load docker-image`). All happens in a namespace of its own.
"""

import base64
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.operations.local.stores import free_ports
from tests.chart.programs import program
from tests.paths import EXAMPLES, ROOT

CHART = ROOT / "helm" / "lyra"
READY_SECONDS = 1800  # nano's weights are downloaded and converted by each model service
RELEASE = "lyra"


@dataclass(frozen=True, slots=True)
class Installed:
    """A release on the cluster."""

    namespace: str

    def kubectl(self, *arguments: str) -> str:
        return run(str(program("kubectl")), "--namespace", self.namespace, *arguments)

    def lyra(self, *arguments: str) -> str:
        return run(sys.executable, "-m", "cli", "cluster", *arguments, "--namespace", self.namespace)

    def status(self) -> dict[str, dict[str, Any]]:
        return {row["component"]: row for row in json.loads(self.lyra("status", "--json"))}

    def key(self) -> str:
        """API key that the chart generated."""
        encoded = self.kubectl("get", "secret", f"{RELEASE}-keys", "-o", "jsonpath={.data.api-key}")
        return base64.b64decode(encoded).decode()

    @contextmanager
    def gateway(self) -> Iterator[httpx.Client]:
        """A client of the gateway through a forwarded port."""
        (port,) = free_ports(1)
        command = [str(program("kubectl")), "--namespace", self.namespace, "port-forward", f"service/{RELEASE}-gateway"]
        forward = subprocess.Popen([*command, f"{port}:80"], stdout=subprocess.DEVNULL)
        try:
            headers = {"Authorization": f"Bearer {self.key()}"}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=300) as client:
                until_it_answers(client, forward)
                yield client
        finally:
            forward.terminate()
            forward.wait()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=READY_SECONDS + 120)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def until_it_answers(client: httpx.Client, forward: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while forward.poll() is None and time.monotonic() < deadline:
        try:
            client.get("/healthz").raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail("kubectl port-forward leads nowhere")


def helm(verb: str, namespace: str, *more: str) -> str:
    registry = os.environ.get("LYRA_TEST_IMAGE_REGISTRY")
    images = ["--set", f"image.registry={registry}"] if registry else []
    values = ["--values", str(CHART / "values-nano.yaml"), *images, *more]
    limits = ["--namespace", namespace, "--wait", "--timeout", f"{READY_SECONDS}s"]
    return run(str(program("helm")), verb, RELEASE, str(CHART), *values, *limits)


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    files = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    if not any(file and Path(file).is_file() for file in files):
        pytest.skip("KUBECONFIG names no cluster to install the chart on")
    namespace = f"lyra-test-{secrets.token_hex(4)}"
    kubectl = str(program("kubectl"))
    run(kubectl, "create", "namespace", namespace)
    try:
        run(kubectl, "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        helm("install", namespace)
        yield Installed(namespace)
    finally:
        run(kubectl, "delete", "namespace", namespace, "--wait=false")


def ask(client: httpx.Client) -> str:
    """The sample question: a spoken question about an image."""
    sound, picture = (
        base64.b64encode((EXAMPLES / name).read_bytes()).decode() for name in ("question.wav", "picture.png")
    )
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
    ]
    body = {"model": "lyra-nano", "messages": [{"role": "user", "content": parts}], "max_tokens": 32}
    answer: str = (
        client.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"][0]["message"]["content"]
    )
    return answer


@pytest.mark.timeout(READY_SECONDS * 2)
def test_installed_chart_answers_the_sample_question(installed: Installed) -> None:
    installed.lyra("doctor")
    assert all(row["ready"] == row["wanted"] for row in installed.status().values())
    with installed.gateway() as client:
        assert ask(client).strip()


@pytest.mark.timeout(READY_SECONDS * 2)
def test_scaling_and_draining_drop_no_request(installed: Installed) -> None:
    installed.lyra("scale", "gateway", "2", "--yes")
    installed.kubectl("rollout", "status", f"deployment/{RELEASE}-gateway", "--timeout=300s")
    names = installed.kubectl("get", "pods", "-l", "app.kubernetes.io/component=gateway", "-o", "name").split()
    installed.lyra("drain", names[0].removeprefix("pod/"), "--yes")
    with installed.gateway() as client:
        assert ask(client).strip()


@pytest.mark.timeout(READY_SECONDS * 2)
def test_helm_test_passes_and_an_upgrade_rolls_out(installed: Installed) -> None:
    run(str(program("helm")), "test", RELEASE, "--namespace", installed.namespace)
    helm("upgrade", installed.namespace, "--set", "logLevel=debug")
    assert {row["rollout"] for row in installed.status().values()} == {"done"}
