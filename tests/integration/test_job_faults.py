"""Long-audio jobs survive what happens to processes, Redis, the object store and receivers: always exactly one result,
the same to the byte as that of an undisturbed run, no clip lost, and no second callback."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.shared.webhooks.secrets import SecretStore
from tests.job_stack import JobStack, kill, speech, until

SENTENCES = 16  # about a minute: three clips or so
TRANSCRIPT: dict[str, Any] = {"tasks": ["transcript"]}  # enough where a fault hits planning, clips or callbacks
ALL_TASKS: dict[str, Any] = {
    "tasks": ["transcript", "summary", "questions"],
    "questions": ("Who speaks?", "What is it about?"),
}


def result_of_undisturbed_run(jobs: JobStack, options: dict[str, Any]) -> bytes:
    name = jobs.submit(speech(SENTENCES), **options)
    assert jobs.ended(name)["state"] == "succeeded"
    return jobs.kept(name)


@pytest.fixture(scope="module")
def undisturbed(jobs: JobStack) -> bytes:
    """The transcript from a run without faults."""
    return result_of_undisturbed_run(jobs, TRANSCRIPT)


@pytest.fixture(scope="module")
def undisturbed_answers(jobs: JobStack) -> bytes:
    """Transcript, summary and answers from a run without faults."""
    return result_of_undisturbed_run(jobs, ALL_TASKS)


def assert_whole(jobs: JobStack, name: str, undisturbed: bytes) -> None:
    """It has succeeded as if nothing had happened."""
    job = jobs.ended(name)
    assert job["state"] == "succeeded", job["reason"]
    assert jobs.kept(name) == undisturbed
    assert job["progress"]["clips_heard"] == job["progress"]["clips"] > 1


def test_a_killed_pool_process_loses_no_answer(jobs: JobStack, undisturbed_answers: bytes) -> None:
    with jobs.frozen("language_model"):
        name = jobs.submit(speech(SENTENCES), **ALL_TASKS)
        until(lambda: jobs.leases("windows") > 0)
        children = jobs.children("answer_worker")
        assert children
        for child in children:
            kill(child)
    assert_whole(jobs, name, undisturbed_answers)


def test_a_clip_that_ends_its_worker_every_time_is_given_up_and_named(jobs: JobStack) -> None:
    with jobs.frozen("speech_encoder"):
        name = jobs.submit(speech(SENTENCES))
        until(lambda: jobs.leases("clip") > 0)
        jobs.stack.kill("clip_worker")
    jobs.redis.set(f"lyra:tries:development/{name}/clip:1:", 3)  # as if that had happened three times
    jobs.stack.restart("clip_worker")
    job = jobs.ended(name)
    assert job["state"] == "failed"
    assert [(failure["clip"], failure["reason"]) for failure in job["failures"]] == [
        (1, "its workers died while processing it")
    ]
    assert job["progress"]["clips_heard"] == job["progress"]["clips"] - 1


def test_a_killed_worker_loses_no_clip(jobs: JobStack, undisturbed: bytes) -> None:
    with jobs.frozen("speech_encoder"):
        name = jobs.submit(speech(SENTENCES), **TRANSCRIPT)
        until(lambda: jobs.leases("clip") > 0)
        children = jobs.children("clip_worker")
        jobs.stack.kill("clip_worker")
        until(lambda: not any(child.is_running() for child in children))
    jobs.stack.restart("clip_worker")
    assert_whole(jobs, name, undisturbed)


def test_a_killed_planner_begins_again(jobs: JobStack, undisturbed: bytes) -> None:
    with jobs.frozen("object_store"):
        jobs.stack.kill("plan_worker")
    name = jobs.submit(speech(SENTENCES), **TRANSCRIPT)
    assert jobs.job(name)["state"] == "queued"
    jobs.stack.restart("plan_worker")
    until(lambda: "started.json" in jobs.names(name))
    for child in jobs.children("plan_worker"):
        kill(child)
    assert_whole(jobs, name, undisturbed)


def kill_service_at_work(jobs: JobStack, service: str, work: tuple[str, ...], options: dict[str, Any]) -> str:
    """Kills a service while a unit of such a kind runs, and restarts it. Returns the job's id."""
    with jobs.frozen(service):
        name = jobs.submit(speech(SENTENCES), **options)
        until(lambda: any(jobs.leases(kind) > 0 for kind in work))
        jobs.stack.kill(service)
    jobs.stack.restart(service)
    return name


def test_a_killed_speech_encoder_costs_a_retry(jobs: JobStack, undisturbed: bytes) -> None:
    name = kill_service_at_work(jobs, "speech_encoder", ("clip",), TRANSCRIPT)
    assert_whole(jobs, name, undisturbed)


def test_a_killed_language_model_costs_a_retry(jobs: JobStack, undisturbed_answers: bytes) -> None:
    name = kill_service_at_work(jobs, "language_model", ("windows", "window", "answer"), ALL_TASKS)
    assert_whole(jobs, name, undisturbed_answers)


@pytest.mark.parametrize("seconds", [0, pytest.param(30, marks=pytest.mark.full)])
def test_a_redis_that_stops_loses_nothing(jobs: JobStack, undisturbed: bytes, seconds: float) -> None:
    with jobs.frozen("speech_encoder"):
        name = jobs.submit(speech(SENTENCES), **TRANSCRIPT)
        until(lambda: jobs.leases("clip") > 0)
        jobs.stack.kill("redis")
    submitted_meanwhile = jobs.submit(speech(SENTENCES), **TRANSCRIPT)
    time.sleep(seconds)
    jobs.stack.restart("redis")
    assert_whole(jobs, name, undisturbed)
    assert_whole(jobs, submitted_meanwhile, undisturbed)


def test_a_redis_that_is_wiped_loses_nothing(jobs: JobStack, undisturbed_answers: bytes) -> None:
    with jobs.frozen("speech_encoder"):
        name = jobs.submit(speech(SENTENCES), **ALL_TASKS)
        until(lambda: jobs.leases("clip") > 0)
        jobs.redis.flushall()
    jobs.redis.flushall()
    assert_whole(jobs, name, undisturbed_answers)


@pytest.mark.parametrize("seconds", [0, pytest.param(60, marks=pytest.mark.full)])
def test_an_object_store_that_stops_loses_nothing(jobs: JobStack, undisturbed: bytes, seconds: float) -> None:
    with jobs.frozen("speech_encoder"):
        name = jobs.submit(speech(SENTENCES), **TRANSCRIPT)
        until(lambda: jobs.leases("clip") > 0)
        jobs.stack.kill("object_store")
    refused = jobs.http.get(f"/v1/jobs/{name}")
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    time.sleep(seconds)
    jobs.stack.restart("object_store")
    assert_whole(jobs, name, undisturbed)


def test_an_object_store_that_cannot_write_loses_nothing(jobs: JobStack, undisturbed: bytes) -> None:
    with ExitStack() as full:
        with jobs.frozen("speech_encoder"):
            name = jobs.submit(speech(SENTENCES), **TRANSCRIPT)
            until(lambda: jobs.leases("clip") > 0)
            full.enter_context(jobs.full())
        refused = jobs.http.post("/v1/media", files={"file": ("b.flac", speech(2, first=50))})
        assert refused.status_code == 503, refused.text
        assert refused.headers["retry-after"]
        until(lambda: jobs.leases("clip") == 0)  # heard, and put back because it could not be kept
    assert_whole(jobs, name, undisturbed)


def test_events_go_on_behind_the_last_one_when_the_gateway_is_back(jobs: JobStack, undisturbed: bytes) -> None:
    name = jobs.submit(speech(SENTENCES), **TRANSCRIPT)
    seen: list[tuple[str, str]] = []
    with jobs.http.stream("GET", f"/v1/jobs/{name}/events") as response:
        for number, data in numbered_events(response):
            seen.append((number, data))
            break
    jobs.stack.kill("gateway")
    jobs.stack.restart("gateway")
    with jobs.http.stream("GET", f"/v1/jobs/{name}/events", headers={"Last-Event-ID": seen[-1][0]}) as response:
        seen += numbered_events(response)
    numbers = [number for number, _ in seen]
    assert numbers == [*map(str, range(len(numbers) - 1)), "end"]
    said = [s for _, data in seen[:-1] for s in json.loads(data)["segments"]]
    assert said == json.loads(undisturbed)["segments"]
    assert_whole(jobs, name, undisturbed)


def test_a_gateway_that_dies_during_an_upload_leaves_nothing(jobs: JobStack) -> None:
    before = {each.key for each in jobs.store.list("media/") if "/records/" in each.key}

    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n'
        while jobs.stack.processes["gateway"].alive:
            yield bytes(2**20)
            if next(jobs.store.list("media/development/uploads/"), None):
                jobs.stack.kill("gateway")
        yield bytes(2**20)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with pytest.raises(httpx.TransportError):
        jobs.http.post("/v1/media", content=endless(), headers=headers)
    jobs.stack.restart("gateway")
    assert {each.key for each in jobs.store.list("media/") if "/records/" in each.key} == before
    assert [each.key for each in jobs.store.list("media/development/uploads/")]  # what the sweep will find


def test_two_workers_with_the_same_clip_give_one_result(jobs: JobStack, undisturbed: bytes) -> None:
    with jobs.frozen("speech_encoder"):
        name = jobs.submit(speech(SENTENCES), **TRANSCRIPT)
        until(lambda: jobs.leases("clip") > 0)
        # Redis forgets who works on what: the reconciler gives every clip out again.
        for key in jobs.redis.scan_iter(match="lyra:lease:*"):
            jobs.redis.delete(key)
        until(lambda: jobs.leases("clip") > 1)
    assert_whole(jobs, name, undisturbed)


def test_the_same_submission_twice_at_once_makes_one_job(jobs: JobStack, undisturbed: bytes) -> None:
    with ThreadPoolExecutor(4) as pool:
        names = set(pool.map(lambda _: jobs.submit(speech(SENTENCES), key="once", **TRANSCRIPT), range(4)))
    assert len(names) == 1
    assert_whole(jobs, names.pop(), undisturbed)
    other = jobs.http.post(
        "/v1/jobs",
        files={"file": ("a.flac", speech(SENTENCES))},
        data={"request": json.dumps(ALL_TASKS)},
        headers={"Idempotency-Key": "once"},
    )
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reused"


class Receiver(ThreadingHTTPServer):
    """Answers 500 to the first calls, then 200, and keeps what it was called with."""

    def __init__(self, failures: int) -> None:
        super().__init__(("127.0.0.1", 0), _Call)
        self.failures = failures
        self.calls: list[tuple[str, bytes]] = []


class _Call(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.calls.append((self.headers["webhook-id"], body))
        self.send_response(500 if len(self.server.calls) <= self.server.failures else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def test_a_receiver_that_fails_nine_times_is_called_with_one_id(jobs: JobStack, undisturbed: bytes) -> None:
    secret = SecretStore(jobs.stack.home / "webhook_secrets.json").create("development", "test")
    with Receiver(failures=9) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        hook = {"url": f"http://127.0.0.1:{receiver.server_address[1]}/", "secret_id": secret.id}
        name = jobs.submit(speech(SENTENCES), webhook=hook, **TRANSCRIPT)
        until(lambda: (jobs.job(name)["webhook"] or {})["state"] != "waiting")
        receiver.shutdown()
    assert jobs.job(name)["webhook"]["state"] == "delivered"
    assert len(receiver.calls) == 10
    assert len(set(receiver.calls)) == 1
    assert json.loads(receiver.calls[0][1])["data"]["id"] == name
    assert_whole(jobs, name, undisturbed)


def test_a_webhook_to_a_private_address_is_refused(jobs: JobStack, tmp_path: Path) -> None:
    response = jobs.http.post(
        "/v1/jobs",
        files={"file": ("a.flac", speech(2))},
        data={"request": json.dumps({"webhook": {"url": "http://10.0.0.1/", "secret_id": "x"}})},
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "webhook.url"


def numbered_events(response: httpx.Response) -> Iterator[tuple[str, str]]:
    """Id and data of the events that have an id."""
    number = ""
    for line in response.iter_lines():
        if line.startswith("id:"):
            number = line.removeprefix("id:").strip()
        elif line.startswith("data:") and number:
            yield number, line.removeprefix("data:").strip()
            number = ""
