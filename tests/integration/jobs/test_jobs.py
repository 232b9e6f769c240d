"""Jobs as a client sees them: what goes in, what comes out, and what is refused."""

import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import av
import httpx
import numpy as np
import pytest
import soundfile

from services.gateway.http.keys import KeyStore
from tests.job_stack import RATE, JobStack, speech, until

SOUND = speech(2)


def samples() -> np.ndarray:
    return soundfile.read(io.BytesIO(SOUND), dtype="float32")[0]


def encoded(container: str, codec: str, rate: int, layout: str = "mono", seconds: float | None = None) -> bytes:
    """The sentences in another file format; with `seconds`, silence of that length."""
    file = io.BytesIO()
    sound = samples() if seconds is None else np.zeros(int(seconds * RATE), np.float32)
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(stream.format, layout, rate)
        frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
        frame.sample_rate = RATE
        for each in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(each))
        output.mux(stream.encode(None))
    return file.getvalue()


def _has(jobs: JobStack, name: str, part: str) -> bool:
    return part in jobs.names(name)


def refused(jobs: JobStack, sound: bytes | None = None, **options: Any) -> dict[str, Any]:
    """The error of a submission that is not taken."""
    response = jobs.http.post(
        "/v1/jobs", files={"file": ("a", SOUND if sound is None else sound)}, data={"request": json.dumps(options)}
    )
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize(
    ("container", "codec", "rate", "layout"),
    [
        ("wav", "pcm_s16le", 8_000, "mono"),
        ("wav", "pcm_s24le", 96_000, "stereo"),
        ("flac", "flac", 48_000, "5.1"),
        ("ogg", "libopus", 48_000, "stereo"),
        ("mp3", "libmp3lame", 44_100, "stereo"),
        ("adts", "aac", 22_050, "mono"),
    ],
)
def test_recordings_of_every_kind_are_heard_from_end_to_end(
    jobs: JobStack, container: str, codec: str, rate: int, layout: str
) -> None:
    job = jobs.ended(jobs.submit(encoded(container, codec, rate, layout)))
    assert job["state"] == "succeeded", job["reason"]
    assert job["progress"]["seconds"] == pytest.approx(len(samples()) / RATE, abs=0.15)
    assert job["progress"]["clips"] == job["progress"]["clips_heard"] >= 1


def test_chained_ogg_is_one_recording(jobs: JobStack) -> None:
    link = encoded("ogg", "libopus", 48_000)
    job = jobs.ended(jobs.submit(link + link))
    assert job["state"] == "succeeded", job["reason"]
    assert job["progress"]["seconds"] == pytest.approx(2 * len(samples()) / RATE, abs=0.3)


def test_of_a_file_that_is_cut_off_the_rest_is_heard_and_it_is_said(jobs: JobStack) -> None:
    whole = encoded("mp3", "libmp3lame", 44_100)
    name = jobs.submit(whole[: len(whole) * 2 // 3])
    job = jobs.ended(name)
    assert job["state"] == "succeeded", job["reason"]
    result = jobs.http.get(f"/v1/jobs/{name}/result").json()
    assert result["truncated"]
    assert 1 < result["duration_seconds"] < len(samples()) / RATE


def test_a_header_that_lies_about_its_length_is_not_believed(jobs: JobStack) -> None:
    honest = bytearray(encoded("wav", "pcm_s16le", 16_000))
    at = honest.index(b"data") + 4
    honest[at : at + 4] = (2**31).to_bytes(4, "little")
    job = jobs.ended(jobs.submit(bytes(honest)))
    assert job["state"] == "succeeded", job["reason"]
    assert job["progress"]["seconds"] == pytest.approx(len(samples()) / RATE, abs=0.1)


@pytest.mark.parametrize("sound", [b"", b"no sound at all" * 99, b"PK\x03\x04" + bytes(2**16)])
def test_what_is_no_recording_is_refused(jobs: JobStack, sound: bytes) -> None:
    assert refused(jobs, sound)["param"] == "file"


def test_a_video_without_sound_is_refused(jobs: JobStack) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("h264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            picture = np.zeros((64, 64, 3), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    assert "without sound" in refused(jobs, file.getvalue())["message"]


def test_silence_has_an_empty_transcript(jobs: JobStack) -> None:
    name = jobs.submit(encoded("flac", "flac", 16_000, seconds=3))
    assert jobs.ended(name)["state"] == "succeeded"
    assert jobs.http.get(f"/v1/jobs/{name}/result").json()["text"] == ""


def test_a_question_about_silence_fails_with_a_reason(jobs: JobStack) -> None:
    name = jobs.submit(encoded("flac", "flac", 16_000, seconds=3), tasks=["questions"], questions=["Who speaks?"])
    job = jobs.ended(name)
    assert job["state"] == "failed"
    assert "contains no speech" in job["reason"]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tasks": ["questions"]}, "questions"),
        ({"questions": ["Why?"]}, "questions"),
        ({"tasks": ["questions"], "questions": [" "]}, "questions[0]"),
        ({"tasks": ["questions"], "questions": ["x" * 2000]}, "questions[0]"),
        ({"tasks": ["questions"], "questions": ["Why?"] * 65}, "questions"),
        ({"tasks": ["sing"]}, "tasks[0]"),
        ({"tasks": []}, "tasks"),
        ({"priority": "highest"}, "priority"),
        ({"metadata": {"a": "x" * 600}}, "metadata.a"),
        ({"no_such": 1}, "no_such"),
        ({"webhook": {"url": "http://10.0.0.1/", "secret_id": "x"}}, "webhook.url"),
        ({"webhook": {"url": "http://127.0.0.1:1024/", "secret_id": "x"}}, "webhook.secret_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_request_is_refused_by_field(jobs: JobStack, options: dict[str, Any], param: str) -> None:
    assert refused(jobs, **options)["param"] == param


def test_what_was_uploaded_before_can_be_named(jobs: JobStack) -> None:
    media = jobs.http.post("/v1/media", files={"file": ("a.flac", SOUND)}).json()["id"]
    response = jobs.http.post("/v1/jobs", json={"media_id": media})
    assert response.status_code == 202
    assert jobs.ended(response.json()["id"])["state"] == "succeeded"


@pytest.fixture
def stranger(jobs: JobStack) -> Iterator[httpx.Client]:
    """A client of another tenant, who has nothing yet."""
    _, secret = KeyStore(jobs.stack.home).create(f"stranger-{token_hex(4)}")
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=jobs.stack.url, headers=headers, timeout=60, trust_env=False) as http:
        yield http


def test_another_tenants_jobs_and_media_are_unknown(jobs: JobStack, stranger: httpx.Client) -> None:
    name = jobs.submit(SOUND)
    job = jobs.ended(name)
    for method, path in [
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/result"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ]:
        ours = stranger.request(method, f"/v1/jobs/{name}{path}")
        nobodys = stranger.request(method, f"/v1/jobs/job-{'0' * 32}{path}")
        assert ours.status_code == nobodys.status_code == 404
        assert ours.json()["error"]["message"].replace(name, "") == nobodys.json()["error"]["message"].replace(
            f"job-{'0' * 32}", ""
        )
    assert stranger.get("/v1/jobs").json()["data"] == []
    assert stranger.post("/v1/jobs", json={"media_id": job["media_id"]}).status_code == 404


@pytest.mark.parametrize("name", ["job-1%00", "job-1%0A", "..%2F..%2Facme%2Fjob-1", "%F0%9F%94%A5", "job-" + "0" * 31])
def test_what_is_no_jobs_name_is_unknown_on_every_route(jobs: JobStack, name: str) -> None:
    assert jobs.http.post(f"/v1/jobs/{name}/cancel").status_code == 404
    assert jobs.http.post(f"/v1/jobs/{name}/questions", json={"questions": ["Why?"]}).status_code == 404
    for path in ("", "/events", "/result"):
        assert jobs.http.get(f"/v1/jobs/{name}{path}").status_code == 404
    assert jobs.http.delete(f"/v1/jobs/{name}").status_code == 404


def test_results_come_as_text_and_as_subtitles(jobs: JobStack) -> None:
    name = jobs.submit(SOUND)
    assert jobs.http.get(f"/v1/jobs/{name}/result").status_code in (200, 409)
    jobs.ended(name)
    result = jobs.http.get(f"/v1/jobs/{name}/result").json()
    formats = {f: jobs.http.get(f"/v1/jobs/{name}/result", params={"format": f}).text for f in ("text", "srt", "vtt")}
    assert formats["text"].strip() == result["text"]
    assert formats["vtt"].startswith("WEBVTT")
    assert formats["srt"].encode() == jobs.store.get(jobs.id(name).key("result.srt"))


def test_a_later_question_encodes_nothing(jobs: JobStack) -> None:
    name = jobs.submit(speech(8))
    assert jobs.ended(name)["state"] == "succeeded"
    with jobs.frozen("speech_encoder"):
        asked = jobs.http.post(f"/v1/jobs/{name}/questions", json={"questions": ["Who?", "What?"]})
        assert asked.status_code == 202
        until(lambda: {q["state"] for q in jobs.job(name)["questions"]} == {"answered"})
    answers = jobs.http.get(f"/v1/jobs/{name}/result").json()["answers"]
    assert [answer["question"] for answer in answers] == ["Who?", "What?"]
    until(lambda: jobs.store.stat(jobs.id(name).active) is None)


def test_a_cancelled_job_ends_at_once_and_can_be_deleted(jobs: JobStack) -> None:
    with jobs.frozen("speech_encoder"):
        name = jobs.submit(speech(16))
        assert jobs.http.delete(f"/v1/jobs/{name}").status_code == 409
        assert jobs.http.post(f"/v1/jobs/{name}/cancel").json()["state"] == "cancelled"
        assert jobs.http.post(f"/v1/jobs/{name}/cancel").json()["state"] == "cancelled"
    assert jobs.http.get(f"/v1/jobs/{name}/result").status_code == 409
    assert jobs.http.post(f"/v1/jobs/{name}/questions", json={"questions": ["Who?"]}).status_code == 409
    assert jobs.http.delete(f"/v1/jobs/{name}").status_code == 200
    assert jobs.http.get(f"/v1/jobs/{name}").status_code == 404


def test_jobs_are_listed_the_latest_first_a_page_at_a_time(jobs: JobStack, stranger: httpx.Client) -> None:
    media = stranger.post("/v1/media", files={"file": ("a.flac", SOUND)}).json()["id"]
    names = [stranger.post("/v1/jobs", json={"media_id": media}).json()["id"] for _ in range(5)]
    seen, after = [], ""
    while True:
        page = stranger.get("/v1/jobs", params={"limit": 2, "after": after}).json()
        seen += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            break
        after = page["next"]
    assert seen[:5] == names[::-1]
    until(lambda: len(stranger.get("/v1/jobs", params={"state": "succeeded"}).json()["data"]) >= 5)
    assert stranger.get("/v1/jobs", params={"state": "failed"}).json()["data"] == []


def test_a_clip_that_cannot_be_heard_is_named_and_the_rest_is_kept(jobs: JobStack, tmp_path: Path) -> None:
    for allow_gaps, state in ((False, "failed"), (True, "succeeded")):
        with jobs.frozen("clip_worker"):
            name = jobs.submit(speech(16), allow_gaps=allow_gaps)
            planned = partial(_has, jobs, name, "plan.json")
            until(planned)
            jobs.store.put(jobs.id(name).audio(1), b"no sound")
        job = jobs.ended(name)
        assert job["state"] == state
        assert [failure["clip"] for failure in job["failures"]] == [1]
        result = jobs.http.get(f"/v1/jobs/{name}/result").json()
        assert len(result["gaps"]) == 1
        assert result["segments"]
        assert ("clip 1" in job["reason"]) is not allow_gaps
