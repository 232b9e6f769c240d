"""API keys: thousands of guesses, in every form that a header can have."""

import asyncio
import random
import string
from collections.abc import Iterator

from tests.attack.http import Answer, request_bytes, send_all
from tests.attack.registry import Outcome, Plan, attack
from tests.attack.target import VICTIM, Target

_REFUSED = ("401", "429")


@attack("guessed keys, and keys that are nearly correct")
def guessed(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("401, later 429; never accepted")

    def count(request: bytes, answer: Answer) -> None:
        outcome.add(answer.status, _REFUSED, request[:200])

    requests = _guesses(target.keys[VICTIM], plan.random("keys"), plan.count(20_000, 500))
    asyncio.run(send_all(target.port, requests, 16, count))
    return outcome


@attack("malformed Authorization headers")
def malformed(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("400, 401 or 404")
    key = target.keys[VICTIM]
    forms = (
        *(f"Basic {key}", f"bearer{key}", f"Token {key}", key, "Bearer", f"Bearer {key}x", f"Bearer {key[:-1]}"),
        *(f"Bearer {key.upper()}", "Bearer \xff\xfe", "Bearer " + "a" * 60_000, f"Bearer {key},{key}", "Bearer null"),
        *("Bearer *", "Bearer %", "Bearer ' OR 1=1 --", "Bearer ${jndi:ldap://127.0.0.1/}", "Bearer ../keys.json"),
    )
    requests = [request_bytes("GET", "/v1/models", {"Authorization": form}) for form in forms]
    requests += [
        request_bytes("GET", f"/v1/models?api_key={key}", {}),
        request_bytes("GET", "/v1/models", {"api-key": key}),
    ]
    paths = (
        "/V1/models",
        "//v1/models",
        "/healthz/../v1/models",
        "/./v1/models",
        "/metrics/v1/models",
        "/v1/models/..;/",
    )
    requests += [request_bytes("GET", path, {}) for path in paths]

    def count(request: bytes, answer: Answer) -> None:
        outcome.add(answer.status, ("400", "401", "404", "431"), request[:200])

    for number, request in enumerate(requests):  # each from a new address, which has no failures yet
        asyncio.run(send_all(target.port, [request], 1, count, source=f"127.0.9.{number + 1}"))
    return outcome


def _guesses(key: str, draw: random.Random, count: int) -> Iterator[bytes]:
    """Random keys, and the real one with one character changed."""
    alphabet = string.ascii_letters + string.digits + "-_"
    for number in range(count):
        guess = list(key)
        places = range(5, len(key)) if number % 2 else [draw.randrange(5, len(key) - 1)]
        for place in places:
            guess[place] = draw.choice(alphabet.replace(key[place], ""))
        yield request_bytes("GET", "/v1/models", {"Authorization": f"Bearer {''.join(guess)}"})
