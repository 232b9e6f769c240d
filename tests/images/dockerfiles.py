"""Parses the Dockerfiles."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.paths import ROOT

DOCKERFILES = {"services": ROOT / "docker" / "services.Dockerfile", "models": ROOT / "docker" / "models.Dockerfile"}

_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(slots=True)
class Stage:
    """A build stage with its base image and its instructions as (name, rest of the line), inherited ones included."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Arguments of each instruction of this name."""
        return [rest for name, rest in self.instructions if name == instruction]

    def last(self, instruction: str) -> str:
        """Arguments of the last, effective instruction of this name. Raises IndexError if there is none."""
        return self.all(instruction)[-1]

    def command(self) -> list[str]:
        """Words of CMD, which must be in exec form."""
        words: list[str] = json.loads(self.last("CMD"))
        return words

    def environment(self) -> dict[str, str]:
        """Variables of ENV."""
        return {name: value for line in self.all("ENV") for name, value in re.findall(r'(\w+)=("[^"]*"|\S+)', line)}

    def labels(self) -> dict[str, str]:
        """Labels of LABEL."""
        return dict(re.findall(r'([\w.]+)="([^"]*)"', " ".join(self.all("LABEL"))))

    def copied(self) -> list[tuple[list[str], str]]:
        """Sources in the build context and target of each COPY."""
        taken = [line.split() for line in self.all("COPY") if "--from=" not in line]
        return [(words[:-1], words[-1]) for words in taken]


def lines(path: Path) -> list[tuple[str, str]]:
    """Instructions as (name, rest), with continued lines joined and comments removed."""
    kept = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(kept))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def arguments(path: Path) -> dict[str, str]:
    """Defaults of the global ARGs."""
    found: dict[str, str] = {}
    for name, rest in lines(path):
        if name == "FROM":
            break
        argument, _, value = rest.partition("=")
        found[argument] = value
    return found


def stages(path: Path) -> dict[str, Stage]:
    """Stages by name ("final" if unnamed), each including the instructions of its base stages."""
    known = arguments(path)
    found: dict[str, Stage] = {}
    stage = Stage("", "")
    for name, rest in lines(path):
        if name == "FROM":
            base, _, own = _VARIABLE.sub(lambda match: known[match[1]], rest).partition(" AS ")
            stage = Stage(own or "final", base)
            if base in found:
                stage.base, stage.instructions = found[base].base, list(found[base].instructions)
            found[stage.name] = stage
        elif stage.name:
            stage.instructions.append((name, rest))
    return found
