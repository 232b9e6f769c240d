"""`lyra webhooks secrets`: made, listed, rotated and revoked on the command line."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.shared.webhooks.secrets import RevokedSecret, SecretStore
from tests.unit.cli.conftest import Lyra


def made(lyra: Lyra) -> dict[str, str]:
    result: dict[str, str] = json.loads(
        lyra("webhooks", "secrets", "create", "web shop", "--tenant", "shop", "--json").stdout
    )
    return result


def active(home: Path, secret_id: str) -> tuple[str, ...]:
    return SecretStore(home / "webhook_secrets.json").active("shop", secret_id, datetime.now(UTC))


def test_a_secret_is_shown_once_and_signs_for_its_own_tenant(lyra: Lyra, home: Path) -> None:
    secret = made(lyra)
    assert active(home, secret["id"]) == (secret["secret"],)
    listed = lyra("webhooks", "secrets", "list").stdout
    assert secret["id"] in listed
    assert secret["secret"] not in listed


def test_only_the_secret_is_written_to_stdout(lyra: Lyra) -> None:
    secret = lyra("webhooks", "secrets", "create", "web shop").stdout
    assert secret.startswith("whsec_")
    assert len(secret.split()) == 1


def test_rotation_keeps_the_old_secret_for_a_while_unless_immediate(lyra: Lyra, home: Path) -> None:
    first = made(lyra)
    second = json.loads(lyra("webhooks", "secrets", "rotate", first["id"], "--json").stdout)
    assert active(home, first["id"]) == (second["secret"], first["secret"])
    third = json.loads(lyra("webhooks", "secrets", "rotate", first["id"], "--at-once", "--json").stdout)
    assert active(home, first["id"]) == (third["secret"],)


def test_a_revoked_secret_signs_nothing(lyra: Lyra, home: Path) -> None:
    secret = made(lyra)
    assert lyra("webhooks", "secrets", "revoke", secret["id"]).exit_code == 0
    with pytest.raises(RevokedSecret):
        active(home, secret["id"])


@pytest.mark.parametrize("verb", ["rotate", "revoke"])
def test_an_unknown_id_fails_and_suggests_the_list_command(lyra: Lyra, verb: str) -> None:
    result = lyra("webhooks", "secrets", verb, "whk_none")
    assert result.exit_code == 1
    assert "whk_none" in result.stderr
    assert "lyra webhooks secrets list" in result.stderr


def test_an_invalid_tenant_name_is_a_usage_error(lyra: Lyra) -> None:
    assert lyra("webhooks", "secrets", "create", "x", "--tenant", "a/b").exit_code == 2


def test_a_damaged_file_fails_without_showing_its_content(lyra: Lyra, home: Path) -> None:
    (home / "webhook_secrets.json").write_text('{"secrets": ["whsec_x"]}')
    result = lyra("webhooks", "secrets", "list")
    assert result.exit_code == 1
    assert "whsec_x" not in result.stderr


def test_a_named_file_is_used_instead(lyra: Lyra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "elsewhere" / "secrets.json"
    monkeypatch.setenv("LYRA_WEBHOOK_SECRETS_FILE", str(named))
    assert made(lyra)["id"] in named.read_text()
