"""docker-compose.yml as Docker Compose itself reads it."""

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
    """Compose does not take the file; the message is what it wrote to stderr."""


def example() -> dict[str, str]:
    """The variables of .env.example."""
    return dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def render(variables: Mapping[str, str]) -> Project:
    """The project that these variables make.

    Raises:
        Refused: Compose found fault with it. Its exit code does not tell.
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
    """What .env.example makes with these profiles, and secrets filled in."""
    return render(example() | dict.fromkeys(SECRETS, "0123abcd") | {"COMPOSE_PROFILES": profiles})


def services(profiles: str) -> dict[str, Service]:
    """By name, those that the profiles start."""
    found: dict[str, Service] = project(profiles)["services"]
    return found


def ours(profiles: str) -> dict[str, Service]:
    """Those that run an image of Lyra."""
    return {name: service for name, service in services(profiles).items() if "/lyra-" in service["image"]}


def module(service: Service) -> str:
    """That a service runs."""
    python, flag, name, *_ = service["command"]
    assert (python, flag) == ("python", "-m")
    return str(name)


def seconds(duration: str) -> float:
    """Of a duration as Compose writes it: "1m15s"."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", duration))
