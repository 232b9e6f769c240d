"""Dockerfiles: pinned, without root, without tools, without weights, and true to the source that they copy."""

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
    """The stage that becomes an image."""
    family, target = request.param
    return stages(DOCKERFILES[family])[target]


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    program = Path(sys.executable).parent / "hadolint"
    found = subprocess.run([program, "--no-color", path], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=lambda path: path.name)
def test_every_stage_starts_from_a_digest_or_from_another_stage(path: Path) -> None:
    own = stages(path)
    assert all(re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", stage.base) or stage.base in own for stage in own.values())
    assert "latest" not in path.read_text()


def test_both_families_have_the_same_base() -> None:
    first, second = (arguments(path) for path in DOCKERFILES.values())
    assert first == second


def test_base_has_a_python_that_the_project_takes() -> None:
    version = re.search(r"python:3\.(\d+)-", arguments(DOCKERFILES["models"])["BASE"])
    assert version is not None
    assert f">=3.{version[1]}" == PROJECT["project"]["requires-python"]


def test_image_runs_as_a_user_without_rights_by_number(final: Stage) -> None:
    assert final.last("USER") == "10001:10001"


def test_image_checks_its_health(final: Stage) -> None:
    command = re.search(r"CMD \[(.+)\]", final.last("HEALTHCHECK"))
    assert command is not None
    assert command[1] == '"python", "-m", "services.shared.rpc.healthcheck"'
    assert "LYRA_PORT_FILE" in final.environment()


def test_command_of_an_image_is_a_module_that_exists(final: Stage) -> None:
    python, flag, module, *_ = final.command()
    assert (python, flag) == ("python", "-m")
    assert find_spec(module) is not None


def test_image_has_labels_of_the_open_container_initiative(final: Stage) -> None:
    labels = final.labels()
    assert {name for name in LABELS if not labels.get(f"org.opencontainers.image.{name}")} == set()


def test_label_names_the_version_of_the_project(final: Stage) -> None:
    assert f"VERSION={PROJECT['project']['version']}" in final.all("ARG")


def test_nothing_that_installs_or_builds_stays_in_the_base_of_an_image(final: Stage) -> None:
    commands = " ".join(final.all("RUN"))
    assert "pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel" in commands
    assert not re.search(r"apt|gcc|pip install", commands)


def test_packages_code_and_trained_parts_have_a_layer_each(final: Stage) -> None:
    copied = [line.split()[-1] for line in final.all("COPY")]
    assert copied[0] == "/opt/packages"
    assert "/opt/lyra" in copied
    assert ("/opt/torch" in copied) == ("/opt/lyra/model_core/presets/nano_parts" in copied) == (len(copied) == 4)
    assert all("--link --from=" in line for line in final.all("COPY"))


def test_settings_of_an_image_exist(final: Stage) -> None:
    ours = {name.removeprefix("LYRA_").lower() for name in final.environment() if name.startswith("LYRA_")}
    assert ours - set(ProcessSettings.model_fields) == set()


def test_no_image_tells_others_what_it_does(final: Stage) -> None:
    assert final.environment()["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=lambda path: path.name)
def test_packages_are_installed_by_hash_alone(path: Path) -> None:
    installs = [rest for name, rest in lines(path) if name == "RUN" and "pip install" in rest]
    assert installs
    for command in installs:
        assert ("--require-hashes" in command and "--no-deps" in command) or "--no-index" in command


@pytest.mark.parametrize("path", DOCKERFILES.values(), ids=lambda path: path.name)
def test_what_is_copied_exists_and_is_let_into_the_build(path: Path) -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for stage in stages(path).values():
        for sources, target in stage.copied():
            assert target.endswith("/"), "a folder, so that it is plain what happens"
            for source in sources:
                assert (ROOT / source).exists()
                assert any(source == each or source.startswith(f"{each}/") for each in let_in), source


def test_secrets_and_history_stay_out_of_the_build() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert patterns[0] == "*"
    assert patterns[-1] == "**/.env*"
