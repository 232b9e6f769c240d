import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from model_core.errors import InvalidInput, UnknownPreset
from model_core.evaluation.preset_subject import PresetSubject
from model_core.evaluation.subject import Question
from model_core.evaluation.vqa import evaluate_vqa
from model_core.evaluation.wer import evaluate_wer
from tests.evaluation_sets import write_tone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    write_tone(tmp_path / "media" / "short.wav")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "media" / "red.png")
    return tmp_path


def manifest(folder: Path, *lines: dict[str, Any] | str) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


TINY = PresetSubject("tiny")
HEARD = {"audio": "media/short.wav", "text": "hello there"}
WRITTEN = {"image": "media/red.png", "question": "What color is this?", "answer": "red"}
SPOKEN = {"image": "media/red.png", "audio": "media/short.wav", "answer": "red"}


@pytest.mark.parametrize("whisper_decoder", [False, True])
def test_word_error_rate_is_computed_from_the_written_predictions(folder: Path, whisper_decoder: bool) -> None:
    out = folder / "deep" / "out.jsonl"
    steps: list[tuple[int, int]] = []
    lines = manifest(folder, HEARD | {"voice": "tone"}, "", HEARD)
    result = evaluate_wer(
        lines,
        TINY,
        whisper_decoder=whisper_decoder,
        out=out,
        progress=lambda done, total: steps.append((done, total)),
    )
    printed = json.loads(result.to_json())
    predictions = [json.loads(line) for line in out.read_text().splitlines()]
    assert (printed["metric"], printed["count"], printed["preset"], printed["words"]) == ("wer", 2, "tiny", 4)
    assert printed["decoder"] == ("whisper" if whisper_decoder else "language_model")
    edits = [p["errors"][kind] for p in predictions for kind in ("substitutions", "deletions", "insertions")]
    assert printed["value"] == sum(edits) / 4
    assert [p["audio"] for p in predictions] == ["media/short.wav"] * 2
    assert predictions[0]["voice"] == "tone"
    assert isinstance(predictions[0]["prediction"], str)
    assert steps == [(0, 2), (1, 2), (2, 2)]
    assert "\n" not in result.to_json()


def test_a_recording_of_several_clips_is_transcribed_clip_by_clip(folder: Path) -> None:
    write_tone(folder / "media" / "long.wav", seconds=61)
    assert evaluate_wer(manifest(folder, HEARD | {"audio": "media/long.wav"}), TINY).count == 1


def test_written_and_spoken_questions_are_answered(folder: Path) -> None:
    out = folder / "out.jsonl"
    result = evaluate_vqa(manifest(folder, WRITTEN, SPOKEN), TINY, out=out)
    printed = json.loads(result.to_json())
    predictions = [json.loads(line) for line in out.read_text().splitlines()]
    assert (printed["metric"], printed["count"], printed["written"], printed["spoken"]) == ("vqa", 2, 1, 1)
    assert printed["value"] == sum(p["correct"] for p in predictions) / 2


def test_an_expected_answer_counts_as_correct(folder: Path) -> None:
    out = folder / "out.jsonl"
    evaluate_vqa(manifest(folder, WRITTEN), TINY, out=out)
    said = json.loads(out.read_text())["prediction"]
    assert evaluate_vqa(manifest(folder, WRITTEN | {"answer": said}), TINY).value == 1


@pytest.mark.parametrize(
    ("line", "named", "problem"),
    [
        ("{not json", "line 2", "is not JSON"),
        ("[1]", "line 2", "not a JSON object"),
        ({"audio": "media/short.wav"}, "line 2, text", "is missing"),
        ({"text": "hello"}, "line 2, audio", "is missing"),
        (HEARD | {"text": 5}, "line 2, text", "must be a non-empty string"),
        (HEARD | {"text": " "}, "line 2, text", "must be a non-empty string"),
        (HEARD | {"audio": "media/none.wav"}, "line 2, audio", "is not a file"),
        (HEARD | {"audio": "media/red.png"}, "line 2, audio", "audio"),
    ],
)
def test_bad_line_is_named_with_its_key(folder: Path, line: dict[str, Any] | str, named: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as refused:
        evaluate_wer(manifest(folder, HEARD, line), TINY)
    assert refused.value.field == named


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (WRITTEN | {"audio": "media/short.wav"}, "line 1, question or audio"),
        ({"image": "media/red.png", "answer": "red"}, "line 1, question or audio"),
        (WRITTEN | {"image": "media/short.wav"}, "line 1, image"),
        (SPOKEN | {"audio": "media"}, "line 1, audio"),
        ({"image": "media/red.png", "question": "What?"}, "line 1, answer"),
    ],
)
def test_bad_picture_question_is_named_with_its_key(folder: Path, line: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        evaluate_vqa(manifest(folder, line), TINY)
    assert refused.value.field == named


def test_missing_empty_wordless_and_binary_manifests_are_refused(folder: Path) -> None:
    binary = folder / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (folder / "none.jsonl", manifest(folder, "", ""), manifest(folder, HEARD | {"text": "um"}), binary):
        with pytest.raises(InvalidInput) as refused:
            evaluate_wer(path, TINY)
        assert refused.value.field == "manifest"


def test_a_manifest_is_not_overwritten_by_its_predictions(folder: Path) -> None:
    path = manifest(folder, HEARD)
    with pytest.raises(InvalidInput, match="manifest itself"):
        evaluate_wer(path, TINY, out=path)
    assert json.loads(path.read_text()) == HEARD


def test_unknown_preset_is_refused(folder: Path) -> None:
    with pytest.raises(UnknownPreset):
        evaluate_wer(manifest(folder, HEARD), PresetSubject("huge"))


def test_a_preset_is_evaluated_on_a_gpu(folder: Path, gpu: torch.device) -> None:
    subject = PresetSubject("tiny-qwen2-vl", device=gpu)
    assert evaluate_wer(manifest(folder, HEARD, HEARD), subject).count == 2
    assert evaluate_vqa(manifest(folder, WRITTEN, SPOKEN), subject).count == 2
    reply = subject.answer(Question(name="spoken", text="hello", speak=True, max_tokens=8))
    assert reply.spoken is not None
