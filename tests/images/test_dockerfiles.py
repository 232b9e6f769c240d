"""Dockerfiles: pinned, non-root, without build tools and weights, consistent with the source."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from services.shared.settings import ProcessSettings
from tests.images.dockerfiles import DOCKERFILES, Stage, arguments, lines, stages
from tests.images.image_tree import PROJECT
from tests.paths import ROOT

FINAL = [("services", "final"), ("models", "cpu"), ("models", "cuda")]
LABELS = ("title", "description", "licenses", "version", "revision", "created", "source", "base.name", "base.digest")


@pytest.fixture(params=FINAL, ids=lambda pair: "-".join(pair))
def final(request: pytest.FixtureRequest) -> Stage:
    """The final stage of an image."""
    family, target = request.param
    return stages(DOCKERFILES[family])[target]


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=lambda path: path.name)
def test_hadolint_is_clean(path: Path) -> None:
    program = Path(sys.executable).parent / "hadolint"
    found = subprocess.run([program, "--no-color", path], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=lambda path: path.name)
def test_base_images_are_pinned_by_digest(path: Path) -> None:
    own = stages(path)
    assert all(re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", stage.base) or stage.base in own for stage in own.values())
    assert "latest" not in path.read_text()


def test_both_images_have_the_same_base() -> None:
    first, second = (arguments(path) for path in DOCKERFILES.values())
    assert first == second


def test_base_has_a_supported_python() -> None:
    version = re.search(r"python:3\.(\d+)-", arguments(DOCKERFILES["models"])["BASE"])
    assert version is not None
    assert f">=3.{version[1]}" == PROJECT["project"]["requires-python"]


def test_image_runs_as_a_numeric_non_root_user(final: Stage) -> None:
    assert final.last("USER") == "10001:10001"


def test_image_has_a_health_check(final: Stage) -> None:
    command = re.search(r"CMD \[(.+)\]", final.last("HEALTHCHECK"))
    assert command is not None
    assert command[1] == '"python", "-m", "services.shared.rpc.healthcheck"'
    assert "LYRA_PORT_FILE" in final.environment()


def test_command_is_an_existing_module(final: Stage) -> None:
    python, flag, module, *_ = final.command()
    assert (python, flag) == ("python", "-m")
    assert find_spec(module) is not None


def test_image_has_oci_labels(final: Stage) -> None:
    labels = final.labels()
    assert {name for name in LABELS if not labels.get(f"org.opencontainers.image.{name}")} == set()


def test_version_label_is_that_of_the_project(final: Stage) -> None:
    assert f"VERSION={PROJECT['project']['version']}" in final.all("ARG")


def test_packaging_tools_are_removed(final: Stage) -> None:
    commands = " ".join(final.all("RUN"))
    assert "pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel" in commands
    assert not re.search(r"apt|gcc|pip install", commands)


def test_packages_code_and_trained_parts_have_separate_layers(final: Stage) -> None:
    copied = [line.split()[-1] for line in final.all("COPY")]
    assert copied[0] == "/opt/packages"
    assert "/opt/lyra" in copied
    assert ("/opt/torch" in copied) == ("/opt/lyra/model_core/presets/nano_parts" in copied) == (len(copied) == 4)
    assert all("--link --from=" in line for line in final.all("COPY"))


def test_environment_of_an_image_consists_of_settings(final: Stage) -> None:
    ours = {name.removeprefix("LYRA_").lower() for name in final.environment() if name.startswith("LYRA_")}
    assert ours - set(ProcessSettings.model_fields) == set()


def test_telemetry_is_disabled(final: Stage) -> None:
    assert final.environment()["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=lambda path: path.name)
def test_packages_are_installed_with_hashes(path: Path) -> None:
    installs = [rest for name, rest in lines(path) if name == "RUN" and "pip install" in rest]
    assert installs
    for command in installs:
        assert ("--require-hashes" in command and "--no-deps" in command) or "--no-index" in command


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=lambda path: path.name)
def test_copied_paths_exist_and_are_not_ignored(path: Path) -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for stage in stages(path).values():
        for sources, target in stage.copied():
            assert target.endswith("/"), "a folder, so that it is plain what happens"
            for source in sources:
                assert (ROOT / source).exists()
                assert any(source == each or source.startswith(f"{each}/") for each in let_in), source


def test_secrets_and_history_are_excluded_from_the_build_context() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert patterns[0] == "*"
    assert patterns[-1] == "**/.env*"
