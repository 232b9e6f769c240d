"""Runs that stop and resume, and their files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_core.errors import InvalidInput
from model_core.evaluation.manifest import Result
from model_core.evaluation.predictions import FILE, Row, Sample, predict_all
from model_core.evaluation.preset_subject import PresetSubject
from model_core.evaluation.report import Report, Table, bar_chart, heat_map, write_report
from model_core.evaluation.subject import GeneratedAudio, Question
from tests.evaluation_sets import ScriptedSubject

SAMPLES = [
    Sample(id=name, question=Question(name=name, text=f"question {name}"), about={"answer": name})
    for name in ("a", "b", "c")
]


def score(row: Row) -> dict[str, Any]:
    return {"right": row["prediction"] == row["answer"]}


def say(question: Question) -> str:
    return question.text.removeprefix("question ")


def lines(folder: Path) -> list[Row]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_predictions_are_in_sample_order_with_their_scores(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    subject = ScriptedSubject(say=say)
    rows = predict_all(SAMPLES, subject, tmp_path, score, progress=lambda done, total: steps.append((done, total)))
    assert rows == lines(tmp_path)
    assert [(row["id"], row["prediction"], row["right"]) for row in rows] == [(x, x, True) for x in "abc"]
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_answered_samples_are_not_asked_again_after_an_interruption(tmp_path: Path) -> None:
    def stop_at_c(question: Question) -> str:
        if question.name == "c":
            raise KeyboardInterrupt
        return say(question)

    with pytest.raises(KeyboardInterrupt):
        predict_all(SAMPLES, ScriptedSubject(say=stop_at_c), tmp_path, score)
    assert [row["id"] for row in lines(tmp_path)] == ["a", "b"]
    subject = ScriptedSubject(say=say)
    assert [row["id"] for row in predict_all(SAMPLES, subject, tmp_path, score)] == ["a", "b", "c"]
    assert [question.name for question in subject.asked] == ["c"]


def test_batched_samples_keep_their_order(tmp_path: Path) -> None:
    steps: list[int] = []
    predict_all(SAMPLES[1:2], ScriptedSubject(say=say), tmp_path, score)
    subject = ScriptedSubject(say=say)
    rows = predict_all(SAMPLES, subject, tmp_path, score, batch=2, progress=lambda done, _: steps.append(done))
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert [question.name for question in subject.asked] == ["a", "c"]
    assert steps == [1, 3]


def test_a_preset_answers_a_batch_like_single_samples() -> None:
    subject = PresetSubject("tiny")
    sound = GeneratedAudio("noise", lambda: np.random.default_rng(0).random(16_000, np.float32))
    batch = [
        Question(name="a", text="hello", max_tokens=5),
        Question(name="b", text="what?", audio=(sound,), max_tokens=9),
        Question(name="c", text="a longer question", max_tokens=7, adapter="speech"),
    ]
    together = subject.answer_batch(batch)
    alone = [subject.answer(question) for question in batch]
    assert [(r.text, r.adapter, r.completion_tokens) for r in together] == [
        (r.text, r.adapter, r.completion_tokens) for r in alone
    ]
    assert all(reply.first_token_seconds is None and reply.seconds > 0 for reply in together)
    with pytest.raises(InvalidInput, match="b, max_tokens"):
        subject.answer_batch([batch[0], replace(batch[1], max_tokens=-1)])


def test_a_truncated_line_is_asked_again(tmp_path: Path) -> None:
    predict_all(SAMPLES, ScriptedSubject(say=say), tmp_path, score)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:-20])
    subject = ScriptedSubject(say=say)
    predict_all(SAMPLES, subject, tmp_path, score)
    assert [question.name for question in subject.asked] == ["c"]
    assert (tmp_path / FILE).read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "subject"),
    [({"max_tokens": 5}, "scripted"), ({"keep_rate": 0.5}, "scripted"), ({"adapter": "base"}, "scripted"), ({}, "new")],
)
def test_other_options_or_weights_are_asked_again(tmp_path: Path, change: dict[str, Any], subject: str) -> None:
    predict_all(SAMPLES[:1], ScriptedSubject(), tmp_path, score)
    changed = Sample(id="a", question=Question(name="a", text="question a", **change), about={"answer": "a"})
    other = ScriptedSubject(weights=subject)
    predict_all([changed], other, tmp_path, score)
    assert len(other.asked) == 1


def test_predictions_are_scored_again_each_time(tmp_path: Path) -> None:
    predict_all(SAMPLES, ScriptedSubject(say=say), tmp_path, score)
    rows = predict_all(SAMPLES, ScriptedSubject(), tmp_path, lambda row: {"right": "other"})
    assert [row["right"] for row in rows] == ["other"] * 3


def test_no_samples_or_a_foreign_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there are none"):
        predict_all([], ScriptedSubject(), tmp_path, score)
    (tmp_path / FILE).write_text('{"no": "prediction"}\n')
    with pytest.raises(InvalidInput, match="line 1 of") as refused:
        predict_all(SAMPLES, ScriptedSubject(), tmp_path, score)
    assert refused.value.field == "out"
    assert (tmp_path / FILE).read_text() == '{"no": "prediction"}\n'


def test_nanos_weights_are_identified_by_their_content(tmp_path: Path) -> None:
    part = tmp_path / "parts" / "adapters" / "speech" / "adapter_model.safetensors"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"one")
    before = PresetSubject("nano", tmp_path, parts=tmp_path / "parts").identity
    assert PresetSubject("nano", tmp_path, parts=tmp_path / "parts").identity == before
    part.write_bytes(b"other")
    assert PresetSubject("nano", tmp_path, parts=tmp_path / "parts").identity != before


def test_a_report_is_one_json_file_one_table_and_its_plots(tmp_path: Path) -> None:
    result = Result(metric="wer", value=0.25, count=4, subject={"preset": "tiny"}, details={"words": 8})
    table = Table(title="By voice", headings=("voice", "WER %"), rows=(("a|b", 12.3456), ("c", 100)))
    grid = np.array([[0.0, 1.0], [0.5, np.nan]])
    plots = {"bars.png": bar_chart(table), "grid.png": heat_map("Grid", grid, ["r", "s"], ["1", "2"], ("d", "m"))}
    write_report(tmp_path / "out", Report(result=result, tables=(table,), plots=plots), ("lyra", "eval", "wer"))
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {key: written[key] for key in ("metric", "value", "count", "preset")} == {
        "metric": "wer",
        "value": 0.25,
        "count": 4,
        "preset": "tiny",
    }
    assert written["command"] == ["lyra", "eval", "wer"]
    assert written["machine"]["libraries"]["torch"]
    text = (tmp_path / "out" / "result.md").read_text()
    assert "| a\\|b | 12.35 |" in text
    assert "![grid](grid.png)" in text
    assert all((tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG") for name in plots)
    assert not list((tmp_path / "out").glob("*.part"))
