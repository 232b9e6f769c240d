"""Which gateway a command connects to."""

import json
import os
from pathlib import Path

import pytest

from cli.connection import Connection, find_gateway
from cli.failure import CommandFailed


@pytest.fixture
def running(home: Path) -> Path:
    """The state of a running stack, represented by this process."""
    path = home / "run" / "stack.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"pid": os.getpid(), "url": "http://127.0.0.1:8123", "key": "local"}))
    return path


def test_a_running_local_stack_is_found(running: Path) -> None:
    assert find_gateway(None, None) == Connection("http://127.0.0.1:8123", "local")


def test_a_named_gateway_takes_precedence_over_the_local_stack(running: Path) -> None:
    assert find_gateway("https://lyra.example/", "mine") == Connection("https://lyra.example", "mine")


def test_a_key_without_a_gateway_is_for_the_local_stack(running: Path) -> None:
    assert find_gateway(None, "mine") == Connection("http://127.0.0.1:8123", "mine")


def test_the_local_stacks_key_is_not_sent_to_other_gateways(running: Path) -> None:
    assert find_gateway("https://lyra.example", None).key == ""


def test_the_state_of_a_dead_stack_is_ignored(running: Path) -> None:
    running.write_text(json.dumps({"pid": 2**22 + 1, "url": "http://127.0.0.1:8123", "key": "local"}))
    with pytest.raises(CommandFailed, match="no Lyra stack"):
        find_gateway(None, None)


def test_a_damaged_state_file_is_ignored(running: Path) -> None:
    running.write_text("{")
    with pytest.raises(CommandFailed, match="no Lyra stack"):
        find_gateway(None, None)
