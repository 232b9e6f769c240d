"""What the Dockerfiles say, as data."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.paths import ROOT

DOCKERFILES = {"services": ROOT / "docker" / "services.Dockerfile", "models": ROOT / "docker" / "models.Dockerfile"}

_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(slots=True)
class Stage:
    """One stage: what it starts from (all that it inherits included), its instructions as (name, rest of the line)."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The rest of each such line."""
        return [rest for name, rest in self.instructions if name == instruction]

    def last(self, instruction: str) -> str:
        """The one that counts. Raises IndexError where there is none."""
        return self.all(instruction)[-1]

    def command(self) -> list[str]:
        """Of CMD, which has to be in its JSON form."""
        words: list[str] = json.loads(self.last("CMD"))
        return words

    def environment(self) -> dict[str, str]:
        """What ENV sets."""
        return {name: value for line in self.all("ENV") for name, value in re.findall(r'(\w+)=("[^"]*"|\S+)', line)}

    def labels(self) -> dict[str, str]:
        """What LABEL sets."""
        return dict(re.findall(r'([\w.]+)="([^"]*)"', " ".join(self.all("LABEL"))))

    def copied(self) -> list[tuple[list[str], str]]:
        """Paths of the build's context that COPY takes, and where to."""
        taken = [line.split() for line in self.all("COPY") if "--from=" not in line]
        return [(words[:-1], words[-1]) for words in taken]


def lines(path: Path) -> list[tuple[str, str]]:
    """(instruction, rest), with continued lines joined and comments left out."""
    kept = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(kept))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def arguments(path: Path) -> dict[str, str]:
    """Defaults of the ARGs before the first FROM."""
    found: dict[str, str] = {}
    for name, rest in lines(path):
        if name == "FROM":
            break
        argument, _, value = rest.partition("=")
        found[argument] = value
    return found


def stages(path: Path) -> dict[str, Stage]:
    """By name, "final" where it has none; each has the instructions of the stages that it starts from too."""
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
