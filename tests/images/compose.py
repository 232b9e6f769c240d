"""docker-compose.yml as parsed by Docker Compose."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.paths import ROOT

FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
SECRETS = ("LYRA_REDIS_PASSWORD", "LYRA_STORE_ROOT_PASSWORD", "LYRA_STORE_SECRET_KEY")
PROFILES = ("cpu", "gpu", "cpu,monitoring")

Project = dict[str, Any]
Service = dict[str, Any]


class Refused(Exception):
    """Compose rejected the file; the message is its stderr."""


def example() -> dict[str, str]:
    """Variables in .env.example."""
    return dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def render(variables: Mapping[str, str]) -> Project:
    """The project for these variables.

    Raises:
        Refused: Compose reported an error. Its exit code does not show that.
    """
    program = Path(sys.executable).parent / "docker-compose"
    with tempfile.NamedTemporaryFile("w", suffix=".env") as file:
        file.write("".join(f"{name}={value}\n" for name, value in variables.items()))
        file.flush()
        done = subprocess.run(
            [program, "--project-directory", ROOT, "--file", FILE, "--env-file", file.name, "config"],
            env={"PATH": "/usr/bin:/bin", "HOME": tempfile.gettempdir()},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.stderr.strip():
        raise Refused(done.stderr.strip())
    project: Project = yaml.safe_load(done.stdout)
    return project


@cache
def project(profiles: str) -> Project:
    """The project for .env.example with secrets filled in and these profiles enabled."""
    return render(example() | dict.fromkeys(SECRETS, "0123abcd") | {"COMPOSE_PROFILES": profiles})


def services(profiles: str) -> dict[str, Service]:
    """Services of the enabled profiles by name."""
    found: dict[str, Service] = project(profiles)["services"]
    return found


def ours(profiles: str) -> dict[str, Service]:
    """Services with a Lyra image."""
    return {name: service for name, service in services(profiles).items() if "/lyra-" in service["image"]}


def module(service: Service) -> str:
    """Python module that a service runs."""
    python, flag, name, *_ = service["command"]
    assert (python, flag) == ("python", "-m")
    return str(name)


def seconds(duration: str) -> float:
    """Seconds of a duration such as "1m15s"."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", duration))
