"""The contents of the images are sufficient: processes start, become healthy and stop on SIGTERM."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.operations.local.stack import SERVICES
from tests.images.image_tree import ImageTree
from tests.servers import READY_SECONDS, RedisServer

CHECK = ("-m", "services.shared.rpc.healthcheck")


@pytest.fixture(scope="module")
def services_image(tmp_path_factory: pytest.TempPathFactory) -> ImageTree:
    return ImageTree(tmp_path_factory.mktemp("services"), "services", "final")


@pytest.fixture(scope="module")
def models_image(tmp_path_factory: pytest.TempPathFactory) -> ImageTree:
    return ImageTree(tmp_path_factory.mktemp("models"), "models", "cpu")


@contextmanager
def running(
    image: ImageTree, module: str, **settings: str
) -> Iterator[tuple["subprocess.Popen[bytes]", dict[str, str]]]:
    """A process of the image, with its environment, once its health check succeeds."""
    log = image.folder / f"{module}.log"
    ports = {"LYRA_PORT_FILE": str(image.folder / f"{module}.json"), "LYRA_PORT": "0", "LYRA_METRICS_PORT": "0"}
    environment = image.environment(**ports, **settings)
    with log.open("wb") as output:
        process = subprocess.Popen(image.command("-m", module), env=environment, stdout=output, stderr=output)
    try:
        _wait_until_healthy(image, process, environment, log)
        yield process, environment
    finally:
        process.kill()
        process.wait()


def _wait_until_healthy(
    image: ImageTree, process: "subprocess.Popen[bytes]", environment: dict[str, str], log: Path
) -> None:
    pause = threading.Event()
    for _ in range(int(READY_SECONDS / 0.2)):
        assert process.poll() is None, log.read_text()
        if Path(environment["LYRA_PORT_FILE"]).exists() and image.run(*CHECK, environment=environment).returncode == 0:
            return
        pause.wait(0.2)
    raise AssertionError(f"not healthy in time:\n{log.read_text()}")


@pytest.mark.parametrize("module", ["services.gateway", "services.worker", "services.worker.clock"])
def test_services_image_runs_with_its_own_packages(
    services_image: ImageTree, redis_server: RedisServer, module: str
) -> None:
    with running(services_image, module, LYRA_REDIS_URL=redis_server.url) as (process, environment):
        process.send_signal(signal.SIGTERM)
        assert process.wait(READY_SECONDS) == 0
        gone = services_image.run(*CHECK, environment=environment)
    assert gone.returncode == 1
    assert "does not respond" in gone.stdout


def test_models_image_runs_with_its_own_packages(models_image: ImageTree) -> None:
    settings = {"LYRA_PRESET": "tiny", "LYRA_THREADS": "1"}
    with running(models_image, "services.vision_encoder", **settings) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(READY_SECONDS) == 0


def test_models_image_can_import_every_service(models_image: ImageTree) -> None:
    modules = ", ".join(f"services.{name}.__main__, services.{name}.servicer" for name in SERVICES)
    loaded = models_image.run("-c", f"import {modules}")
    assert loaded.returncode == 0, loaded.stderr


def test_services_image_creates_api_keys(services_image: ImageTree) -> None:
    made = services_image.run("-m", "cli", "keys", "create", "laptop")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("lyra_")


def test_command_that_needs_models_says_so_in_the_services_image(services_image: ImageTree) -> None:
    failed = services_image.run("-m", "cli", "weights", "list")
    assert failed.returncode == 1
    assert "model_core.checkpoints, which is not installed" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_services_image_contains_neither_torch_nor_models(services_image: ImageTree) -> None:
    packages = {path.name for path in (services_image.folder / "opt" / "packages").iterdir()}
    assert not packages & {"torch", "transformers", "tokenizers", "pip", "setuptools"}
    assert {path.name for path in (services_image.folder / "opt" / "lyra" / "model_core").iterdir()} == {
        "__init__.py",
        "adapter_choice.py",
        "audio",
        "engine",
        "errors.py",
        "ffmpeg.py",
        "text",
        "vision",
    }


@pytest.mark.parametrize("family", ["services_image", "models_image"])
def test_images_contain_no_weights(family: str, request: pytest.FixtureRequest) -> None:
    image: ImageTree = request.getfixturevalue(family)
    code = (image.folder / "opt" / "lyra").rglob("*")
    # Nano's trained parts are part of the source; test_dockerfiles.py checks that they have their own layer.
    assert [path for path in code if path.suffix in (".safetensors", ".bin", ".gguf", ".onnx", ".pt")] == []
