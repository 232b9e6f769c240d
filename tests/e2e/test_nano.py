"""The platform with preset nano through its API: questions are understood and spoken answers intelligible."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jiwer
import openai
import pytest

from model_core.language.extractor import ExtractionConfig
from model_core.metrics.word_errors import normalize
from services.operations.local.stack import Stack
from tests.paths import DATA, EXAMPLES, ROOT

HELD_OUT = DATA / "held_out"


@pytest.fixture
def stack(nano_stack: Stack) -> Stack:
    return nano_stack


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0) as made:
        yield made


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def spoken(path: Path) -> dict[str, Any]:
    audio_format = path.suffix.removeprefix(".")
    return {"type": "input_audio", "input_audio": {"data": encoded(path), "format": audio_format}}


def picture(path: Path) -> dict[str, Any]:
    kind = path.suffix.removeprefix(".")
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{encoded(path)}"}}


def ask(client: openai.OpenAI, *parts: dict[str, Any], **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": list(parts)}]
    return client.chat.completions.create(model="lyra-nano", messages=messages, **options)


def lines(name: str, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HELD_OUT / name).read_text().splitlines()[:count]]


def test_a_written_question_is_answered_by_the_base_model(client: openai.OpenAI) -> None:
    text = {"type": "text", "text": "What is the capital of France?"}
    assert "Paris" in ask(client, text, max_tokens=20).choices[0].message.content


@pytest.mark.kernels
@pytest.mark.parametrize(("pictures", "at_least"), [("vqa-written.jsonl", 11), ("named-written.jsonl", 11)])
def test_questions_about_pictures_are_answered_correctly(client: openai.OpenAI, pictures: str, at_least: int) -> None:
    rows = lines(pictures, 12)
    right = 0
    for row in rows:
        question = {"type": "text", "text": row["question"]}
        answer = ask(client, picture(HELD_OUT / row["image"]), question, max_tokens=16).choices[0].message.content
        right += normalize(answer) == normalize(row["answer"])
    assert right >= at_least


@pytest.mark.kernels
def test_answers_stay_correct_while_the_extractor_drops_tokens(client: openai.OpenAI) -> None:
    right = 0
    for row in lines("vqa-spoken.jsonl", 8):
        parts = picture(HELD_OUT / row["image"]), spoken(HELD_OUT / row["audio"])
        answer = ask(client, *parts, max_tokens=8, extra_body={"lyra": {"keep_rate": 0.7}})
        right += normalize(answer.choices[0].message.content) == normalize(row["answer"])
        first, *later = answer.usage.model_extra["lyra"]["context_tokens"]
        assert later[0] == ExtractionConfig(keep_rate=0.7).kept(first)
        assert len(later) == 3
    assert right >= 5


@pytest.mark.kernels
def test_the_language_model_repeats_what_was_said(client: openai.OpenAI) -> None:
    rows = lines("sentences-known-voices.jsonl", 10)
    instruction = {"type": "text", "text": "Repeat what I said."}
    heard = [
        ask(client, spoken(HELD_OUT / row["audio"]), instruction, max_tokens=40).choices[0].message.content
        for row in rows
    ]
    assert jiwer.wer([normalize(row["text"]) for row in rows], [normalize(text) for text in heard]) < 0.25


def test_a_spoken_question_about_a_picture_streams_text_and_speech(client: openai.OpenAI) -> None:
    parts = spoken(EXAMPLES / "question.wav"), picture(EXAMPLES / "picture.png")
    options = {"modalities": ["text", "audio"], "audio": {"voice": "joe", "format": "pcm16"}, "max_tokens": 60}
    whole = ask(client, *parts, **options)
    transcript, pcm = "", b""
    stream = ask(client, *parts, **options, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        if chunk.choices and (audio := chunk.choices[0].delta.audio):
            transcript += audio.transcript or ""
            pcm += base64.b64decode(audio.data or "")
        usage = chunk.usage
    assert transcript == whole.choices[0].message.audio.transcript
    assert pcm == base64.b64decode(whole.choices[0].message.audio.data)
    assert usage.prompt_tokens_details.audio_tokens > 4
    assert usage.completion_tokens_details.audio_tokens > 10


@pytest.mark.parametrize("voice", ["joe", "nano"])
def test_speech_begins_before_the_text_of_a_long_answer_ends(client: openai.OpenAI, voice: str) -> None:
    options = {"modalities": ["text", "audio"], "audio": {"voice": voice, "format": "pcm16"}, "max_tokens": 300}
    kinds = []
    question = {"type": "text", "text": "Tell me a long story about a sailor and the sea."}
    for chunk in ask(client, question, **options, stream=True):
        audio = chunk.choices[0].delta.audio if chunk.choices else None
        kinds += [kind for kind in ("transcript", "data") if audio and getattr(audio, kind)]
    assert kinds.index("data") < len(kinds) - 1 - kinds[::-1].index("transcript")


# The demo covers voice joe, too.
@pytest.mark.parametrize(("voice", "at_most"), [pytest.param("joe", 0.15, marks=pytest.mark.full), ("nano", 0.3)])
def test_spoken_answers_transcribe_back_to_their_text(client: openai.OpenAI, voice: str, at_most: float) -> None:
    questions = ["What is the capital of Italy?", "Why do people sleep?", "What is a friend?", "How do birds fly?"]
    said, heard = [], []
    for question in questions:
        options = {"modalities": ["text", "audio"], "audio": {"voice": voice, "format": "wav"}, "max_tokens": 40}
        answer = ask(client, {"type": "text", "text": question}, **options).choices[0].message.audio
        file = ("answer.wav", base64.b64decode(answer.data))
        said.append(normalize(answer.transcript))
        heard.append(normalize(client.audio.transcriptions.create(model="lyra-nano", file=file).text))
    assert jiwer.wer(said, heard) <= at_most


def test_silence_is_refused(client: openai.OpenAI, tmp_path: Path) -> None:
    silence = tmp_path / "silence.wav"
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"import soundfile, numpy; soundfile.write({str(silence)!r}, numpy.zeros(16000), 16000)",
        ],
        check=True,
    )
    with pytest.raises(openai.BadRequestError, match="silent"):
        ask(client, spoken(silence))


@pytest.mark.parametrize(
    ("kind", "manifest", "through_gateway"),
    [("wer", "sentences-held-out-voice.jsonl", True), ("vqa", "vqa-spoken.jsonl", False)],
)
def test_an_evaluation_prints_one_line_of_json_and_writes_every_prediction(
    stack: Stack, tmp_path: Path, kind: str, manifest: str, through_gateway: bool
) -> None:
    few, out = HELD_OUT / f".few-{kind}.jsonl", tmp_path / f"{kind}.jsonl"
    few.write_text("".join(json.dumps(row) + "\n" for row in lines(manifest, 3)))
    lyra = str(Path(sys.executable).parent / "lyra")
    subject = ("--gateway", stack.url, "--key", stack.key) if through_gateway else ()
    command = [lyra, "eval", kind, "--manifest", str(few), "--out", str(out), *subject]
    try:
        printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    finally:
        few.unlink()
    result = json.loads(printed)
    assert result["count"] == 3
    assert (result["model"] == "lyra-nano") if through_gateway else (result["preset"] == "nano")
    assert len(out.read_text().splitlines()) == 3


def test_nothing_listens_beyond_loopback(stack: Stack) -> None:
    assert httpx.get(f"{stack.url}/readyz", trust_env=False).status_code == 200
    for process in stack.processes.values():
        assert process.host == "127.0.0.1"
