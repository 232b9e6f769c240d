"""Webhooks: which callbacks the documentation's sample receiver accepts, and whose secret signs what."""

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from standardwebhooks import Webhook

from services.shared.webhooks.deliveries import signed_headers
from services.shared.webhooks.records import Delivery
from services.shared.webhooks.secrets import SecretStore
from tests.attack.registry import Outcome, Plan, attack
from tests.attack.target import ATTACKER, VICTIM, Target
from tests.job_stack import speech
from tests.paths import ROOT

_SAMPLE = re.compile(r"```python\n(import os\n.*?LYRA_WEBHOOK_SECRET.*?)```", re.DOTALL)
_TOLERANCE = timedelta(minutes=5)  # seconds, from Standard Webhooks


@attack("callbacks replayed, forged and changed, against the receiver of docs/long-audio.md")
def replayed(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("204 for genuine ones, each handled once; 401 for all others")
    secret, other = _secret(target, VICTIM), _secret(target, ATTACKER)
    now = datetime.now(UTC)
    handled: list[str] = []
    body = '{"type":"job.succeeded","data":{"id":"job-1"}}'
    delivery = Delivery(id="msg_1", tenant=VICTIM, url="https://a.test/", secret_id="whk_1", body=body, asked=now)
    true = signed_headers(delivery, (secret,), now)
    send = _Receiver(secret, handled).send
    outcome.add(send(true, delivery.body), ("204",), "a true one")
    for _ in range(plan.count(100, 10)):
        outcome.add(send(true, delivery.body), ("204", "401"), "the same again")
    outcome.require(len(handled) == 1, f"a callback that came again was worked on {len(handled)} times")
    for what, headers, body in _forgeries(delivery, true, secret, other, now):
        before = len(handled)
        outcome.add(send(headers, body), ("401",), what)
        outcome.require(len(handled) == before, f"worked on: {what}")
    return outcome


@attack("jobs whose callbacks are to be signed with another tenant's secret")
def signed_by_others(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("400, with the same message as for a missing secret")
    with target.client(ATTACKER) as client:
        media = client.post("/v1/media", files={"file": ("a.flac", speech(1))}).json()["id"]
        words = set()
        for secret_id in (target.secret_ids[VICTIM], "whk_000000000000"):
            webhook = {"url": "https://192.0.78.9/", "secret_id": secret_id}
            response = client.post("/v1/jobs", json={"media_id": media, "webhook": webhook})
            outcome.add(str(response.status_code), ("400",), response.text[:200])
            words.add(response.text.replace(secret_id, "ID"))
        outcome.require(len(words) == 1, f"the answers differ: {words}")
    return outcome


def _forgeries(
    delivery: Delivery, true: dict[str, str], secret: str, other: str, now: datetime
) -> list[tuple[str, dict[str, str], str]]:
    """Title, headers, body."""
    body, late, early = delivery.body, now - _TOLERANCE * 1.2, now + _TOLERANCE * 1.2
    stamp = str(int(time.time()) + 60)
    signed = true["webhook-signature"]
    changed = body.replace("job-1", "job-2")
    forged = [
        ("recorded six minutes ago", signed_headers(delivery, (secret,), late), body),
        ("of a clock six minutes ahead", signed_headers(delivery, (secret,), early), body),
        (
            "recorded, with a fresh time",
            {**signed_headers(delivery, (secret,), late), "webhook-timestamp": stamp},
            body,
        ),
        ("signed by another tenant's secret", signed_headers(delivery, (other,), now), body),
        ("another id", {**true, "webhook-id": "msg_2"}, body),
        ("another body", true, changed),
        ("an empty body", true, ""),
        ("a signature of another version", {**true, "webhook-signature": signed.replace("v1,", "v2,")}, changed),
        ("an asymmetric signature", {**true, "webhook-signature": signed.replace("v1,", "v1a,")}, changed),
        ("half a signature", {**true, "webhook-signature": signed[:20]}, body),
        ("a thousand signatures", {**true, "webhook-signature": " ".join(["v1,AAAA"] * 1000)}, body),
        ("a time that is no number", {**true, "webhook-timestamp": "soon"}, body),
        ("a time without an end", {**true, "webhook-timestamp": "9" * 400}, body),
        ("a negative time", {**true, "webhook-timestamp": "-1"}, body),
        ("not a number", {**true, "webhook-timestamp": "nan"}, body),
        ("an endless time", {**true, "webhook-timestamp": "inf"}, body),
    ]
    forged += [(f"no {name}", {key: true[key] for key in true if key != name}, body) for name in true if "hook" in name]
    return forged


class _Receiver:
    """The sample of the documentation, run unchanged; what it handles is collected in `handled`."""

    def __init__(self, secret: str, handled: list[str]) -> None:
        source = _SAMPLE.search((ROOT / "docs" / "long-audio.md").read_text())
        assert source is not None, "docs/long-audio.md shows no receiver"
        code = source[1].replace('os.environ["LYRA_WEBHOOK_SECRET"]', repr(secret))
        names: dict[str, Any] = {"print": lambda *words: handled.append(" ".join(words)), "__name__": "receiver"}
        exec(compile(code, "docs/long-audio.md", "exec", dont_inherit=True), names)
        self._app = names["app"]

    def send(self, headers: dict[str, str], body: str) -> str:
        async def post() -> int:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://receiver.test") as client:
                return (await client.post("/lyra", content=body, headers=headers)).status_code

        return str(asyncio.run(post()))


def _secret(target: Target, tenant: str) -> str:
    """The tenant's webhook secret, as known to its owner."""
    (found,) = SecretStore(target.home / "webhook_secrets.json").active(
        tenant, target.secret_ids[tenant], datetime.now(UTC)
    )
    Webhook(found)
    return found
