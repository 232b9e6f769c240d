"""nano's model card: its table and targets, and a run of all parts with preset tiny on small test sets."""

import json
from pathlib import Path
from typing import Any

import pytest

from model_core.errors import InvalidInput
from model_core.evaluation import card, nano
from model_core.evaluation.card import PARTS, Figure, Part, choose_parts
from model_core.evaluation.nano import Plan, evaluate_nano
from tests.evaluation_sets import write_factual, write_lines, write_picture, write_tone

ONE_OF_EACH = (
    "factual",
    "vqa-written",
    "vqa-spoken",
    "wer-human",
    "whisper-human",
    "text-quality",
    "adapters-on-text",
    "extractor-pictures",
    "spoken-answer",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The test sets of every part that needs no package, a line or two each."""
    folder = tmp_path / "held_out"
    write_tone(folder / "audio" / "tone.wav")
    write_picture(folder / "images" / "red.png")
    sentence = {"audio": "audio/tone.wav", "text": "hello there", "voice": "slt"}
    for name in ("sentences-known-voices", "sentences-held-out-voice", "human"):
        write_lines(folder / f"{name}.jsonl", sentence)
    written = {"image": "images/red.png", "question": "What?", "answer": "red"}
    spoken = {"image": "images/red.png", "audio": "audio/tone.wav", "answer": "red"}
    for name in ("vqa-written", "named-written", "named-other-drawings"):
        write_lines(folder / f"{name}.jsonl", written)
    for name in ("vqa-spoken", "named-spoken"):
        write_lines(folder / f"{name}.jsonl", spoken, spoken)
    write_factual(folder)
    return folder


def plan(data: Path, *only: str, **fields: Any) -> Plan:
    return Plan(data=data, out=data.parent / "card", preset="tiny", only=only, **fields)


def nothing(name: str, done: int, total: int) -> None:
    """Shows no progress."""


def test_the_model_card_has_every_target() -> None:
    targets = {figure.what: (figure.minimum, figure.maximum) for part in PARTS for figure in part.figures}
    assert targets["WER, held-out sentences, held-out voice"] == (None, 0.12)
    assert targets["WER, human recordings"] == (None, 0.30)
    assert targets["facts: of those right in writing, right in speech (within the sentence)"] == (0.60, None)
    assert targets["easy-vqa test, written"] == (0.95, None)
    assert targets["easy-vqa test, spoken"] == (0.85, None)
    assert targets["spoken answers, generated voice: WER as Whisper hears them"] == (None, 0.20)
    assert targets["spoken answers, generated voice: real-time factor"] == (None, 0.3)
    assert targets["spoken answers, generated voice: answer tokens until the first sound (most)"] == (None, 4)
    assert targets["needle, 1 to 3 min"] == (0.70, None)
    assert len({part.name for part in PARTS}) == len(PARTS)


def test_parts_are_chosen_by_prefixes_of_their_names() -> None:
    assert [part.name for part in choose_parts(("wer", "extractor-s"))] == [
        "wer-held-out",
        "wer-known",
        "wer-human",
        "extractor-speech",
    ]
    assert choose_parts(()) == PARTS
    with pytest.raises(InvalidInput, match="'songs' is not a part; parts are needle-long, needle-short, adapters"):
        choose_parts(("songs",))


def test_parts_of_every_kind_make_one_model_card(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"prompts": 1, "questions": 1, "voice": ""}
    shorter = tuple(
        Part(name=part.name, run=part.run, options={**part.options, **few}, figures=part.figures, timed=part.timed)
        for part in PARTS
        if part.name in ONE_OF_EACH
    )
    monkeypatch.setattr(card, "PARTS", shorter)
    report = evaluate_nano(plan(data), nothing)
    figures = {line["what"]: line for line in report.result.details["figures"]}
    assert (report.result.metric, report.result.subject) == ("card", {"preset": "tiny"})
    assert len(figures) == report.result.count == sum(len(part.figures) for part in shorter)
    assert figures["text alone: answers that are the base's to the letter"]["reached"] is True
    assert figures["WER, human recordings"]["target"] == "at most 30.0 %"
    assert figures["easy-vqa test, written"]["reached"] is False
    promised = [line["reached"] for line in figures.values() if line["target"]]
    assert report.result.value == pytest.approx(sum(promised) / len(promised), abs=1e-4)
    for part in shorter:
        assert json.loads((data.parent / "card" / "parts" / part.name / "result.json").read_text())["count"] > 0


def test_a_missing_test_set_is_named_and_finished_parts_are_kept(data: Path) -> None:
    (data / "human.jsonl").unlink()
    with pytest.raises(InvalidInput, match=r"human\.jsonl is not a file"):
        evaluate_nano(plan(data, "wer"), nothing)
    assert (data.parent / "card" / "parts" / "wer-known" / "result.json").is_file()


@pytest.mark.parametrize(
    ("figure", "result", "shown", "target", "reached"),
    [
        (Figure(what="a", minimum=0.6), {"value": 0.6}, "60.0 %", "at least 60.0 %", True),
        (Figure(what="a", minimum=0.6), {"value": 0.59}, "59.0 %", "at least 60.0 %", False),
        (Figure(what="a", maximum=0.3, percent=False), {"value": 0.31}, "0.31", "at most 0.3", False),
        (Figure(what="a", maximum=4, percent=False), {"value": 4}, "4", "at most 4", True),
        (Figure(what="a"), {"value": 0.5}, "50.0 %", "", None),
        (Figure(what="a", at=("details", "b"), maximum=1), {"details": {}}, "not measured", "at most 100.0 %", False),
        (
            Figure(what="a", at=("x", "y"), minimum_at=("z",)),
            {"x": {"y": 0.7}, "z": 0.7},
            "70.0 %",
            "at least 70.0 %",
            True,
        ),
        (Figure(what="a", at=("x",), minimum_at=("z",)), {"x": 0.6, "z": 0.7}, "60.0 %", "at least 70.0 %", False),
    ],
)
def test_a_figure_is_compared_with_its_target(
    figure: Figure, result: dict[str, Any], shown: str, target: str, reached: bool | None
) -> None:
    line = nano._line(figure, result)
    assert (line["shown"], line["target"], line["reached"]) == (shown, target, reached)


def test_needle_part_runs_on_held_out_sentences(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_core.data.sources.texts.load_sentences", lambda *_, held_out: ["one two", "three"])
    (part,) = choose_parts(("needle-short",))
    short = Part(
        name=part.name,
        run=part.run,
        options={**part.options, "minutes": (0.5,), "depths": (0.5,)},
        figures=part.figures[:2],
    )
    monkeypatch.setattr(card, "PARTS", (short,))
    report = evaluate_nano(plan(data), nothing)
    assert [line["what"] for line in report.result.details["figures"]] == [
        "needle, 1 to 3 min",
        "needle, 1 to 3 min, keep rate 0.7",
    ]
    assert len(list((data.parent / "card" / "parts" / "needle-short").glob("*.png"))) == 2
