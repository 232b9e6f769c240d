"""Lint, generated files that must be up to date, images, keys and notes."""

import base64
import hashlib
import json

import pytest
import yaml

from docs import preset_memory, render_chart
from services.gateway.http.keys import Key
from tests.chart.chart import CHART, ROOT, VALUES_FILES, Rendering, containers, environment, of_file, render
from tests.chart.examples import EXAMPLE, EXAMPLES, rendered, summary
from tests.chart.programs import helm


@pytest.mark.parametrize("file", ["values.yaml", *VALUES_FILES])
def test_lint_is_clean(file: str) -> None:
    done = helm("lint", "--strict", "--quiet", CHART, "--values", CHART / file)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout
    assert "ERROR" not in done.stdout


def test_the_example_is_up_to_date() -> None:
    assert EXAMPLE.read_text() == rendered(), "run `make chart-examples`"
    assert (EXAMPLES / "README.md").read_text() == summary(), "run `make chart-examples`"


def test_readme_and_schema_are_up_to_date() -> None:
    assert render_chart.README.read_text() == render_chart.readme(), "run `make docs`"
    assert render_chart.SCHEMA.read_text() == render_chart.schema(), "run `make docs`"


def test_memory_of_presets_is_up_to_date() -> None:
    assert preset_memory.CHART_TABLE.read_text() == preset_memory.chart_table(), "run `make docs`"
    assert preset_memory.page_table() in preset_memory.PAGE.read_text(), "run `make docs`"


def test_app_version_is_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert f'version = "{chart["appVersion"]}"' in (ROOT / "pyproject.toml").read_text()


def test_bundled_stores_have_the_images_of_compose() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    images = {each["image"] for each in compose["services"].values()}

    for image in (values["redis"]["bundled"]["image"], values["objectStore"]["bundled"]["image"]):
        assert f"{image['repository']}:{image['tag']}@{image['digest']}" in images


def images(rendering: Rendering) -> set[str]:
    return {container["image"] for _, pod in rendering.pods() for container in containers(pod)}


def test_gpus_select_the_cuda_image_and_digests_override_tags() -> None:
    plain = images(render())
    assert "ghcr.io/lyra-platform/lyra-models:0.1.0-cpu" in plain
    assert "ghcr.io/lyra-platform/lyra-services:0.1.0" in plain
    assert "ghcr.io/lyra-platform/lyra-models:0.1.0-cuda" in images(of_file("values-base-gpu.yaml"))
    digest = "sha256:" + "0" * 64
    values = {
        "image": {"registry": "mirror.local/ai", "models": {"digest": digest}},
        "languageModel": {"image": {"repository": "mirror.local/own", "tag": "7"}},
    }

    found = images(render(values))

    assert f"mirror.local/ai/lyra-models@{digest}" in found
    assert "mirror.local/own:7" in found


def test_pod_with_a_gpu_runs_on_cuda() -> None:
    values = {"visionEncoder": {"gpu": {"count": 1}}}
    found = {name: environment(pod["spec"]["containers"][0]).get("LYRA_DEVICE") for name, pod in render(values).pods()}
    assert [device for name, device in found.items() if "vision-encoder" in name] == ["cuda"]
    assert [device for name, device in found.items() if "language-model" in name] == ["cpu"]


def test_generated_key_is_valid_for_the_gateway() -> None:
    secret = render().get("Secret", "-keys")
    data = {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}

    keys = [Key(**entry) for entry in json.loads(data["keys.json"])["keys"]]

    assert [key.sha256 for key in keys] == [hashlib.sha256(data["api-key"].encode()).hexdigest()]
    assert not keys[0].revoked


def test_keys_are_mounted_as_a_folder_so_that_changes_apply_without_a_restart() -> None:
    pod = render().get("Deployment", "-gateway")["spec"]["template"]["spec"]
    mount = next(each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "keys")

    assert mount == {"name": "keys", "mountPath": "/var/lib/lyra", "readOnly": True}


def test_certificate_switches_every_client_of_the_gateway_to_https() -> None:
    monitoring = {"serviceMonitor": {"enabled": True}}
    rendering = render({"gateway": {"tls": {"existingSecret": "certificate"}}, "monitoring": monitoring})
    pod = rendering.get("Deployment", "-gateway")["spec"]["template"]["spec"]
    gateway = pod["containers"][0]
    monitor = next(each for each in rendering.objects if each["kind"] == "ServiceMonitor")
    test = next(each for each in rendering.objects if each["kind"] == "Pod")

    assert environment(gateway)["LYRA_GATEWAY_TLS_KEY_FILE"] == "/etc/lyra/tls/tls.key"
    assert {"name": "tls", "mountPath": "/etc/lyra/tls", "readOnly": True} in gateway["volumeMounts"]
    assert [each["secret"]["secretName"] for each in pod["volumes"] if each["name"] == "tls"] == ["certificate"]
    probes = [gateway[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["scheme"] for probe in probes} == {"HTTPS"}
    assert [each.get("scheme") for each in monitor["spec"]["endpoints"]] == [None, "https"]
    assert environment(test["spec"]["containers"][0])["LYRA_URL"].startswith("https://")


def test_notes_list_next_steps() -> None:
    done = helm("install", "demo", CHART, "--dry-run=client", "--namespace", "speech")

    assert done.returncode == 0, done.stderr
    for part in ("helm test demo --namespace speech --logs", "get secret demo-lyra-keys", "redis.mode is bundled"):
        assert part in done.stdout
