"""Callbacks from a real object store to a real receiver. The time is an argument, so a day passes at once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from services.shared.storage.client import ObjectStore
from services.shared.webhooks.deliveries import DeliveryLog, Webhooks
from services.shared.webhooks.records import AttemptStart, Delivery, Ended, Outcome
from services.shared.webhooks.secrets import SecretStore, SecretsUnreadable
from services.shared.webhooks.settings import WebhookSettings
from tests.integration.webhooks.conftest import StartReceiver, fetcher
from tests.integration.webhooks.receiver import Receiver, Reply

FOLDER = "jobs/acme/job-1/webhook/"
PATIENT_SECONDS = 60.0  # for a machine that is busy with other things

MakeWebhooks = Callable[..., Webhooks]


@pytest.fixture
def secrets(tmp_path: Path) -> SecretStore:
    return SecretStore(tmp_path / "webhook_secrets.json")


@pytest.fixture
def make_webhooks(object_store: ObjectStore, secrets: SecretStore) -> MakeWebhooks:
    """A worker's Webhooks: `make_webhooks(webhook_seconds=1)`."""

    def make(**settings: Any) -> Webhooks:
        values = {"webhook_seconds": PATIENT_SECONDS, **settings}
        return Webhooks(object_store, secrets, fetcher(), WebhookSettings(**values))

    return make


def ask(webhooks: Webhooks, secrets: SecretStore, url: str, now: datetime, folder: str = FOLDER) -> Delivery:
    secret_id = secrets.create("acme").id
    data = {"id": "job-1", "state": "succeeded", "metadata": {"note": "Grüße \U0001f44b"}}
    return webhooks.request(
        folder, tenant="acme", url=url, secret_id=secret_id, event="job.succeeded", data=data, now=now
    )


def until_ended(webhooks: Webhooks, now: datetime) -> tuple[list[datetime], Ended]:
    """Works until the callback ends. Also returns the times of the attempts."""
    times: list[datetime] = []
    following: datetime | Ended | None = now
    while isinstance(following, datetime):
        times.append(following)
        following = webhooks.deliver_once(FOLDER, following)
    assert following is not None
    return times, following


def known(webhooks: Webhooks) -> DeliveryLog:
    found = webhooks.log(FOLDER)
    assert found is not None
    return found


def ids(receiver: Receiver) -> set[str]:
    return {received.headers["webhook-id"] for received in receiver.received}


def test_a_callback_is_signed_delivered_once_and_recorded(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    receiver, webhooks, now = start_receiver(Reply(200, {}, b"thanks")), make_webhooks(), datetime.now(UTC)
    delivery = ask(webhooks, secrets, receiver.url, now)
    assert webhooks.deliver_once(FOLDER, now) == Ended(outcome=Outcome.DELIVERED)
    assert webhooks.deliver_once(FOLDER, now + timedelta(days=1)) == Ended(outcome=Outcome.DELIVERED)
    (received,) = receiver.received
    assert received.method == "POST"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["webhook-id"] == delivery.id
    secret = secrets.list()[0].signers[0].secret
    event = Webhook(secret).verify(received.body, received.headers)
    assert event["type"] == "job.succeeded"
    assert event["data"]["metadata"]["note"] == "Grüße \U0001f44b"
    (tried,) = known(webhooks).attempts
    assert (tried.number, tried.status, tried.error, tried.started) == (1, 200, "", now)


def test_nothing_is_sent_without_a_callback_url(make_webhooks: MakeWebhooks) -> None:
    webhooks = make_webhooks()
    assert webhooks.deliver_once(FOLDER, datetime.now(UTC)) is None
    assert webhooks.log(FOLDER) is None


def test_retries_of_a_callback_have_the_same_id_and_body(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    receiver, webhooks, now = start_receiver(*[Reply(500)] * 9, Reply(204)), make_webhooks(), datetime.now(UTC)
    delivery = ask(webhooks, secrets, receiver.url, now)
    times, ended = until_ended(webhooks, now)
    assert ended.outcome is Outcome.DELIVERED
    assert len(receiver.received) == len(times) == 10
    assert ids(receiver) == {delivery.id}
    assert {received.body for received in receiver.received} == {delivery.body.encode()}
    stamps = [int(received.headers["webhook-timestamp"]) for received in receiver.received]
    assert stamps == [int(time.timestamp()) for time in times]
    assert [each.status for each in known(webhooks).attempts] == [500] * 9 + [204]


def test_nothing_is_sent_before_a_retry_is_due(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    receiver, webhooks, now = start_receiver(Reply(500)), make_webhooks(), datetime.now(UTC)
    ask(webhooks, secrets, receiver.url, now)
    following = webhooks.deliver_once(FOLDER, now)
    assert isinstance(following, datetime)
    assert webhooks.deliver_once(FOLDER, following - timedelta(milliseconds=1)) == following
    assert len(receiver.received) == 1


def test_a_callback_that_always_fails_is_abandoned_within_a_day(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    receiver, webhooks, now = start_receiver(Reply(503)), make_webhooks(), datetime.now(UTC)
    ask(webhooks, secrets, receiver.url, now)
    times, ended = until_ended(webhooks, now)
    assert ended.outcome is Outcome.GIVEN_UP
    assert "503" in ended.reason
    assert len(ids(receiver)) == 1
    assert times[-1] - times[0] <= timedelta(days=1)


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_callback_answered_with_a_4xx_is_not_retried(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver, status: int
) -> None:
    receiver, webhooks, now = start_receiver(Reply(status)), make_webhooks(), datetime.now(UTC)
    ask(webhooks, secrets, receiver.url, now)
    _, ended = until_ended(webhooks, now)
    assert ended == Ended(outcome=Outcome.STOPPED, reason=f"the receiver answered {status}")
    assert len(receiver.received) == 1


def test_retry_after_of_the_receiver_is_respected(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    receiver = start_receiver(Reply(429, {"Retry-After": "3600"}), Reply(204))
    webhooks, now = make_webhooks(), datetime.now(UTC)
    ask(webhooks, secrets, receiver.url, now)
    times, ended = until_ended(webhooks, now)
    assert ended.outcome is Outcome.DELIVERED
    assert times[1] - times[0] >= timedelta(hours=1)


def test_a_redirect_is_a_failure_and_is_not_followed(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    target = start_receiver()
    receiver = start_receiver(Reply(307, {"Location": target.url}))
    webhooks, now = make_webhooks(webhook_delays="5"), datetime.now(UTC)
    ask(webhooks, secrets, receiver.url, now)
    _, ended = until_ended(webhooks, now)
    assert ended.outcome is Outcome.GIVEN_UP
    assert "redirects are not followed" in ended.reason
    assert target.received == []


def test_a_silent_receiver_times_out_and_is_retried(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    receiver, webhooks = start_receiver(Reply(silent=True)), make_webhooks(webhook_seconds=0.5)
    now = datetime.now(UTC)
    ask(webhooks, secrets, receiver.url, now)
    assert isinstance(webhooks.deliver_once(FOLDER, now), datetime)
    (tried,) = known(webhooks).attempts
    assert (tried.status, tried.error, tried.permanent) == (None, "no answer within 0.5 s", False)


def test_requesting_a_callback_twice_sends_the_first_one(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    first, second, now = start_receiver(), start_receiver(), datetime.now(UTC)
    webhooks = make_webhooks()
    asked = [ask(webhooks, secrets, receiver.url, now) for receiver in (first, second)]
    assert asked[0] == asked[1]
    until_ended(webhooks, now)
    assert (len(first.received), len(second.received)) == (1, 0)


def test_only_one_of_two_concurrent_workers_sends(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    receiver, now = start_receiver(), datetime.now(UTC)
    workers = [make_webhooks() for _ in range(4)]
    ask(workers[0], secrets, receiver.url, now)
    together = threading.Barrier(len(workers))

    def work(webhooks: Webhooks) -> datetime | Ended | None:
        together.wait()
        return webhooks.deliver_once(FOLDER, now)

    with ThreadPoolExecutor(len(workers)) as pool:
        outcomes = list(pool.map(work, workers))
    assert len(receiver.received) == 1
    assert Ended(outcome=Outcome.DELIVERED) in outcomes
    assert all(isinstance(each, Ended) or (each is not None and each > now) for each in outcomes)


def test_an_attempt_of_a_dead_worker_is_repeated_with_the_same_id(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver, object_store: ObjectStore
) -> None:
    receiver, webhooks, now = start_receiver(), make_webhooks(webhook_seconds=10), datetime.now(UTC)
    delivery = ask(webhooks, secrets, receiver.url, now)
    object_store.put(FOLDER + "tries/001.begun.json", AttemptStart(started=now, by="dead").to_bytes())
    assert webhooks.deliver_once(FOLDER, now) == now + timedelta(seconds=30)
    assert receiver.received == []
    times, ended = until_ended(webhooks, now + timedelta(seconds=30))
    assert ended.outcome is Outcome.DELIVERED
    assert len(times) == 1
    assert ids(receiver) == {delivery.id}
    assert [each.number for each in known(webhooks).attempts] == [1, 2]


def test_after_a_rotation_both_secrets_sign_earlier_callbacks(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    receiver, webhooks, now = start_receiver(), make_webhooks(), datetime.now(UTC)
    delivery = ask(webhooks, secrets, receiver.url, now)
    rotated = secrets.rotate(delivery.secret_id)
    until_ended(webhooks, now)
    (received,) = receiver.received
    for signer in rotated.signers:
        Webhook(signer.secret).verify(received.body, received.headers)


def test_with_a_revoked_secret_nothing_is_sent_and_the_callback_ends(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    receiver, webhooks, now = start_receiver(), make_webhooks(), datetime.now(UTC)
    delivery = ask(webhooks, secrets, receiver.url, now)
    secrets.revoke(delivery.secret_id)
    _, ended = until_ended(webhooks, now)
    assert ended.outcome is Outcome.STOPPED
    assert "revoked" in ended.reason
    assert receiver.received == []


def test_an_unknown_secret_is_retried(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    receiver, webhooks, now = start_receiver(), make_webhooks(), datetime.now(UTC)
    ask(webhooks, secrets, receiver.url, now)
    content = secrets.path.read_text()
    secrets.path.unlink()
    following = webhooks.deliver_once(FOLDER, now)
    assert isinstance(following, datetime)
    assert receiver.received == []
    secrets.path.write_text(content)
    assert webhooks.deliver_once(FOLDER, following) == Ended(outcome=Outcome.DELIVERED)


def test_a_damaged_secrets_file_does_not_use_up_an_attempt(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    webhooks, now = make_webhooks(), datetime.now(UTC)
    ask(webhooks, secrets, start_receiver().url, now)
    secrets.path.write_text("{")
    with pytest.raises(SecretsUnreadable):
        webhooks.deliver_once(FOLDER, now)
    assert known(webhooks).attempts == ()


def test_a_private_address_ends_the_callback_with_the_reason(make_webhooks: MakeWebhooks, secrets: SecretStore) -> None:
    webhooks, now = make_webhooks(), datetime.now(UTC)
    ask(webhooks, secrets, "http://169.254.169.254/latest/meta-data", now)
    _, ended = until_ended(webhooks, now)
    assert ended.outcome is Outcome.STOPPED
    assert "not public" in ended.reason


def test_each_folder_has_its_own_id(
    make_webhooks: MakeWebhooks, secrets: SecretStore, start_receiver: StartReceiver
) -> None:
    webhooks, now, url = make_webhooks(), datetime.now(UTC), start_receiver().url
    other = ask(webhooks, secrets, url, now, "jobs/acme/job-2/webhook/")
    assert ask(webhooks, secrets, url, now).id != other.id
