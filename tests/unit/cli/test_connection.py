"""Which gateway a command speaks to."""

import json
import os
from pathlib import Path

import pytest

from cli.connection import Connection, find_gateway
from cli.failure import CommandFailed


@pytest.fixture
def running(home: Path) -> Path:
    """The state of a stack that runs: this process stands for it."""
    path = home / "run" / "stack.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"pid": os.getpid(), "url": "http://127.0.0.1:8123", "key": "local"}))
    return path


def test_a_stack_that_runs_here_is_found(running: Path) -> None:
    assert find_gateway(None, None) == Connection("http://127.0.0.1:8123", "local")


def test_named_gateway_wins_over_the_local_stack(running: Path) -> None:
    assert find_gateway("https://lyra.example/", "mine") == Connection("https://lyra.example", "mine")


def test_key_alone_goes_to_the_local_stack(running: Path) -> None:
    assert find_gateway(None, "mine") == Connection("http://127.0.0.1:8123", "mine")


def test_key_of_the_local_stack_is_not_sent_elsewhere(running: Path) -> None:
    assert find_gateway("https://lyra.example", None).key == ""


def test_state_of_a_dead_stack_counts_for_nothing(running: Path) -> None:
    running.write_text(json.dumps({"pid": 2**22 + 1, "url": "http://127.0.0.1:8123", "key": "local"}))
    with pytest.raises(CommandFailed, match="no Lyra stack"):
        find_gateway(None, None)


def test_damaged_state_counts_for_nothing(running: Path) -> None:
    running.write_text("{")
    with pytest.raises(CommandFailed, match="no Lyra stack"):
        find_gateway(None, None)
