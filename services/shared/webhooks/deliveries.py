"""Callbacks on their way: asked for once, tried until they end, every try on record. Everything here blocks.

All of it lies in the object store, in a folder that the caller names, so a worker that dies or a queue that is wiped
changes nothing: whoever calls `deliver_once` next goes on with the same id.
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
from services.shared.webhooks.records import Begun, Delivery, Ended, Try
from services.shared.webhooks.schedule import next_try, retry_after
from services.shared.webhooks.secrets import RevokedSecret, SecretStore, UnknownSecret
from services.shared.webhooks.settings import WebhookSettings

log = get_logger(__name__)

_DELIVERY = "delivery.json"
_TRY_FILE = re.compile(r"tries/(?P<number>\d{3,})\.(?P<kind>json|begun\.json)")
_USER_AGENT = "lyra-webhooks/1"


@dataclass(frozen=True, slots=True)
class DeliveryLog:
    """A callback, what was tried, and when it is tried next or how it ended."""

    delivery: Delivery
    tries: tuple[Try, ...]
    next: datetime | Ended


class Webhooks:
    """Makes callbacks. May be shared by threads.

    Args:
        store: Where deliveries and their tries lie.
        secrets: What they are signed with.
        fetcher: The way out.
    """

    def __init__(self, store: ObjectStore, secrets: SecretStore, fetcher: Fetcher, settings: WebhookSettings) -> None:
        self._store = store
        self._secrets = secrets
        self._fetcher = fetcher
        self._seconds = settings.webhook_seconds
        self._schedule = settings.schedule()

    def ask(
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
        """Asks for a callback. Asked again, the first one is returned, and nothing else is ever sent from `folder`.

        Args:
            folder: Prefix of its objects in the store, ending with "/"; the callback's id follows from it.
            event: Its type, such as "job.succeeded".
            data: What the receiver is told; has to be JSON.
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
        """Makes the next try where one is due and nobody else makes it.

        Returns:
            When to call again, or how the callback ended; None where none was asked for in `folder`.

        Raises:
            StoreUnavailable, SecretsUnreadable: Call again later.
        """
        found = self.log(folder)
        if found is None or isinstance(found.next, Ended) or (found.tries and found.next > now):
            return found.next if found else None
        signers = self._signers(found.delivery, now)  # first: a try that cannot be signed at the moment is none
        number = found.tries[-1].number + 1 if found.tries else 1
        begun = Begun(started=now, by=random.token_hex(8))
        if not self._store.put_new(f"{folder}tries/{number:03}.begun.json", begun.to_bytes()):
            return now + timedelta(seconds=self._schedule.lost_after)  # another worker is at it
        tried = self._try(found.delivery, signers, number, now)
        self._store.put(f"{folder}tries/{number:03}.json", tried.to_bytes())
        log.info("callback tried", id=found.delivery.id, number=number, status=tried.status, error=tried.error)
        return next_try(found.delivery, (*found.tries, tried), self._schedule)

    def log(self, folder: str) -> DeliveryLog | None:
        """What is known of the callback in `folder`; None where none was asked for."""
        try:
            delivery = Delivery.from_bytes(self._store.get(folder + _DELIVERY))
        except ObjectMissing:
            return None
        kinds: dict[int, set[str]] = {}
        for each in self._store.list(folder + "tries/"):
            if name := _TRY_FILE.fullmatch(each.key.removeprefix(folder)):
                kinds.setdefault(int(name["number"]), set()).add(name["kind"])
        tries = tuple(self._read_try(folder, number, "json" in kinds[number]) for number in sorted(kinds))
        return DeliveryLog(delivery, tries, next_try(delivery, tries, self._schedule))

    def _read_try(self, folder: str, number: int, ended: bool) -> Try:
        if ended:
            return Try.from_bytes(self._store.get(f"{folder}tries/{number:03}.json"))
        begun = Begun.from_bytes(self._store.get(f"{folder}tries/{number:03}.begun.json"))
        return Try(number=number, started=begun.started)

    def _signers(self, delivery: Delivery, now: datetime) -> tuple[str, ...] | UnknownSecret:
        """Secrets to sign with, or why there are none. Raises SecretsUnreadable."""
        try:
            return self._secrets.active(delivery.tenant, delivery.secret_id, now)
        except UnknownSecret as error:
            return error

    def _try(self, delivery: Delivery, signers: tuple[str, ...] | UnknownSecret, number: int, now: datetime) -> Try:
        tried = Try(number=number, started=now)
        if isinstance(signers, UnknownSecret):
            # One that is only not known may be on its way to this machine; nothing is sent until then.
            revoked = isinstance(signers, RevokedSecret)
            return tried.model_copy(update={"error": str(signers), "permanent": revoked})
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
            answer = asyncio.run(sending)
        except FetchError as error:
            what = {"error": str(error), "permanent": isinstance(error, Refused)}
            return tried.model_copy(update={"seconds": _since(started), **what})
        seconds = _since(started)
        asked = answer.headers.get("retry-after", "")
        wait = retry_after(answer.status, asked, now + timedelta(seconds=seconds))
        return tried.model_copy(update={"seconds": seconds, "status": answer.status, "retry_after_seconds": wait})


def signed_headers(delivery: Delivery, secrets: tuple[str, ...], now: datetime) -> dict[str, str]:
    """Headers of a try at `now`, with a signature by each of `secrets` (whsec_...)."""
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
