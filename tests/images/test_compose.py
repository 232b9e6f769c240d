"""docker-compose.yml: valid, isolated, and consistent with settings and modules."""

import re
from importlib.util import find_spec

import pytest
import yaml

from services.gateway.settings import GatewaySettings
from services.language_model.settings import LanguageModelSettings
from services.operations.local.stack import SERVICES, WORKERS
from services.shared.jobs.dispatch import Queue
from services.shared.settings import ProcessSettings
from services.speech_encoder.settings import SpeechEncoderSettings
from services.speech_synthesizer.settings import SpeechSynthesizerSettings
from services.vision_encoder.settings import VisionEncoderSettings
from services.worker.settings import WorkerSettings
from tests.images import compose
from tests.images.compose import PROFILES, Refused, Service, seconds
from tests.images.dockerfiles import DOCKERFILES, stages
from tests.images.image_tree import PROJECT
from tests.paths import ROOT

SETTINGS: dict[str, type[ProcessSettings]] = {
    "services.gateway": GatewaySettings,
    "services.worker": WorkerSettings,
    "services.worker.clock": WorkerSettings,
    "services.speech_encoder": SpeechEncoderSettings,
    "services.vision_encoder": VisionEncoderSettings,
    "services.language_model": LanguageModelSettings,
    "services.speech_synthesizer": SpeechSynthesizerSettings,
}
MODELS = [name.replace("_", "-") for name in SERVICES]
TOKENS = ("service-token", "operator-token")
STEPS = ("weights", "object-store-bucket", *TOKENS)  # run once and exit
DONE = {"condition": "service_completed_successfully", "required": True}


def names(service: Service, own: str) -> set[str]:
    """Host name of a service."""
    networks = service["networks"].values()
    return {own} | {alias for network in networks if network for alias in network.get("aliases", ())}


def address(profiles: str, host: str) -> Service:
    """The service with this host name."""
    (found,) = [each for own, each in compose.services(profiles).items() if host in names(each, own)]
    return found


def default(service: Service, field: str) -> object:
    """Default of a setting of the service's module."""
    return SETTINGS[compose.module(service)].model_fields[field].default


@pytest.mark.parametrize("profiles", PROFILES)
def test_file_is_valid_and_has_the_services_of_a_stack(profiles: str) -> None:
    there = {name.removesuffix("-gpu") for name in compose.ours(profiles)} - set(STEPS)
    assert there == {"gateway", "worker-plan", "worker-clips", "worker-answers", "beat", *MODELS}


@pytest.mark.parametrize("secret", compose.SECRETS)
def test_missing_secret_prevents_start(secret: str) -> None:
    filled = compose.example() | dict.fromkeys(compose.SECRETS, "0123abcd")
    with pytest.raises(Refused, match=f"{secret} is missing a value: run `make env`"):
        compose.render(filled | {secret: ""})


def test_env_example_has_all_variables_and_no_secrets() -> None:
    used = set(re.findall(r"\$\{(\w+)", compose.FILE.read_text()))
    example = compose.example()
    assert set(example) == used | {"COMPOSE_PROFILES"}
    assert [name for name, value in example.items() if not value] == list(compose.SECRETS)


def test_env_example_shows_the_defaults() -> None:
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", compose.FILE.read_text()))
    example = compose.example()
    assert {name: value for name, value in defaults.items() if example[name] != value} == {}
    assert example["LYRA_VERSION"] == PROJECT["project"]["version"]


@pytest.mark.parametrize("profiles", PROFILES)
def test_variables_are_settings_of_their_module(profiles: str) -> None:
    for name, service in compose.ours(profiles).items():
        if (module := compose.module(service)) in ("cli", "services.shared.rpc.tokens"):
            continue
        assert find_spec(module) is not None
        given = {key: value for key, value in service["environment"].items() if key.startswith("LYRA_")}
        assert given.keys() == service["environment"].keys()
        fields = SETTINGS[module].model_fields
        assert {key for key in given if key.removeprefix("LYRA_").lower() not in fields} == set(), name
        SETTINGS[module](**{key.removeprefix("LYRA_").lower(): value for key, value in given.items()})


@pytest.mark.parametrize("profiles", PROFILES)
def test_addresses_match_services_and_ports(profiles: str) -> None:
    for service in compose.ours(profiles).values():
        for key, value in service.get("environment", {}).items():
            if match := re.fullmatch(r"LYRA_(\w+)_ADDRESS", key):
                host, port = re.fullmatch(r"dns:///([\w-]+):(\d+)", value).groups()  # type: ignore[union-attr]
                target = address(profiles, host)
                assert compose.module(target) == f"services.{match[1].lower()}"
                assert int(port) == default(target, "port")
                assert "LYRA_PORT" not in target["environment"]


def test_gateway_has_all_four_addresses_and_the_preset() -> None:
    services = compose.services("gpu")
    fields = {f"LYRA_{name.upper()}_ADDRESS" for name in SERVICES}
    gateway = services["gateway"]["environment"]
    assert fields <= gateway.keys()
    assert {services[f"{name}-gpu"]["environment"]["LYRA_PRESET"] for name in MODELS} == {gateway["LYRA_PRESET"]}


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_gateway_starts_after_its_dependencies(profile: str) -> None:
    waits = compose.services(profile)["gateway"]["depends_on"]
    for name in (*MODELS, "redis"):
        twin = f"{name}-gpu" if profile == "gpu" and name in MODELS else name
        assert waits[twin]["condition"] == "service_healthy"
    assert waits["object-store-bucket"] == waits["service-token"] == DONE


def test_models_start_after_their_weights() -> None:
    for name in MODELS:
        waits = compose.services("cpu")[name]["depends_on"]
        assert waits == dict.fromkeys(("weights", *TOKENS), DONE)
        assert compose.services("gpu")[f"{name}-gpu"]["depends_on"] == dict.fromkeys(TOKENS, DONE)


@pytest.mark.parametrize("profiles", PROFILES)
def test_tokens_are_mounted_only_where_they_are_used(profiles: str) -> None:
    services = compose.ours(profiles)
    adapted = {"speech-encoder", "language-model"}
    for volume, variable in zip(TOKENS, ("LYRA_SERVICE_TOKEN_FILE", "LYRA_OPERATOR_TOKEN_FILE"), strict=True):
        (made,) = services[volume]["volumes"]
        assert services[volume]["command"] == ["python", "-m", "services.shared.rpc.tokens", f"{made['target']}/token"]
        assert made["source"] == volume
        readers = set()
        for name, service in services.items():
            mounts = [each for each in service.get("volumes", ()) if each["source"] == volume and name != volume]
            path = service.get("environment", {}).get(variable)
            assert [f"{each['target']}/token" for each in mounts] == ([path] if path else []), name
            assert all(each["read_only"] for each in mounts), name
            readers |= {name.removesuffix("-gpu")} if path else set()
        everyone = {name.removesuffix("-gpu") for name in services} - set(STEPS)
        assert readers == (everyone if volume == "service-token" else adapted)


@pytest.mark.parametrize("name", MODELS)
def test_gpu_service_differs_from_the_cpu_service_only_by_gpu_and_checkpoint(name: str) -> None:
    cpu, gpu = compose.services("cpu")[name], compose.services("gpu")[f"{name}-gpu"]
    assert gpu["command"] == cpu["command"]
    assert name in names(gpu, "")
    assert (cpu["environment"]["LYRA_DEVICE"], gpu["environment"]["LYRA_DEVICE"]) == ("cpu", "cuda")
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert gpu["environment"].keys() - cpu["environment"].keys() == {"LYRA_CHECKPOINT"}
    (volume,) = [each for each in gpu["volumes"] if each["source"] not in TOKENS]
    assert (volume["target"], volume["read_only"]) == (gpu["environment"]["LYRA_CHECKPOINT"], True)
    assert cpu["image"].removesuffix("-cpu") == gpu["image"].removesuffix("-cuda")


def test_images_are_targets_of_the_dockerfiles() -> None:
    for profiles in PROFILES:
        for service in compose.ours(profiles).values():
            match = re.search(r"/lyra-(\w+):[\d.]+(?:-(\w+))?$", service["image"])
            assert match is not None
            assert (match[2] or "final") in stages(DOCKERFILES[match[1]])


def test_workers_are_those_of_the_local_stack() -> None:
    workers = [service for name, service in compose.ours("cpu").items() if name.startswith("worker-")]
    queues = {(each["environment"]["LYRA_QUEUES"], int(each["environment"]["LYRA_CONCURRENCY"])) for each in workers}
    assert queues == set(WORKERS.values())
    assert sorted(",".join(each for each, _ in queues).split(",")) == sorted(Queue)


@pytest.mark.parametrize("profiles", PROFILES)
def test_containers_have_limits_and_minimal_privileges(profiles: str) -> None:
    for name, service in compose.services(profiles).items():
        assert int(service["deploy"]["resources"]["limits"]["memory"]) > 0, name
        assert service["deploy"]["resources"]["limits"]["pids"] > 0, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name
        assert service.get("privileged") is None, name
        # MinIO's image needs a writable root file system.
        assert service.get("read_only", False) is (name != "object-store"), name


@pytest.mark.parametrize("profiles", PROFILES)
def test_long_running_containers_have_health_checks_and_restart(profiles: str) -> None:
    for name, service in compose.services(profiles).items():
        if name in STEPS:
            assert service["restart"] == "on-failure:3", name
            continue
        assert service["restart"] == "unless-stopped", name
        health = service["healthcheck"]
        assert "disable" not in health, name
        # The command comes from the image, the interval from Compose.
        assert ("test" in health) is (name not in compose.ours(profiles)), name
        assert seconds(health["start_period"]) >= 30, name


@pytest.mark.parametrize("profiles", PROFILES)
def test_stop_grace_period_exceeds_the_grace_of_processes(profiles: str) -> None:
    for name, service in compose.ours(profiles).items():
        if name not in STEPS:
            grace = float(service["environment"]["LYRA_GRACE_SECONDS"])
            assert seconds(service["stop_grace_period"]) > grace, name


@pytest.mark.parametrize("profiles", PROFILES)
def test_only_gateway_store_and_prometheus_publish_ports(profiles: str) -> None:
    published = {
        name: {port["host_ip"] for port in service["ports"]}
        for name, service in compose.services(profiles).items()
        if service.get("ports")
    }
    assert set(published) - {"prometheus"} == {"gateway", "object-store"}
    assert set().union(*published.values()) == {"127.0.0.1"}


@pytest.mark.parametrize("profiles", PROFILES)
def test_models_redis_and_clock_have_no_outside_network(profiles: str) -> None:
    assert compose.project(profiles)["networks"]["inner"]["internal"] is True
    enclosed = [name for name, service in compose.services(profiles).items() if set(service["networks"]) == {"inner"}]
    assert {name.removesuffix("-gpu") for name in enclosed} == {
        *MODELS,
        "redis",
        "beat",
        "object-store-bucket",
        *TOKENS,
    }


@pytest.mark.parametrize("profiles", PROFILES)
def test_third_party_images_are_pinned(profiles: str) -> None:
    for name, service in compose.services(profiles).items():
        if name not in compose.ours(profiles):
            assert re.search(r"\.\w+/[\w/]+:[\w.-]+@sha256:[0-9a-f]{64}$", service["image"]), name
            assert ":latest" not in service["image"]


def test_prometheus_scrapes_every_process() -> None:
    config = yaml.safe_load((ROOT / "docker" / "prometheus.yml").read_text())
    read = {
        name: target["port"]
        for job in config["scrape_configs"]
        for target in job["dns_sd_configs"]
        for name in target["names"]
    }
    expected = {}
    for name, service in compose.ours("cpu").items():
        if name not in STEPS:
            field = "port" if name == "gateway" else "metrics_port"
            expected[name] = int(service["environment"].get(f"LYRA_{field.upper()}", default(service, field)))
    assert read == expected


@pytest.mark.parametrize("profiles", PROFILES)
def test_volumes_are_declared_and_mounted_files_exist(profiles: str) -> None:
    for name, service in compose.services(profiles).items():
        for volume in service.get("volumes", ()):
            if volume["type"] == "volume":
                assert volume["source"] in compose.project(profiles)["volumes"], name
            elif volume["target"] != "/checkpoint":
                assert (ROOT / volume["source"]).exists(), name
                assert volume["read_only"] is True, name
