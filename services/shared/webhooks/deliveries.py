"""Deliveries of callbacks: requested once, attempted until they end, with a record of each attempt. Everything blocks.

All state is in the object store, in a folder chosen by the caller. If a worker dies or the queue is lost, the next call
of `deliver_once` continues with the same id.
"""

import asyncio
import hashlib
import json
import re
import secrets as random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from standardwebhooks import Webhook

from services.shared.outbound.fetcher import Fetcher, FetchError, Refused
from services.shared.storage.client import ObjectStore
from services.shared.storage.store_errors import ObjectMissing
from services.shared.telemetry import get_logger
from services.shared.webhooks.records import Attempt, AttemptStart, Delivery, Ended
from services.shared.webhooks.schedule import next_attempt, parse_retry_after
from services.shared.webhooks.secrets import RevokedSecret, SecretStore, UnknownSecret
from services.shared.webhooks.settings import WebhookSettings

log = get_logger(__name__)

_DELIVERY = "delivery.json"
_ATTEMPT_FILE = re.compile(r"tries/(?P<number>\d{3,})\.(?P<kind>json|begun\.json)")
_USER_AGENT = "lyra-webhooks/1"


@dataclass(frozen=True, slots=True)
class DeliveryLog:
    """A callback, its attempts so far, and when the next one is due or how it ended."""

    delivery: Delivery
    attempts: tuple[Attempt, ...]
    next: datetime | Ended


class Webhooks:
    """Delivers callbacks. May be shared by threads.

    Args:
        store: Holds deliveries and their attempts.
        secrets: To sign them with.
        fetcher: Makes the HTTP requests.
    """

    def __init__(self, store: ObjectStore, secrets: SecretStore, fetcher: Fetcher, settings: WebhookSettings) -> None:
        self._store = store
        self._secrets = secrets
        self._fetcher = fetcher
        self._seconds = settings.webhook_seconds
        self._schedule = settings.schedule()

    def request(
        self,
        folder: str,
        *,
        tenant: str,
        url: str,
        secret_id: str,
        event: str,
        data: Mapping[str, Any],
        now: datetime,
    ) -> Delivery:
        """Requests a callback. Idempotent: a folder holds one callback, and later requests return the first.

        Args:
            folder: Prefix of its objects in the store, ending with "/"; determines the callback's id.
            event: Type of the event, such as "job.succeeded".
            data: Payload; has to be JSON-serializable.
        """
        body = {"type": event, "timestamp": _seconds_text(now), "data": data}
        delivery = Delivery(
            id=f"msg_{hashlib.sha256(folder.encode()).hexdigest()[:32]}",
            tenant=tenant,
            url=url,
            secret_id=secret_id,
            body=json.dumps(body, allow_nan=False, separators=(",", ":")),
            asked=now,
        )
        if self._store.put_new(folder + _DELIVERY, delivery.to_bytes()):
            return delivery
        return Delivery.from_bytes(self._store.get(folder + _DELIVERY))

    def deliver_once(self, folder: str, now: datetime) -> datetime | Ended | None:
        """Makes the next attempt if one is due and no other worker makes it.

        Returns:
            When to call again, or how the callback ended; None if none was requested in `folder`.

        Raises:
            StoreUnavailable, SecretsUnreadable: Call again later.
        """
        found = self.log(folder)
        if found is None or isinstance(found.next, Ended) or (found.attempts and found.next > now):
            return found.next if found else None
        signers = self._signers(found.delivery, now)  # before the attempt is recorded: it may fail
        number = found.attempts[-1].number + 1 if found.attempts else 1
        start = AttemptStart(started=now, by=random.token_hex(8))
        if not self._store.put_new(f"{folder}tries/{number:03}.begun.json", start.to_bytes()):
            return now + timedelta(seconds=self._schedule.lost_after)  # another worker makes this attempt
        attempt = self._attempt(found.delivery, signers, number, now)
        self._store.put(f"{folder}tries/{number:03}.json", attempt.to_bytes())
        log.info("callback attempted", id=found.delivery.id, number=number, status=attempt.status, error=attempt.error)
        return next_attempt(found.delivery, (*found.attempts, attempt), self._schedule)

    def log(self, folder: str) -> DeliveryLog | None:
        """The callback in `folder` and its attempts; None if none was requested."""
        try:
            delivery = Delivery.from_bytes(self._store.get(folder + _DELIVERY))
        except ObjectMissing:
            return None
        kinds: dict[int, set[str]] = {}
        for each in self._store.list(folder + "tries/"):
            if name := _ATTEMPT_FILE.fullmatch(each.key.removeprefix(folder)):
                kinds.setdefault(int(name["number"]), set()).add(name["kind"])
        attempts = tuple(self._read_attempt(folder, number, "json" in kinds[number]) for number in sorted(kinds))
        return DeliveryLog(delivery, attempts, next_attempt(delivery, attempts, self._schedule))

    def _read_attempt(self, folder: str, number: int, ended: bool) -> Attempt:
        if ended:
            return Attempt.from_bytes(self._store.get(f"{folder}tries/{number:03}.json"))
        start = AttemptStart.from_bytes(self._store.get(f"{folder}tries/{number:03}.begun.json"))
        return Attempt(number=number, started=start.started)

    def _signers(self, delivery: Delivery, now: datetime) -> tuple[str, ...] | UnknownSecret:
        """Secrets to sign with, or the reason why there are none. Raises SecretsUnreadable."""
        try:
            return self._secrets.active(delivery.tenant, delivery.secret_id, now)
        except UnknownSecret as error:
            return error

    def _attempt(
        self, delivery: Delivery, signers: tuple[str, ...] | UnknownSecret, number: int, now: datetime
    ) -> Attempt:
        attempt = Attempt(number=number, started=now)
        if isinstance(signers, UnknownSecret):
            # An unknown secret may still be on its way to this machine, so only a revoked one is permanent.
            revoked = isinstance(signers, RevokedSecret)
            return attempt.model_copy(update={"error": str(signers), "permanent": revoked})
        started = time.monotonic()
        sending = self._fetcher.fetch(
            "POST",
            delivery.url,
            headers=signed_headers(delivery, signers, now),
            body=delivery.body.encode(),
            seconds=self._seconds,
            max_bytes=0,
        )
        try:
            response = asyncio.run(sending)
        except FetchError as error:
            failure = {"error": str(error), "permanent": isinstance(error, Refused)}
            return attempt.model_copy(update={"seconds": _since(started), **failure})
        seconds = _since(started)
        header = response.headers.get("retry-after", "")
        wait = parse_retry_after(response.status, header, now + timedelta(seconds=seconds))
        return attempt.model_copy(update={"seconds": seconds, "status": response.status, "retry_after_seconds": wait})


def signed_headers(delivery: Delivery, secrets: tuple[str, ...], now: datetime) -> dict[str, str]:
    """Headers of an attempt at `now`, with a signature by each of `secrets` (whsec_...)."""
    sent = now.astimezone(UTC)
    return {
        "content-type": "application/json",
        "user-agent": _USER_AGENT,
        "webhook-id": delivery.id,
        "webhook-timestamp": str(int(sent.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(delivery.id, sent, delivery.body) for secret in secrets),
    }


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _seconds_text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")
