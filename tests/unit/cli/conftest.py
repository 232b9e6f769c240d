"""Runs `lyra` in this process, with its own home and environment."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app

Lyra = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty LYRA_HOME; no gateway is named by the environment."""
    monkeypatch.setenv("LYRA_HOME", str(tmp_path))
    monkeypatch.delenv("LYRA_URL", raising=False)
    monkeypatch.delenv("LYRA_API_KEY", raising=False)
    return tmp_path


@pytest.fixture
def lyra(home: Path) -> Lyra:
    """`lyra("keys", "list")` runs the command and returns exit code, stdout and stderr."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
