import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from services.shared.webhooks.deliveries import signed_headers
from services.shared.webhooks.records import Delivery
from services.shared.webhooks.secrets import OVERLAP, RevokedSecret, SecretStore, SecretsUnreadable, UnknownSecret

BODY = '{"type":"job.succeeded","data":{"text":"Grüße"}}'


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    return SecretStore(tmp_path / "home" / "webhook_secrets.json")


def test_a_secret_is_valid_for_its_tenant_only(store: SecretStore) -> None:
    made = store.create("acme", "shop")
    assert store.active("acme", made.id, now()) == (made.signers[0].secret,)
    for tenant, secret_id in (("other", made.id), ("acme", "whk_none")):
        with pytest.raises(UnknownSecret, match="there is no webhook secret"):
            store.active(tenant, secret_id, now())


def test_the_file_is_readable_by_its_owner_only(store: SecretStore) -> None:
    store.create("acme")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_after_a_rotation_the_old_secret_signs_for_a_day_and_no_longer(store: SecretStore) -> None:
    made = store.create("acme")
    rotated = store.rotate(made.id)
    old, new = made.signers[0].secret, rotated.signers[0].secret
    assert old != new
    soon, later = rotated.signers[0].created + OVERLAP / 2, rotated.signers[0].created + OVERLAP
    assert store.active("acme", made.id, soon) == (new, old)
    assert store.active("acme", made.id, later) == (new,)


def test_rotating_again_does_not_extend_the_oldest_secret(store: SecretStore) -> None:
    made = store.create("acme")
    first = store.rotate(made.id).signers[1].ends
    again = store.rotate(made.id, timedelta(days=9))
    assert [each.secret for each in again.signers][2] == made.signers[0].secret
    assert again.signers[2].ends == first


def test_rotation_without_overlap_keeps_only_the_new_secret(store: SecretStore) -> None:
    made = store.create("acme")
    rotated = store.rotate(made.id, timedelta())
    assert store.active("acme", made.id, now()) == (rotated.signers[0].secret,)


def test_a_revoked_secret_signs_nothing_and_is_forgotten(store: SecretStore) -> None:
    made = store.create("acme")
    assert store.revoke(made.id) == store.revoke(made.id)
    assert made.signers[0].secret not in store.path.read_text()
    with pytest.raises(RevokedSecret):
        store.active("acme", made.id, now())
    with pytest.raises(RevokedSecret):
        store.rotate(made.id)
    with pytest.raises(UnknownSecret, match="whk_none"):
        store.revoke("whk_none")


def test_changes_by_another_process_are_visible_at_once(store: SecretStore) -> None:
    running = SecretStore(store.path)
    assert running.list() == ()
    made = store.create("acme")
    assert running.list() == (made,)
    assert running.active("acme", made.id, now())
    store.revoke(made.id)
    with pytest.raises(RevokedSecret):
        running.active("acme", made.id, now())


@pytest.mark.parametrize("tenant", ["", "two words", "a/b", "..", "."])
def test_a_tenant_name_is_a_plain_word(store: SecretStore, tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        store.create(tenant)


@pytest.mark.parametrize(
    "secret", ["", "hunter2", "whsec_", "whsec_!!!", "whsec_c2hvcnQ=", "c2VjcmV0LW9mLXRoaXJ0eS10d28tYnl0ZXMtb2stb2s="]
)
def test_a_file_with_an_invalid_secret_is_refused_without_showing_it(store: SecretStore, secret: str) -> None:
    store.create("acme")
    content = json.loads(store.path.read_text())
    content["secrets"][0]["signers"][0]["secret"] = secret
    store.path.write_text(json.dumps(content))
    with pytest.raises(SecretsUnreadable) as unreadable:
        store.list()
    assert "signers" in str(unreadable.value)
    assert not secret or secret not in str(unreadable.value)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 2, "secrets": []}', '{"secrets": [{"id": "x"}]}', "\xff"]
)
def test_a_damaged_file_signs_nothing(store: SecretStore, content: str) -> None:
    store.create("acme")
    store.path.write_bytes(content.encode("latin-1"))
    with pytest.raises(SecretsUnreadable):
        store.active("acme", "whk_1", now())


def test_a_secret_is_not_shown_in_its_records_repr(store: SecretStore) -> None:
    made = store.create("acme")
    assert made.signers[0].secret not in repr(made)


def test_every_active_secret_signs_so_a_receiver_needs_only_one(store: SecretStore) -> None:
    made = store.create("acme")
    rotated = store.rotate(made.id)
    sent = now()
    delivery = Delivery(id="msg_1", tenant="acme", url="https://x.example", secret_id=made.id, body=BODY, asked=sent)
    headers = signed_headers(delivery, store.active("acme", made.id, sent), sent)
    assert headers["webhook-id"] == "msg_1"
    assert headers["webhook-timestamp"] == str(int(sent.timestamp()))
    assert len(headers["webhook-signature"].split()) == 2
    for secret in (made.signers[0].secret, rotated.signers[0].secret):
        assert Webhook(secret).verify(BODY, headers)["type"] == "job.succeeded"


def test_the_signature_follows_standard_webhooks() -> None:
    """The example of the specification's own documentation, by its reference libraries."""
    delivery = Delivery(
        id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        tenant="acme",
        url="https://x.example",
        secret_id="whk_1",
        body='{"test": 2432232314}',
        asked=now(),
    )
    sent = datetime.fromtimestamp(1614265330, tz=UTC)
    headers = signed_headers(delivery, ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",), sent)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
