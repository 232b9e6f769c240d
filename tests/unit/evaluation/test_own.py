"""Benchmarks that need no published data set."""

import io
import json
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from model_core.audio.tensors import SAMPLE_RATE
from model_core.data.sources.needles import needle
from model_core.errors import InvalidInput
from model_core.evaluation.ablation import ablation_report
from model_core.evaluation.factual import factual_report, load_factual
from model_core.evaluation.manifests import exact_match, picture_questions
from model_core.evaluation.needle import PAUSE_SECONDS, Haystack, Setting, needle_report, needle_samples
from model_core.evaluation.preset_subject import PresetSubject
from model_core.evaluation.prompts import PROMPTS, load_prompts
from model_core.evaluation.spoken_answer import spoken_answer_report
from model_core.evaluation.subject import AudioSource, GeneratedAudio, Question, Reply
from model_core.evaluation.text_quality import text_quality_report
from model_core.evaluation.throughput import throughput_report
from model_core.evaluation.tts import synthesizer
from model_core.speech.voices import voice_named
from tests.evaluation_sets import ScriptedSubject, write_factual, write_lines, write_picture, write_tone

PROMPT_PAIR = [("prompt 1", "Hello?"), ("prompt 2", "How are you?")]
TWO_KEPT = (Setting(keep_rate=1, blocks=2), Setting(keep_rate=0.5, blocks=2))


@pytest.fixture(scope="module")
def tiny() -> PresetSubject:
    return PresetSubject("tiny")


# Facts


def test_facts_count_correct_written_answers_that_stay_correct_in_speech(tmp_path: Path) -> None:
    said = {
        "written line 1": "paris",
        "written line 2": "Eight legs!",
        "written line 3": "I know: Ann.",
        "written line 4": "June",
        "spoken line 1": "The Paris.",
        "spoken line 2": "six",
        "spoken line 3": "Ann, of course",
        "spoken line 4": "May",
    }
    samples = load_factual(*write_factual(tmp_path))
    subject = ScriptedSubject(say=lambda question: said[question.name])
    whole = factual_report(samples, subject, tmp_path / "out", judge="whole")
    contained = factual_report(samples, subject, tmp_path / "out", judge="contained")
    details = whole.result.details
    # As a whole, 1 and 2 are right in writing, 1 and 4 in speech: one of the two is kept. 3 is right within a sentence.
    assert (whole.result.metric, whole.result.value, whole.result.count) == ("factual_kept_whole", 0.5, 4)
    assert (contained.result.metric, contained.result.value) == ("factual_kept_contained", round(2 / 3, 4))
    assert (details["written_whole"], details["spoken_whole"], details["kept_whole_of"]) == (0.5, 0.5, 2)
    assert (details["written_contained"], details["spoken_contained"], details["kept_contained_of"]) == (0.75, 0.75, 3)
    assert details["same_text"] == 0.25
    assert whole.tables[0].rows == (("a", 50.0, 2), ("b", 50.0, 2))
    assert contained.tables[0].rows == (("a", 100.0, 2), ("b", 50.0, 2))
    with pytest.raises(InvalidInput, match="not one of contained, whole"):
        factual_report(samples, subject, None, judge="mild")


def test_factual_runs_with_written_questions_only(tmp_path: Path, tiny: PresetSubject) -> None:
    written, spoken = write_factual(tmp_path)
    assert factual_report(load_factual(written), tiny, None).result.metric == "factual_written_contained"
    assert factual_report(load_factual(written, spoken), tiny, None).result.count == 4


def test_mismatched_factual_manifests_are_refused(tmp_path: Path) -> None:
    written, spoken = write_factual(tmp_path)
    lines = [json.loads(line) for line in spoken.read_text().splitlines()]
    with pytest.raises(InvalidInput, match="has 3 questions"):
        load_factual(written, write_lines(spoken, *lines[:3]))
    with pytest.raises(InvalidInput, match="'Rome'") as refused:
        load_factual(written, write_lines(spoken, lines[0] | {"answer": "Rome"}, *lines[1:]))
    assert refused.value.field == "line 1, answer"
    with pytest.raises(InvalidInput, match="list of strings"):
        load_factual(write_lines(written, {"question": "?", "answer": "yes", "accept": "yes"}))


# Text


def test_a_preset_keeps_its_text_answers_unless_an_adapter_is_forced(tiny: PresetSubject) -> None:
    with_adapter = PresetSubject("tiny")
    _make_adapter_loud(with_adapter, "speech")
    report = text_quality_report(PROMPT_PAIR, with_adapter, None, adapters=["speech"], max_tokens=16)
    assert (report.result.value, report.result.details["with_adapter"]["as served"]["same"]) == (1.0, 1.0)
    assert report.result.details["with_adapter"]["speech"]["same"] < 1


def test_changed_words_are_counted_against_the_base_model() -> None:
    said = {"base": "a red house here", "": "a red house here", "speech": "a red mouse"}
    subject = ScriptedSubject(say=lambda question: said[question.adapter])
    report = text_quality_report(PROMPT_PAIR, subject, None, adapters=["speech"])
    assert report.result.details["with_adapter"]["speech"] == {"same": 0.0, "words_changed": 0.5}


def test_prompts_come_from_a_file_or_are_built_in(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert load_prompts(tmp_path / "a.txt") == [("line 1", "one"), ("line 3", "two")]
    assert load_prompts(write_lines(tmp_path / "a.jsonl", {"question": "one"})) == [("line 1", "one")]
    assert len(load_prompts(None)) == len(set(PROMPTS)) == 32
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(InvalidInput, match="has no lines"):
        load_prompts(tmp_path / "a.txt")


def _make_adapter_loud(subject: PresetSubject, name: str) -> None:
    """A fresh adapter changes nothing: its second factors are zeros."""
    torch.manual_seed(0)
    for key, weight in subject.language_model.decoder.state_dict().items():
        if name in key.split("."):
            torch.nn.init.normal_(weight)


# Spoken answers


def test_a_spoken_answer_is_scored_by_its_whisper_transcript(tmp_path: Path) -> None:
    transcripts = iter(["good morning to you", "I am very fine"])
    said = {"prompt 1": "Good morning!", "prompt 2": "I am fine."}
    subject = ScriptedSubject(say=lambda question: said[question.name], recognise=lambda audio: next(transcripts))
    report = spoken_answer_report(PROMPT_PAIR, subject, tmp_path / "out", voice="joe")
    details = report.result.details
    # Two extra words of five, then one in "I am very fine": 3 insertions in 5 words.
    assert report.result.value == pytest.approx(3 / 5)
    assert (details["insertions"], details["words"], details["voice"]) == (3, 5, "joe")
    assert details["real_time_factor"] == 0.25  # 0.25 s of work for each second of sound
    assert (details["first_audio_tokens"], details["first_audio_own_ms"]) == (3, 20.0)
    assert all(question.speak and question.voice == "joe" for question in subject.asked)
    assert sorted(path.name for path in (tmp_path / "out" / "audio").iterdir()) == ["prompt-1.flac", "prompt-2.flac"]


@pytest.mark.parametrize("hidden", [False, True])
def test_a_presets_spoken_answers_are_timed(tiny: PresetSubject, hidden: bool) -> None:
    names = tiny.voice.voices
    (voice,) = (name for name in names if bool(voice_named(tiny.voice, name).hidden_width) is hidden)
    report = spoken_answer_report(PROMPT_PAIR, tiny, None, voice=voice, max_tokens=8)
    details = report.result.details
    assert details["real_time_factor_of"] == "voice"
    assert details["audio_seconds"] > 0
    assert 1 <= details["first_audio_tokens"] <= 8
    assert details["first_audio_own_ms"] <= details["first_audio_own_ms_most"]


# Throughput


def test_throughput_runs_the_requested_number_of_concurrent_requests() -> None:
    together = threading.Barrier(3, timeout=60)
    first = threading.Event()

    class Three(ScriptedSubject):
        def answer(self, question: Question) -> Reply:
            if first.is_set():
                together.wait()  # passes only where three are asked at the same time
            first.set()
            return replace(super().answer(question), seconds=0.0, first_token_seconds=0.0)

    report = throughput_report([Question(name="q", text="?")], Three(), concurrency=[3], requests=6)
    (level,) = report.result.details["levels"]
    assert (level["concurrency"], report.result.count) == (3, 6)
    assert level["tokens_a_second"] == pytest.approx(4 * level["requests_a_second"], rel=0.01)


def test_a_presets_throughput_is_reported_for_each_concurrency(tiny: PresetSubject) -> None:
    batch = [Question(name=name, text=text, max_tokens=4) for name, text in PROMPT_PAIR]
    report = throughput_report(batch, tiny, concurrency=[1, 2], requests=3)
    assert [row[0] for row in report.tables[0].rows] == [1, 2]
    assert report.result.value == max(row[1] for row in report.tables[0].rows) > 0
    with pytest.raises(InvalidInput):
        throughput_report(batch, tiny, concurrency=[0])


# Needles


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_needle_is_at_its_depth_and_the_recording_has_its_length(depth: float) -> None:
    haystack = Haystack(("a" * 40, "b" * 40, "c" * 40), ("tiny",))
    hidden = needle(random.Random(0), held_out=True)
    pin, pause = synthesizer("tiny")(hidden.sentence), int(PAUSE_SECONDS * SAMPLE_RATE)
    sentence = len(synthesizer("tiny")("a" * 40)) + pause
    recording = haystack.recording(0.5, depth, hidden, 0)
    assert 0 <= 30 * SAMPLE_RATE - len(recording) < 2 * sentence
    # Nothing but the needle is as like the needle.
    place = int(np.argmax(np.correlate(recording, pin)))
    assert np.array_equal(recording[place : place + len(pin)], pin)
    assert abs(place - depth * (len(recording) - len(pin) - pause)) <= sentence


def test_needles_are_counted_by_cell_and_setting() -> None:
    samples = needle_samples(
        Haystack(("one", "two"), ("tiny",)), minutes=(0.5, 1.0), depths=(0.0, 1.0), settings=TWO_KEPT
    )
    assert len(samples) == 8
    asked = [sample.question for sample in samples]
    assert [question.audio[0].key for question in asked[::2]] == [question.audio[0].key for question in asked[1::2]]
    answers = {sample.question.audio[0].key: sample.about["answer"] for sample in samples}

    def find_all_but_late_ones_of_half(question: Question) -> str:
        lost = question.keep_rate == 0.5 and question.name.startswith("1 min, 100 %")
        return "I do not know" if lost else f"It is {answers[question.audio[0].key]}."

    report = needle_report(samples, ScriptedSubject(say=find_all_but_late_ones_of_half), None)
    settings = report.result.details["settings"]
    assert report.result.value == 1.0
    assert settings["keep-0.5-blocks-2"]["by_minutes"] == {"0.5": 1.0, "1": 0.5}
    assert settings["keep-0.5-blocks-2"]["found_up_to_3_min"] == 0.75
    assert settings["keep-1-blocks-2"]["seconds"] == {"0.5": 0.3, "1": 0.3}  # without what the encoders took
    assert set(report.plots) == {"needle-keep-1-blocks-2.png", "needle-keep-0.5-blocks-2.png"}


def test_a_preset_searches_the_needle_with_and_without_the_extractor(tmp_path: Path, tiny: PresetSubject) -> None:
    samples = needle_samples(Haystack(("one", "two"), ("tiny",)), minutes=(0.5,), depths=(0.5,), settings=TWO_KEPT)
    needle_report(samples, tiny, tmp_path)
    whole, halved = (
        json.loads(line)["context_tokens"] for line in (tmp_path / "predictions.jsonl").read_text().splitlines()
    )
    assert halved == [*whole, whole[0] // 2]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"minutes": (0.1,)}, "minutes"),
        ({"minutes": (500,)}, "minutes"),
        ({"minutes": ()}, "minutes"),
        ({"depths": (1.5,)}, "depths"),
        ({"depths": ()}, "depths"),
        ({"needles": 0}, "needle"),
        ({"settings": ()}, "needle"),
    ],
)
def test_out_of_range_grids_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        needle_samples(Haystack(("one",), ("tiny",)), **options)
    assert refused.value.field == field


# Settings side by side


def test_ablation_reports_score_time_and_tokens_of_each_setting(tmp_path: Path) -> None:
    write_picture(tmp_path / "red.png")
    lines = ({"image": "red.png", "question": "What?", "answer": answer} for answer in ("red", "blue"))
    samples = picture_questions(write_lines(tmp_path / "questions.jsonl", *lines))
    subject = ScriptedSubject(say=lambda question: "red" if question.keep_rate == 1 else "green")
    settings: dict[str, dict[str, Any]] = {"all": {"keep_rate": 1.0}, "half": {"keep_rate": 0.5}}
    report = ablation_report(samples, subject, None, metric="m", settings=settings, score=exact_match)
    assert (report.result.value, report.result.count) == (0.5, 2)
    assert report.tables[0].rows == (("all", 50.0, 300.0, "40, 32"), ("half", 0.0, 300.0, "40, 32"))


# Recordings


def test_generated_audio_reaches_a_gateway_unchanged() -> None:
    samples = np.linspace(-0.5, 0.5, 1600, dtype=np.float32)
    sound: AudioSource = GeneratedAudio("line", lambda: samples)
    data, suffix = sound.encoded()
    read, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert (suffix, rate) == ("flac", SAMPLE_RATE)
    assert np.abs(read - samples).max() < 1e-4


def test_a_question_refused_by_the_preset_is_named(tmp_path: Path, tiny: PresetSubject) -> None:
    long = GeneratedAudio("long", lambda: np.zeros(SAMPLE_RATE * 240, np.float32))
    with pytest.raises(InvalidInput, match="the context holds 2048") as refused:
        tiny.answer(Question(name="question 5", audio=(long,)))
    assert refused.value.field == "question 5, messages"
    with pytest.raises(InvalidInput) as refused:
        tiny.answer(Question(name="question 6", images=(write_tone(tmp_path / "a.wav"),)))
    assert refused.value.field == "question 6, image"


def test_a_reused_recording_is_not_generated_again_and_gets_the_same_answer(tiny: PresetSubject) -> None:
    made: list[str] = []

    def sound(name: str, seconds: float) -> GeneratedAudio:
        def make() -> np.ndarray:
            made.append(name)
            return np.random.default_rng(0).normal(0, 0.1, int(seconds * SAMPLE_RATE)).astype(np.float32)

        return GeneratedAudio(name, make)

    one, two = (Question(name=name, audio=(sound(name, 2.0),), max_tokens=6) for name in ("one", "two"))
    first = tiny.answer(one)
    assert tiny.answer(replace(one, text="And now?")).context_tokens == first.context_tokens
    assert made == ["one"]
    tiny.answer(replace(one, text="", images=(), audio=(sound("longer", 4.0),)))
    assert tiny.answer(one).text == first.text
    assert tiny.answer(two).text == first.text
    assert made == ["one", "longer", "one", "two"]
