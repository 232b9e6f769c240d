"""`lyra jobs` against a scripted gateway, over real HTTP."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from cli.jobs_client import parse_events
from tests.unit.cli.conftest import Lyra
from tests.unit.cli.scripted_gateway import Answer, Asked, Reply, as_json, events, refusal, scripted_gateway

JOB = "job-" + "1f" * 16
MEDIA = "media-" + "0a" * 16


def progress(clips_heard: int = 0, clips: int = 4) -> dict[str, Any]:
    return {
        "seconds": 100.0,
        "seconds_heard": 22.0 * clips_heard,
        "clips": clips,
        "clips_heard": clips_heard,
        "remaining_seconds": 12.0,
    }


def job(state: str = "succeeded", **changes: Any) -> dict[str, Any]:
    return {
        "id": JOB,
        "state": state,
        "created_at": "2026-01-01T10:00:00Z",
        "media_id": MEDIA,
        "filename": "meeting.mp3",
        "tasks": ["transcript"],
        "priority": "normal",
        "metadata": {"order": "17"},
        "progress": progress(4),
        "failures": [],
        "questions": [],
        "webhook": None,
        "ended_at": None,
        "reason": "",
        "retained_until": None,
        **changes,
    }


def answer_of(name: str, question: str, text: str, windows: int = 0) -> dict[str, Any]:
    return {"id": name, "question": question, "text": text, "windows": [{}] * windows}


RESULT = {
    "id": JOB,
    "truncated": False,
    "gaps": [],
    "segments": [{"start_seconds": 65.2, "end_seconds": 67.0, "text": " Good morning."}],
    "summary": answer_of("summary", "Summarize.", "They greet."),
    "answers": [answer_of("000", "Who speaks?", "Two people.", windows=3)],
}


def words(number: int, text: str) -> tuple[str, object]:
    segment = {"start_seconds": 25.0 * number, "end_seconds": 25.0 * number + 20, "text": text}
    return str(number), {"type": "job.transcript.delta", "segments": [segment]}


def moving(clips_heard: int, state: str = "running") -> tuple[str, object]:
    return "", {"type": "job.progress", "state": state, "progress": progress(clips_heard)}


def ended(state: str = "succeeded", **changes: Any) -> tuple[str, object]:
    return "end", {"type": f"job.{state}", "job": job(state, **changes)}


def run(lyra: Lyra, answer: Answer, *arguments: object) -> tuple[Result, list[Asked]]:
    with scripted_gateway(answer) as (url, asked):
        return lyra("jobs", *map(str, arguments), "--url", url, "--key", "k"), asked


def routes(**replies: Reply) -> Answer:
    """Answers by the last part of the path; `jobs` is for POST /v1/jobs, `job` for requests to JOB itself."""

    def answer(asked: Asked) -> Reply:
        last = asked.path.rpartition("/")[2]
        return replies["job" if last == JOB else last]

    return answer


def test_submit_sends_every_option(lyra: Lyra) -> None:
    result, asked = run(
        lyra,
        routes(jobs=as_json(job("queued"), 202)),
        *("submit", MEDIA, "--task", "transcript", "--task", "summary", "--question", "Who?", "--question", "When?"),
        *("--language", "en", "--priority", "high", "--allow-gaps", "--metadata", "order=17=b"),
        *("--webhook", "https://example.com/hook", "--webhook-secret", "whk_1", "--idempotency-key", "mine"),
    )
    assert result.exit_code == 0
    assert result.stdout == f"{JOB}\n"
    (request,) = asked
    assert (request.method, request.path) == ("POST", "/v1/jobs")
    assert request.headers["Idempotency-Key"] == "mine"
    assert request.headers["Authorization"] == "Bearer k"
    assert request.json == {
        "media_id": MEDIA,
        "tasks": ["transcript", "summary", "questions"],
        "questions": ["Who?", "When?"],
        "language": "en",
        "webhook": {"url": "https://example.com/hook", "secret_id": "whk_1"},
        "metadata": {"order": "17=b"},
        "priority": "high",
        "allow_gaps": True,
    }


def test_a_submission_whose_response_is_lost_is_retried_with_the_same_idempotency_key(lyra: Lyra) -> None:
    replies = [refusal(503, "The object store is not available at the moment."), as_json(job("queued"), 202)]
    result, asked = run(lyra, lambda request: replies.pop(0), "submit", MEDIA)
    assert result.exit_code == 0
    keys = [each.headers["Idempotency-Key"] for each in asked]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert keys[0]
    assert "not available" in result.stderr


def test_a_file_is_uploaded_first(lyra: Lyra, tmp_path: Path) -> None:
    file = tmp_path / "meeting [1].mp3"
    file.write_bytes(b"sound")
    result, asked = run(lyra, routes(media=as_json({"id": MEDIA}), jobs=as_json(job("queued"))), "submit", file)
    assert result.exit_code == 0
    assert b"sound" in asked[0].body
    assert asked[1].json["media_id"] == MEDIA


def test_waiting_shows_the_transcript_and_then_summary_and_answers(lyra: Lyra) -> None:
    watched = events(moving(0, "planning"), words(0, "Hello."), moving(1), words(1, "So long."), moving(4), ended())
    replies = routes(jobs=as_json(job("queued")), events=watched, result=as_json(RESULT))
    result, _ = run(lyra, replies, "submit", MEDIA, "--wait")
    assert result.exit_code == 0
    assert result.stdout == (
        "0:00:00  Hello.\n0:00:25  So long.\n\n"
        "Summary\n  They greet.\n\n"
        "Who speaks?\n  Two people.\n(from 3 consecutive windows of the recording)\n"
    )
    assert JOB in result.stderr
    assert "0:00:25 of 0:01:40" in result.stderr


def test_quiet_leaves_out_only_the_transcript(lyra: Lyra) -> None:
    replies = routes(events=events(words(0, "Hello."), ended()), result=as_json(RESULT))
    result, _ = run(lyra, replies, "watch", JOB, "--quiet")
    assert result.stdout.startswith("Summary\n")
    assert "Hello" not in result.stdout


def test_watch_as_json_prints_only_the_job_with_its_result(lyra: Lyra) -> None:
    replies = routes(events=events(words(0, "Hello."), ended()), result=as_json(RESULT))
    result, _ = run(lyra, replies, "watch", JOB, "--json")
    assert json.loads(result.stdout) == job() | {"result": RESULT}


def test_watch_resumes_after_the_last_event_when_the_connection_breaks(lyra: Lyra) -> None:
    streams = [
        events(words(0, "One."), words(1, "Two."), moving(2), breaks=True),
        events(breaks=False),
        refusal(503, "The object store is not available at the moment."),
        events(words(2, "Three."), ended()),
    ]

    def answer(asked: Asked) -> Reply:
        return streams.pop(0) if asked.path.endswith("/events") else as_json(RESULT)

    result, asked = run(lyra, answer, "watch", JOB)
    assert result.exit_code == 0
    assert [line.split("  ")[1] for line in result.stdout.splitlines()[:3]] == ["One.", "Two.", "Three."]
    assert [each.headers.get("Last-Event-ID") for each in asked[:4]] == [None, "1", "1", "1"]


def test_a_truncated_event_is_ignored(lyra: Lyra) -> None:
    whole = events(words(0, "One."), words(1, "Two."))
    streams = [
        Reply(whole.body[:-1], headers=whole.headers, breaks=True),
        events(words(1, "Two."), ended()),
    ]
    result, asked = run(
        lyra, lambda asked: streams.pop(0) if asked.path.endswith("/events") else as_json(RESULT), "watch", JOB
    )
    assert asked[1].headers["Last-Event-ID"] == "0"
    assert result.stdout.count("Two.") == 1


def test_a_failed_job_exits_with_1_and_its_reason(lyra: Lyra) -> None:
    replies = routes(events=events(ended("failed", reason="clip 3 could not be heard")))
    result, _ = run(lyra, replies, "watch", JOB)
    assert result.exit_code == 1
    assert "clip 3 could not be heard" in result.stderr
    assert f"lyra jobs result {JOB}" in result.stderr


def test_a_cancelled_job_is_not_a_success(lyra: Lyra) -> None:
    result, _ = run(lyra, routes(events=events(ended("cancelled"))), "watch", JOB)
    assert result.exit_code == 1
    assert "cancelled" in result.stderr


def test_watch_fails_at_once_if_the_gateway_is_unreachable(lyra: Lyra) -> None:
    result = lyra("jobs", "watch", JOB, "--url", "http://127.0.0.1:9", "--key", "k")
    assert result.exit_code == 1
    assert "nothing answers at http://127.0.0.1:9" in result.stderr


def test_status_shows_what_went_wrong(lyra: Lyra) -> None:
    failure = {"clip": 3, "start_seconds": 75.0, "end_seconds": 100.0, "reason": "it took too [bold]long"}
    question = {"id": "000", "text": "Who?", "asked_at": "", "state": "open"}
    replies = routes(job=as_json(job("running", progress=progress(2), failures=[failure], questions=[question])))
    page = run(lyra, replies, "status", JOB)[0].stdout
    assert "running" in page
    assert "0:00:50 of 0:01:40 (2 of 4 clips)" in page
    assert "clip 3 (0:01:15 to 0:01:40): it took too [bold]long" in page
    assert "000 (open) Who?" in page
    assert "order=17" in page


def test_status_as_json_is_the_gateways_response(lyra: Lyra) -> None:
    result, _ = run(lyra, routes(job=as_json(job("running"))), "status", JOB, "--json")
    assert json.loads(result.stdout) == job("running")


@pytest.mark.parametrize("format", ["json", "text", "srt", "vtt"])
def test_a_result_is_written_unchanged(lyra: Lyra, tmp_path: Path, format: str) -> None:
    content = "1\r\n00:00 \u2028 grüß\n\n".encode()
    file = tmp_path / "result"
    result, asked = run(lyra, routes(result=Reply(content)), "result", JOB, "--format", format, "--out", file)
    assert result.exit_code == 0
    assert asked[0].query == {"format": format}
    assert file.read_bytes() == content


def test_a_result_without_a_format_is_human_readable(lyra: Lyra) -> None:
    lacking = RESULT | {"truncated": True, "gaps": [{"start_seconds": 30.0, "end_seconds": 60.0, "reason": "broken"}]}
    result, _ = run(lyra, routes(result=as_json(lacking)), "result", JOB)
    assert "The file is truncated" in result.stdout
    assert "Not transcribed from 0:00:30 to 0:01:00: broken" in result.stdout
    assert "0:01:05  Good morning." in result.stdout
    assert "Who speaks?\n  Two people." in result.stdout


def test_the_result_of_a_running_job_says_how_to_watch_it(lyra: Lyra) -> None:
    refused = refusal(409, "The job is running; there is a result once it has ended.", "job_not_ended")
    result, _ = run(lyra, routes(result=refused), "result", JOB)
    assert result.exit_code == 1
    assert "The job is running" in result.stderr
    assert f"lyra jobs watch {JOB}" in result.stderr


def test_ask_waits_only_for_its_own_answers(lyra: Lyra) -> None:
    def question(name: str, state: str) -> dict[str, str]:
        return {"id": name, "text": "Why?", "asked_at": "", "state": state}

    states = ["open", "answered"]
    later = RESULT | {"answers": [*RESULT["answers"], answer_of("001", "Why?", "Because.")]}  # type: ignore[misc]

    def answer(asked: Asked) -> Reply:
        if asked.method == "POST":
            assert asked.json == {"questions": ["Why?"]}
            return as_json({"data": [question("001", "open")]}, 202)
        if asked.path.endswith("/result"):
            return as_json(later)
        return as_json(job(questions=[question("000", "open"), question("001", states.pop(0))]))

    result, _ = run(lyra, answer, "ask", JOB, "Why?", "--wait")
    assert result.exit_code == 0
    assert result.stdout == "Why?\n  Because.\n"


def test_asking_an_unsuccessful_job_suggests_its_status(lyra: Lyra) -> None:
    refused = refusal(409, "The job is running.", "job_not_succeeded")
    result, _ = run(lyra, routes(questions=refused), "ask", JOB, "Why?")
    assert result.exit_code == 1
    assert f"lyra jobs status {JOB}" in result.stderr


def test_the_list_is_filtered_and_paginated(lyra: Lyra) -> None:
    page = {"data": [job("failed")], "has_more": True, "next": "123-abc"}
    result, asked = run(lyra, routes(jobs=as_json(page)), "list", "--state", "failed", "--limit", "1", "--after", "9-z")
    assert asked[0].query == {"state": "failed", "limit": "1", "after": "9-z"}
    assert JOB in result.stdout
    assert "meeting.mp3" in result.stdout
    assert "--after 123-abc" in result.stderr


def test_cancel_and_delete_report_what_they_did(lyra: Lyra) -> None:
    result, asked = run(lyra, routes(cancel=as_json(job("cancelled"))), "cancel", JOB)
    assert (asked[0].method, asked[0].path) == ("POST", f"/v1/jobs/{JOB}/cancel")
    assert "cancelled" in result.stderr
    result, asked = run(lyra, routes(job=as_json({"id": JOB, "deleted": True})), "delete", JOB)
    assert (asked[0].method, asked[0].path) == ("DELETE", f"/v1/jobs/{JOB}")
    assert "deleted" in result.stderr


def test_an_unknown_job_suggests_the_list_command(lyra: Lyra) -> None:
    result, _ = run(lyra, routes(job=refusal(404, f"There is no job '{JOB}'.", "not_found")), "status", JOB)
    assert result.exit_code == 1
    assert "lyra jobs list" in result.stderr


def test_an_invalid_id_never_reaches_the_gateway(lyra: Lyra) -> None:
    result, asked = run(lyra, routes(), "delete", "../media/x")
    assert result.exit_code == 1
    assert "lyra jobs list" in result.stderr
    assert asked == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing.mp3",),
        ("media-123",),
        (MEDIA, "--task", "questions"),
        (MEDIA, "--webhook", "https://example.com"),
        (MEDIA, "--webhook-secret", "whk_1"),
        (MEDIA, "--metadata", "order"),
        (MEDIA, "--priority", "urgent"),
    ],
    ids=" ".join,
)
def test_usage_errors_of_submit_exit_with_2_without_a_request(lyra: Lyra, arguments: tuple[str, ...]) -> None:
    result, asked = run(lyra, routes(), "submit", *arguments)
    assert result.exit_code == 2
    assert asked == []


def test_events_are_parsed_from_chunks_of_any_size() -> None:
    stream = events(words(0, "Hal\u2028lo \u0085."), ended()).body
    wanted = [words(0, "Hal\u2028lo \u0085."), ended()]
    for size in (1, 2, 3, 7, len(stream)):
        assert list(parse_events(stream[i : i + size] for i in range(0, len(stream), size))) == wanted


def test_comments_are_not_events() -> None:
    assert list(parse_events([b": still there\n\nid: 4\r\ndata: {}\r\n\r\ndata: {}"])) == [("4", {})]
