"""Tenants: every object of another tenant, on every route, by every possible name; adapters across tenants."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from tests.attack.registry import Outcome, Plan, attack
from tests.attack.target import ATTACKER, MODEL, VICTIM, Target, chat
from tests.job_stack import speech

_SECRET_NAME = "the-victims-own-name"  # must not show up in a response to another tenant
_HIDDEN = ("307", "400", "404", "405", "422")  # 307 redirects to the same path without the trailing slash


@dataclass(frozen=True, slots=True)
class Belongings:
    """Ids of a tenant's objects."""

    media: str
    upload: str
    job: str


def belongings(target: Target, tenant: str) -> Belongings:
    """Creates a recording, an incomplete upload and a job for the tenant."""
    with target.client(tenant) as client:
        media = client.post("/v1/media", files={"file": (f"{_SECRET_NAME}.flac", speech(2, first=5))}).json()["id"]
        upload = client.post("/v1/media/uploads", json={"filename": f"{_SECRET_NAME}.wav", "bytes": 100}).json()["id"]
        job = {"media_id": media, "metadata": {"name": _SECRET_NAME}}
        headers = {"Idempotency-Key": "the-same-key"}
        return Belongings(media, upload, client.post("/v1/jobs", json=job, headers=headers).json()["id"])


@attack("every object of another tenant, on every route that takes an id, also with path traversal")
def anothers_objects(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("404, as for a missing object")
    owned = belongings(target, VICTIM)
    before = _seen(target, owned)
    with target.client(ATTACKER) as client:
        for request in _requests(client, owned):
            response = client.send(request)
            about = f"{request.method} {request.url.raw_path.decode()} {response.text[:200]}"
            outcome.add(str(response.status_code), _HIDDEN, about)
            outcome.require(_SECRET_NAME not in response.text, f"shows a name: {about}")
    outcome.require(_seen(target, owned) == before, "the victim's objects have changed")
    return outcome


@attack("lists, cursors and idempotency keys that name another tenant's objects")
def lists(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("nothing that belongs to others")
    owned = belongings(target, VICTIM)
    with target.client(ATTACKER) as client:
        media = client.post("/v1/media", files={"file": ("mine.flac", speech(1))}).json()["id"]
        cursors = ("", owned.job, owned.media, f"../{VICTIM}/", f"{VICTIM}/", "0", "\x00", "~", "%")
        for path in ("/v1/jobs", "/v1/media"):
            for after in cursors:
                response = client.get(path, params={"after": after})
                outcome.add(str(response.status_code), ("200", "400", "404"), response.text[:200])
                text = response.text
                outcome.require(
                    _SECRET_NAME not in text and owned.job not in text, f"{path} after {after!r}: {text[:300]}"
                )
        response = client.post("/v1/jobs", json={"media_id": media}, headers={"Idempotency-Key": "the-same-key"})
        outcome.add(str(response.status_code), ("202",), response.text[:200])
        outcome.require(response.json().get("id") != owned.job, "an idempotency key gives another tenant's job")
    return outcome


@attack("headers and fields that claim to be another tenant")
def claims(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("404: only the key identifies the tenant")
    owned = belongings(target, VICTIM)
    names = ("X-Tenant", "X-Lyra-Tenant", "Lyra-Tenant", "Tenant", "lyra-tenant", "X-Forwarded-User", "X-Original-URL")
    with target.client(ATTACKER) as client:
        for name in names:
            response = client.get(f"/v1/jobs/{owned.job}", headers={name: VICTIM})
            outcome.add(str(response.status_code), ("404",), name)
        for key in (target.keys[ATTACKER] + ", " + target.keys[VICTIM][:-1], "null", "lyra_", "*"):
            response = client.get(f"/v1/jobs/{owned.job}", headers={"Authorization": f"Bearer {key}"})
            outcome.add(str(response.status_code), ("401", "429"), repr(key[:20]))
        both = [("Authorization", f"Bearer {target.keys[ATTACKER]}"), ("Authorization", "Bearer lyra_x")]
        response = httpx.get(f"{target.url}/v1/jobs/{owned.job}", headers=both, trust_env=False, timeout=60)
        outcome.add(str(response.status_code), ("400", "401", "404", "429"), "two Authorization headers")
    return outcome


@attack("missing adapters, paths as adapters, adapters loaded over HTTP")
def adapters(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("400 or 404, and none is loaded")
    names = (
        "acme-legal",
        "../adapters/x",
        "/etc/passwd",
        "speech/../vision",
        "a" * 65,
        "",
        "Speech",
        "spe\x00ech",
        "..",
    )
    with target.client(ATTACKER) as client:
        for name in names:
            response = client.post("/v1/chat/completions", json=chat(lyra={"adapter": name}))
            outcome.add(str(response.status_code), ("400",), f"{name!r} {response.text[:200]}")
        for path in (
            "/v1/adapters",
            "/v1/models/adapters",
            "/lyra.v1.Adapters/LoadAdapter",
            f"/v1/models/{MODEL}/adapters",
        ):
            response = client.post(path, json={"name": "acme-legal"})
            outcome.add(str(response.status_code), ("404", "405"), path)
    return outcome


def _requests(client: httpx.Client, owned: Belongings) -> Iterator[httpx.Request]:
    for media in _names(owned.media, "media"):
        yield client.build_request("GET", f"/v1/media/{media}")
        yield client.build_request("DELETE", f"/v1/media/{media}")
    for upload in _names(owned.upload, "uploads"):
        yield client.build_request("DELETE", f"/v1/media/uploads/{upload}")
        part = {"number": 1, "etag": "0" * 32}
        yield client.build_request("POST", f"/v1/media/uploads/{upload}/complete", json={"parts": [part]})
    for job in _names(owned.job, "jobs"):
        yield client.build_request("GET", f"/v1/jobs/{job}")
        yield client.build_request("DELETE", f"/v1/jobs/{job}")
        yield client.build_request("POST", f"/v1/jobs/{job}/cancel")
        yield client.build_request("POST", f"/v1/jobs/{job}/questions", json={"questions": ["What was said?"]})
        yield client.build_request("GET", f"/v1/jobs/{job}/events")
        for kind in ("json", "text", "srt", "vtt"):
            yield client.build_request("GET", f"/v1/jobs/{job}/result", params={"format": kind})
    for media in (owned.media, f"../{VICTIM}/{owned.media}", f"{VICTIM}/{owned.media}"):
        yield client.build_request("POST", "/v1/jobs", json={"media_id": media})
        for part in _parts(media):
            content = [{"type": "text", "text": "What is this?"}, part]
            messages = [{"role": "user", "content": content}]
            yield client.build_request("POST", "/v1/chat/completions", json={"model": MODEL, "messages": messages})


def _parts(media: str) -> list[dict[str, Any]]:
    return [
        {"type": "input_audio", "input_audio": {"media_id": media}},
        {"type": "image_url", "image_url": {"url": f"media:{media}"}},
        {"type": "video_url", "video_url": {"url": f"media:{media}"}},
    ]


def _names(name: str, folder: str) -> Iterator[str]:
    """A name, and others that might resolve to the same object."""
    climbing = (
        f"../{VICTIM}/{name}",
        f"../../{folder}/{VICTIM}/{name}",
        f"{VICTIM}/{name}",
        f"./{name}",
        f"..//{VICTIM}//{name}",
    )
    yield name
    for each in climbing:
        yield quote(each, safe="")
        yield quote(quote(each, safe=""), safe="")
    yield from (
        f"{name}%00",
        f"{name}.json",
        f"{name}%2f",
        name.upper(),
        f"%20{name}",
        f"{name}%0a",
        f"{name}?tenant={VICTIM}",
    )


def _seen(target: Target, owned: Belongings) -> str:
    """What the victim sees of its own objects."""
    with target.client(VICTIM) as client:
        media = client.get(f"/v1/media/{owned.media}").json()
        job = client.get(f"/v1/jobs/{owned.job}").json()
    return json.dumps([media, job["id"], job["metadata"], job["questions"], job["state"] == "cancelled"])
