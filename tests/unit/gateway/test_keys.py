import hmac
import json
import stat
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from services.gateway.http.keys import KeyState, KeyStore, KeysUnreadable, UnknownKey


def test_created_key_is_found_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, secret = store.create("acme", "laptop")
    assert store.find(secret) == key
    assert (key.tenant, key.name, key.revoked) == ("acme", "laptop", "")
    assert secret not in store.path.read_text()


def test_the_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "new" / "home")
    store.create("acme")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("secret", ["", "lyra_", "lyra_wrong", "\u00e9", "x" * 10_000])
def test_another_secret_is_not_found(tmp_path: Path, secret: str) -> None:
    store = KeyStore(tmp_path)
    store.create("acme")
    assert store.find(secret) is None


def test_without_a_file_no_key_is_found(tmp_path: Path) -> None:
    assert KeyStore(tmp_path).find("lyra_x") is None


def test_changes_by_another_process_are_visible_at_once(tmp_path: Path) -> None:
    running, command_line = KeyStore(tmp_path), KeyStore(tmp_path)
    assert running.list() == ()
    key, secret = command_line.create("acme")
    assert running.find(secret) == key
    revoked = command_line.revoke(key.id)
    assert revoked.revoked
    assert running.find(secret) is None
    assert running.list() == (revoked,)


def test_keys_created_by_two_stores_are_both_stored(tmp_path: Path) -> None:
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
def test_a_tenant_name_is_a_plain_word(tmp_path: Path, tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        KeyStore(tmp_path).create(tenant)


_DAMAGED_TIMES = [
    json.dumps({"keys": [dict.fromkeys(("id", "tenant", "name", "sha256", "created"), "x") | {"expires": each}]})
    for each in ("soon", "2027-01-31T00:00:00", 5)
]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": [{"id": "x"}]}', *_DAMAGED_TIMES])
def test_a_damaged_file_refuses_every_key(tmp_path: Path, content: str) -> None:
    store = KeyStore(tmp_path)
    _, secret = store.create("acme")
    store.path.write_text(content)
    with pytest.raises(KeysUnreadable):
        store.find(secret)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, _ = store.create("acme")
    assert json.loads(store.path.read_text())["keys"][0]["id"] == key.id


def test_a_key_is_valid_until_it_expires_and_is_then_still_known(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    ends = datetime(2099, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    key, secret = store.create("acme", expires_at=ends)
    assert key.expires == "2099-01-01T00:00:00+00:00"
    assert store.find(secret) == key
    assert key.state(ends - timedelta(seconds=1)) is KeyState.GOOD
    assert key.state(ends) is KeyState.EXPIRED

    store.path.write_text(store.path.read_text().replace("2099", "2020"))
    assert store.find(secret) is None
    assert (match := store.match(secret)) is not None
    assert match.state() is KeyState.EXPIRED
    assert store.revoke(key.id).state() is KeyState.REVOKED


@pytest.mark.parametrize("ends", [datetime(2099, 1, 1), datetime(2020, 1, 1, tzinfo=UTC)])
def test_an_expiry_is_in_the_future_and_has_a_time_zone(tmp_path: Path, ends: datetime) -> None:
    store = KeyStore(tmp_path)
    with pytest.raises(ValueError, match="expires"):
        store.create("acme", expires_at=ends)
    assert store.list() == ()


def test_files_without_expiry_are_read_and_written_in_the_old_format(tmp_path: Path) -> None:
    fields = ["id", "tenant", "name", "sha256", "created", "revoked"]
    store = KeyStore(tmp_path)
    key, secret = store.create("acme")
    content = json.loads(store.path.read_text())
    assert (content["version"], list(content["keys"][0])) == (1, fields)
    assert KeyStore(tmp_path).find(secret) == key
    assert key.expires_at is None


def test_every_key_is_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = KeyStore(tmp_path)
    secrets = [store.create("acme")[1] for _ in range(4)]
    revoked, gone = store.create("acme")
    store.revoke(revoked.id)
    compared: list[str] = []

    def compare(kept: str, given: str) -> bool:
        compared.append(kept)
        return compare_digest(kept, given)

    compare_digest = hmac.compare_digest
    monkeypatch.setattr("services.gateway.http.keys.hmac.compare_digest", compare)
    for secret in (*secrets, gone, "lyra_wrong"):
        compared.clear()
        store.match(secret)
        assert compared == [key.sha256 for key in store.list()]
