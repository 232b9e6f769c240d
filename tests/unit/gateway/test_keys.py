import json
import stat
from pathlib import Path

import pytest

from services.gateway.keys import KeyStore, KeysUnreadable, UnknownKey


def test_a_key_that_was_made_is_found_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, secret = store.create("acme", "laptop")
    assert store.find(secret) == key
    assert (key.tenant, key.name, key.revoked) == ("acme", "laptop", "")
    assert secret not in store.path.read_text()


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "new" / "home")
    store.create("acme")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("secret", ["", "lyra_", "lyra_wrong", "\u00e9", "x" * 10_000])
def test_another_secret_is_not_found(tmp_path: Path, secret: str) -> None:
    store = KeyStore(tmp_path)
    store.create("acme")
    assert store.find(secret) is None


def test_without_a_file_nobody_is_found(tmp_path: Path) -> None:
    assert KeyStore(tmp_path).find("lyra_x") is None


def test_what_another_process_makes_or_revokes_holds_at_once(tmp_path: Path) -> None:
    running, command_line = KeyStore(tmp_path), KeyStore(tmp_path)
    assert running.list() == ()
    key, secret = command_line.create("acme")
    assert running.find(secret) == key
    revoked = command_line.revoke(key.id)
    assert revoked.revoked
    assert running.find(secret) is None
    assert running.list() == (revoked,)


def test_keys_made_by_two_stores_are_both_kept(tmp_path: Path) -> None:
    stores = KeyStore(tmp_path), KeyStore(tmp_path)
    secrets = [store.create("acme")[1] for store in stores for _ in range(3)]
    assert all(store.find(secret) for store in stores for secret in secrets)


def test_revoking_twice_keeps_the_first_time_and_an_unknown_id_is_an_error(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, _ = store.create("acme")
    assert store.revoke(key.id) == store.revoke(key.id)
    with pytest.raises(UnknownKey, match="key_none"):
        store.revoke("key_none")


@pytest.mark.parametrize("tenant", ["", "two words", "a/b", "\u00e9", "x" * 65])
def test_a_tenant_is_a_plain_word(tmp_path: Path, tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        KeyStore(tmp_path).create(tenant)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": [{"id": "x"}]}'])
def test_a_damaged_file_lets_nobody_in(tmp_path: Path, content: str) -> None:
    store = KeyStore(tmp_path)
    _, secret = store.create("acme")
    store.path.write_text(content)
    with pytest.raises(KeysUnreadable):
        store.find(secret)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, _ = store.create("acme")
    assert json.loads(store.path.read_text())["keys"][0]["id"] == key.id
