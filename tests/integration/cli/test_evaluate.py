"""`lyra eval` against a preset, and against the gateway of a running stack."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from services.operations.local.stack import Stack
from tests.evaluation_sets import (
    write_chartqa,
    write_docvqa,
    write_factual,
    write_json,
    write_librispeech,
    write_lines,
    write_mm_vet,
    write_picture,
    write_textvqa,
    write_tone,
    write_videomme,
)

Lyra = Callable[..., Result]


@pytest.fixture
def lyra(tiny_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Lyra:
    """`lyra("textvqa", folder)`, which finds the stack through its home."""
    monkeypatch.setenv("LYRA_HOME", str(tiny_stack.home))
    monkeypatch.delenv("LYRA_API_KEY", raising=False)
    return lambda *arguments: CliRunner().invoke(app, ["eval", *map(str, arguments)])


def printed(result: Result) -> dict[str, Any]:
    """The one line of JSON on stdout."""
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    value: dict[str, Any] = json.loads(line)
    return value


@pytest.mark.parametrize(
    ("name", "write", "metric"),
    [
        ("librispeech", write_librispeech, "wer"),
        ("textvqa", write_textvqa, "vqa_accuracy"),
        ("docvqa", write_docvqa, "anls"),
        ("chartqa", write_chartqa, "relaxed_accuracy"),
        ("mm-vet", write_mm_vet, "mm_vet_match"),
        ("videomme", write_videomme, "accuracy"),
    ],
)
def test_published_benchmarks_run_through_a_gateway(
    lyra: Lyra, tiny_stack: Stack, tmp_path: Path, name: str, write: Callable[[Path], Path], metric: str
) -> None:
    folder, out = write(tmp_path / "set"), tmp_path / "out"
    voice = () if name in ("librispeech", "videomme") else ("--voice", "tiny")
    result = printed(lyra(name, folder, "--gateway", tiny_stack.url, "--limit", 1, "--out", out, *voice))
    assert (result["metric"], result["count"]) == (metric, 1)
    assert (result["gateway"], result["model"]) == (tiny_stack.url, "lyra-tiny")
    written = json.loads((out / "result.json").read_text())
    assert {"metric", "value", "count", "gateway", "details", "command", "machine"} <= written.keys()
    assert (out / "result.md").read_text().startswith(f"**{metric} of gateway")
    (line,) = (out / "predictions.jsonl").read_text().splitlines()
    assert json.loads(line)["prediction"] is not None


def test_gateway_and_preset_give_the_same_answers(lyra: Lyra, tiny_stack: Stack, tmp_path: Path) -> None:
    folder = write_chartqa(tmp_path / "set")
    predictions = []
    for number, whom in enumerate((("--preset", "tiny"), ("--gateway", tiny_stack.url))):
        out = tmp_path / str(number)
        printed(lyra("chartqa", folder, "--written", "--limit", 1, "--out", out, *whom))
        line = json.loads((out / "predictions.jsonl").read_text())
        predictions.append((line["prediction"], line["prompt_tokens"], line["context_tokens"]))
    assert predictions[0] == predictions[1]


def test_spoken_questions_are_the_same_for_preset_and_gateway(lyra: Lyra, tiny_stack: Stack, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "m.jsonl", {"audio": "a.wav", "text": "hello there"})
    write_tone(tmp_path / "a.wav", 1.5)
    heard = []
    for number, whom in enumerate((("--preset", "tiny"), ("--gateway", tiny_stack.url))):
        out = tmp_path / f"{number}.jsonl"
        assert printed(lyra("wer", "--manifest", lines, "--out", out, *whom))["words"] == 2
        heard.append(json.loads(out.read_text())["prediction"])
    assert heard[0] == heard[1]


def test_own_benchmarks_run_through_a_gateway(lyra: Lyra, tiny_stack: Stack, tmp_path: Path) -> None:
    gateway = ("--gateway", tiny_stack.url)
    written, spoken = write_factual(tmp_path)
    assert printed(lyra("factual", "--written", written, "--spoken", spoken, *gateway))["count"] == 4
    text = printed(lyra("text-quality", "--limit", 1, "--max-tokens", 8, *gateway))
    assert (text["metric"], text["value"]) == ("text_quality", 1.0)
    spoken_answer = printed(lyra("spoken-answer", "--limit", 1, "--max-tokens", 8, *gateway))
    assert spoken_answer["real_time_factor_of"] == "voice and language model"
    assert spoken_answer["audio_seconds"] > 0
    levels = printed(lyra("throughput", "--concurrency", "1,2", "--requests", 2, "--max-tokens", 4, *gateway))["levels"]
    assert [level["concurrency"] for level in levels] == [1, 2]
    (tmp_path / "texts.txt").write_text("one two\nthree four\n")
    grid = ("--minutes", "0.5", "--depths", "0,1", "--keep-rates", "1,0.5", "--blocks", 2, "--voices", "tiny")
    needle = lyra("needle", *grid, "--texts", tmp_path / "texts.txt", "--out", tmp_path / "needle", *gateway)
    assert set(printed(needle)["settings"]) == {"keep-1-blocks-2", "keep-0.5-blocks-2"}
    assert (tmp_path / "needle" / "needle-keep-0.5-blocks-2.png").is_file()


def test_a_second_run_needs_no_gateway(lyra: Lyra, tmp_path: Path, tiny_stack: Stack) -> None:
    folder, out = write_docvqa(tmp_path / "set"), tmp_path / "out"
    first = printed(lyra("docvqa", folder, "--written", "--preset", "tiny", "--out", out))
    kept = (out / "predictions.jsonl").read_bytes()
    assert printed(lyra("docvqa", folder, "--written", "--preset", "tiny", "--out", out)) == first
    assert (out / "predictions.jsonl").read_bytes() == kept  # times and all


@pytest.fixture
def judge() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A chat completions server that scores everything 0.5, after one 429; its address and its requests."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            busy = len(asked) == 1
            body = {"choices": [{"message": {"content": "0.5"}}]}
            self.send_response(429 if busy else 200)
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(json.dumps({"error": {}} if busy else body).encode())

        def log_message(self, *arguments: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()
        thread.join()


def test_mm_vet_is_scored_by_a_judge_server(
    lyra: Lyra, tmp_path: Path, judge: tuple[str, list[dict[str, Any]]]
) -> None:
    url, asked = judge
    folder = write_mm_vet(tmp_path / "set")
    options = ("--written", "--limit", 1, "--preset", "tiny", "--judge", url, "--judge-model", "referee")
    result = printed(lyra("mm-vet", folder, *options))
    assert (result["metric"], result["value"], result["judge"]) == ("mm_vet_score", 50.0, "referee")
    assert [request["model"] for request in asked] == ["referee"] * 2
    assert asked[1]["max_tokens"] == 3


def test_nanos_model_card_runs_with_another_preset(lyra: Lyra, tmp_path: Path) -> None:
    write_tone(tmp_path / "data" / "a.wav")
    write_lines(tmp_path / "data" / "human.jsonl", {"audio": "a.wav", "text": "hello there"})
    options = ("--preset", "tiny", "--data", tmp_path / "data", "--out", tmp_path / "card", "--workers", 1)
    result = lyra("nano", "--only", "wer-human", *options)
    card = printed(result)
    assert [line["what"] for line in card["figures"]] == ["WER, human recordings"]
    assert "| WER, human recordings |" in (tmp_path / "card" / "result.md").read_text()
    assert "at most 30.0 %" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("textvqa", "{folder}"), "contains no TextVQA_"),
        (("librispeech", "{folder}"), "contains no SPEAKER/CHAPTER"),
        (("docvqa", "{folder}/none"), "does not exist"),
        (("needle", "--minutes", "1,two", "--texts", "{folder}/texts.txt"), "not a list of numbers"),
        (("needle", "--depths", "2", "--texts", "{folder}/texts.txt"), "each must be from 0"),
        (("videomme", "{folder}", "--duration", "endless"), "contains no"),
        (("nano", "--only", "songs", "--data", "{folder}"), "is not a part"),
        (("chartqa", "{chart}", "--voice", "nobody"), "'nobody' is not a voice"),
        (("throughput", "--preset", "huge"), "huge"),
    ],
)
def test_errors_are_a_single_line(lyra: Lyra, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    (tmp_path / "texts.txt").write_text("one\n")
    chart = write_chartqa(tmp_path / "chart")
    given = [argument.format(folder=tmp_path, chart=chart) for argument in arguments]
    result = lyra(*given, *(("--preset", "tiny") if "--preset" not in given else ()))
    assert result.exit_code in (1, 2)
    assert told in " ".join(result.stderr.replace("│", " ").split())


def test_a_gateway_failure_names_the_question(lyra: Lyra, tmp_path: Path, tiny_stack: Stack) -> None:
    folder = write_docvqa(tmp_path / "set")
    (folder / "documents" / "xnbl0037_1.png").write_bytes(b"no picture")
    result = lyra("docvqa", folder, "--written", "--gateway", tiny_stack.url)
    assert result.exit_code == 1
    assert "question 49153: " in result.stderr
    gone = lyra("docvqa", folder, "--written", "--gateway", "http://127.0.0.1:9")
    assert gone.exit_code == 1
    assert "nothing answers at http://127.0.0.1:9" in gone.stderr


def test_results_folder_may_hold_images_with_other_suffixes(lyra: Lyra, tmp_path: Path) -> None:
    folder = write_textvqa(tmp_path / "set")
    shutil.rmtree(folder / "train_images")
    write_picture(folder / "images" / "003a8ae2ef43b901.webp")
    assert printed(lyra("textvqa", folder, "--written", "--preset", "tiny"))["count"] == 2
    write_json(folder / "TextVQA_0.5.1_val.json", {"data": []})
    refused = lyra("textvqa", folder, "--written", "--preset", "tiny")
    assert "does not contain a non-empty list of questions" in refused.stderr
