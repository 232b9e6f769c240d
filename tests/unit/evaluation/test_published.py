"""Each published data set in its layout: its questions, its scores, and errors for a broken one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_core.errors import InvalidInput
from model_core.evaluation.layouts import Questions
from model_core.evaluation.librispeech import load_librispeech
from model_core.evaluation.mm_vet import judge_prompt, judged, load_mm_vet, match, mm_vet_report
from model_core.evaluation.picture_benchmarks import CHARTQA, DOCVQA, TEXTVQA, PictureBenchmark, picture_report
from model_core.evaluation.predictions import Sample
from model_core.evaluation.preset_subject import PresetSubject
from model_core.evaluation.report import Report
from model_core.evaluation.subject import AudioFile, Question
from model_core.evaluation.videomme import chosen_letter, load_videomme, videomme_report
from model_core.evaluation.wer import word_error_report
from tests.evaluation_sets import (
    ScriptedSubject,
    write_chartqa,
    write_docvqa,
    write_json,
    write_librispeech,
    write_lines,
    write_mm_vet,
    write_picture,
    write_textvqa,
    write_tone,
    write_videomme,
    write_videomme_template,
)


@pytest.fixture(scope="module")
def tiny() -> PresetSubject:
    return PresetSubject("tiny")


def written(folder: Path) -> Questions:
    return Questions(folder, written=True)


def by_question(samples: list[Sample], answers: dict[str, str]) -> ScriptedSubject:
    """Answers each question from `answers`, by its first line."""
    assert {sample.about["question"] for sample in samples} == set(answers)
    return ScriptedSubject(say=lambda question: answers[question.text.splitlines()[0]])


def measure(benchmark: PictureBenchmark, samples: list[Sample], answers: dict[str, str]) -> Report:
    return picture_report(benchmark, samples, by_question(samples, answers), None, form="written")


# LibriSpeech


def test_librispeech_counts_edits_over_all_words_of_all_speakers(tmp_path: Path) -> None:
    samples = load_librispeech(write_librispeech(tmp_path))
    assert [sample.id for sample in samples] == ["121-121726-0000", "61-70968-0000", "61-70968-0001"]
    said = {"HARANGUE": "harangue", "HELLO THERE": "hello their", "A RED HOUSE": "red house boat"}
    texts = iter(said[sample.about["text"]] for sample in samples)
    report = word_error_report(samples, ScriptedSubject(say=lambda question: next(texts)), None)
    # There is one substitution in two words, and one deletion and one insertion in three; one word is right.
    assert report.result.value == round(3 / 6, 4)
    assert (report.result.details["substitutions"], report.result.details["words"]) == (1, 6)
    assert {row[0]: row[1] for row in report.tables[0].rows} == {"121": 0.0, "61": pytest.approx(60.0)}


def test_librispeech_runs_with_a_preset_and_with_its_whisper(tmp_path: Path, tiny: PresetSubject) -> None:
    samples = load_librispeech(write_librispeech(tmp_path))
    for whisper in (False, True):
        report = word_error_report(samples, tiny, tmp_path / f"out-{whisper}", whisper_decoder=whisper)
        assert (report.result.metric, report.result.count) == ("wer", 3)


@pytest.mark.parametrize(
    ("harm", "field", "problem"),
    [
        (lambda folder: (folder / "61/70968/61-70968-0001.flac").unlink(), "61-70968.trans.txt, line 2", "not exist"),
        (lambda folder: write_tone(folder / "61/70968/61-70968-0009.flac"), "61-70968.trans.txt", "61-70968-0009"),
        (
            lambda folder: (folder / "61/70968/61-70968.trans.txt").write_text("61-70968-0000\n"),
            "61-70968.trans.txt, line 1",
            "UTTERANCE WORDS",
        ),
    ],
)
def test_broken_librispeech_is_named(tmp_path: Path, harm: Callable[[Path], Any], field: str, problem: str) -> None:
    harm(write_librispeech(tmp_path))
    with pytest.raises(InvalidInput, match=problem) as refused:
        load_librispeech(tmp_path)
    assert refused.value.field == field


def test_an_invalid_recording_is_named_by_its_utterance(tmp_path: Path, tiny: PresetSubject) -> None:
    (write_librispeech(tmp_path) / "121/121726/121-121726-0000.flac").write_bytes(b"no sound")
    with pytest.raises(InvalidInput, match="does not decode as audio") as refused:
        word_error_report(load_librispeech(tmp_path), tiny, None)
    assert refused.value.field == "121-121726-0000, audio"


# TextVQA, DocVQA, ChartQA


def test_textvqa_scores_by_vqa_accuracy(tmp_path: Path) -> None:
    samples = TEXTVQA.load(write_textvqa(tmp_path), written(tmp_path))
    report = measure(TEXTVQA, samples, {"what is the brand?": "Nokia", "how many?": "two"})
    # Nine of ten say nokia; three of ten say two: (3 x 2/3 + 7 x 1) / 10.
    assert report.result.metric == "vqa_accuracy"
    assert report.result.value == pytest.approx((1.0 + 0.9) / 2)


def test_docvqa_scores_by_anls_for_each_question_type(tmp_path: Path) -> None:
    samples = DOCVQA.load(write_docvqa(tmp_path), written(tmp_path))
    report = measure(DOCVQA, samples, {"What is the value?": "0.28mg", "Whose report is it?": "universe"})
    # 0.28mg is one edit from "0.28 mg" (7 letters); "universe" is 3 edits from "university" (10 letters).
    first, second = 1 - 1 / 7, 1 - 3 / 10
    assert report.result.value == pytest.approx((first + second) / 2, abs=1e-4)
    shares = {row[0]: row[1] for row in report.tables[0].rows}
    assert shares == {
        "figure/diagram": pytest.approx(100 * first),
        "free_text": pytest.approx(100 * second),
        "layout": pytest.approx(100 * second),
    }


def test_chartqa_scores_by_relaxed_accuracy_and_split(tmp_path: Path) -> None:
    samples = CHARTQA.load(write_chartqa(tmp_path), written(tmp_path))
    answers = {"How many foods?": "104", "Which is it?": "a lamb", "What share in 2019?": "0.24"}
    report = measure(CHARTQA, samples, answers)
    assert report.result.value == pytest.approx(2 / 3, abs=1e-4)
    assert report.tables[0].rows == (("augmented", 100.0, 1), ("human", 50.0, 2))


@pytest.mark.parametrize(
    ("benchmark", "write"), [(TEXTVQA, write_textvqa), (DOCVQA, write_docvqa), (CHARTQA, write_chartqa)]
)
def test_picture_questions_can_be_spoken_to_a_preset(
    tmp_path: Path, tiny: PresetSubject, benchmark: PictureBenchmark, write: Callable[[Path], Path]
) -> None:
    questions = Questions(write(tmp_path), reader="tiny", prompt="Answer in a word.")
    samples = benchmark.load(tmp_path, questions)
    assert all(sample.question.audio and sample.question.text == "Answer in a word." for sample in samples)
    report = picture_report(benchmark, samples, tiny, tmp_path / "out", form=questions.form)
    assert (report.result.count, report.result.details["questions"]) == (len(samples), "read by tiny")
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert all(json.loads(line)["context_tokens"][0] > 4 for line in lines)


def test_recordings_next_to_the_questions_replace_the_voice(tmp_path: Path) -> None:
    write_docvqa(tmp_path)
    first, second = (write_tone(tmp_path / "speech" / f"{number}.wav") for number in (49153, 49154))
    questions = Questions(tmp_path)
    samples = DOCVQA.load(tmp_path, questions)
    assert [sample.question.audio for sample in samples] == [(AudioFile(first),), (AudioFile(second),)]
    assert questions.form == "recorded"
    second.unlink()
    with pytest.raises(InvalidInput, match="no recording 49154"):
        DOCVQA.load(tmp_path, Questions(tmp_path))


def test_the_lyra_eval_layout_names_textvqa_recordings(tmp_path: Path) -> None:
    write_textvqa(tmp_path)
    common = {"question_id": "003a8ae2ef43b901", "image": "003a8ae2ef43b901.jpg", "text": "<speech>"}
    prompts = ("what is the brand?\nReference OCR token: ", "how many?\nReference OCR token: ")
    lines = [{**common, "prompt": prompt, "speech": f"audio-{at}"} for at, prompt in enumerate(prompts)]
    write_lines(tmp_path / "lyra_textvqa_val_v051_ocr_withspeechid.jsonl", *lines)
    for at in (0, 1):
        write_tone(tmp_path / "lyra_audios" / f"audio-{at}.wav")
    samples = TEXTVQA.load(tmp_path, Questions(tmp_path))
    assert [sample.id for sample in samples] == ["audio-0", "audio-1"]


def test_the_lyra_eval_layout_is_read_for_docvqa(tmp_path: Path) -> None:
    write_picture(tmp_path / "documents" / "a.png")
    write_tone(tmp_path / "lyra_audios" / "7.wav")
    line = {"question_id": 7, "image": "documents/a.png", "text": "What?", "answer": ["one", "two"]}
    write_lines(tmp_path / "lyra_docvqa_audio.jsonl", line)
    (sample,) = DOCVQA.load(tmp_path, Questions(tmp_path))
    assert (sample.id, sample.about["answers"]) == ("7", ["one", "two"])


@pytest.mark.parametrize(
    ("key", "value", "field", "problem"),
    [
        ("question", None, "val_v1.0.json, question 49153, question", "is missing"),
        ("question", " ", "val_v1.0.json, question 49153, question", "must be a non-empty string"),
        ("answers", [], "val_v1.0.json, question 49153, answers", "must be a non-empty list of strings"),
        ("answers", ["a", 5], "val_v1.0.json, question 49153, answers", "must be a non-empty list of strings"),
        ("image", "documents/none.png", "val_v1.0.json, question 49153, image", "does not exist"),
        ("image", "../outside.png", "val_v1.0.json, question 49153, image", "is outside"),
        ("questionId", None, "val_v1.0.json, question 1, questionId", "is missing"),
    ],
)
def test_broken_question_is_named_with_its_field(
    tmp_path: Path, key: str, value: Any, field: str, problem: str
) -> None:
    write_picture(tmp_path / "outside.png")
    path = write_docvqa(tmp_path / "set") / "val_v1.0.json"
    whole = json.loads(path.read_text())
    whole["data"][0][key] = value
    if value is None:
        del whole["data"][0][key]
    write_json(path, whole)
    with pytest.raises(InvalidInput, match=problem) as refused:
        DOCVQA.load(path.parent, written(path.parent))
    assert refused.value.field == field


@pytest.mark.parametrize("benchmark", [TEXTVQA, DOCVQA, CHARTQA])
def test_folder_of_another_layout_is_refused(tmp_path: Path, benchmark: PictureBenchmark) -> None:
    with pytest.raises(InvalidInput, match="contains no") as refused:
        benchmark.load(tmp_path, written(tmp_path))
    assert refused.value.field == "folder"


@pytest.mark.parametrize("content", ["{", "[]", '{"data": []}', "5"])
def test_json_without_questions_is_refused(tmp_path: Path, content: str) -> None:
    (write_docvqa(tmp_path) / "val_v1.0.json").write_text(content)
    with pytest.raises(InvalidInput) as refused:
        DOCVQA.load(tmp_path, written(tmp_path))
    assert refused.value.field == "val_v1.0.json"


# MM-Vet


@pytest.mark.parametrize(
    ("prediction", "answer", "share"),
    [
        ("x is -1 or -5", "-1<AND>-5", 1.0),
        ("x is -5", "-1<AND>-5", 0.5),
        ("It is 5/4.", "1.25<OR>5/4", 1.0),
        ("It is 2.", "1.25<OR>5/4", 0.0),
        ("This is Alfred Hitchcock, a director.", "alfred hitchcock", 1.0),
        ("red and blue", "red<OR>pink<AND>blue<OR>green", 1.0),
        ("pink", "red<OR>pink<AND>blue<OR>green", 0.5),
    ],
)
def test_mm_vet_match_is_the_share_of_elements_in_the_answer(prediction: str, answer: str, share: float) -> None:
    assert match(prediction, answer) == share


def test_mm_vet_without_a_judge_has_another_metric_name(tmp_path: Path) -> None:
    samples = load_mm_vet(write_mm_vet(tmp_path), written(tmp_path))
    subject = by_question(samples, {"What is x?": "-1", "What is d?": "5/4", "Who is it?": "Hitchcock"})
    report = mm_vet_report(samples, subject, None, form="written")
    assert report.result.metric == "mm_vet_match"
    assert report.result.value == 50.0
    assert report.tables[0].rows == (("math", 75.0, 2), ("ocr", 75.0, 2), ("rec", 0.0, 1))
    assert [row[0] for row in report.tables[1].rows] == ["math + ocr", "rec"]


def test_mm_vet_averages_the_judges_scores_and_asks_once(tmp_path: Path) -> None:
    samples = load_mm_vet(write_mm_vet(tmp_path), written(tmp_path))
    prompts: list[str] = []

    def judge(prompt: str, temperature: float) -> str:
        prompts.append(prompt)
        return {"What is x?": "0.5", "What is d?": "1.0", "Who is it?": "0.0 "}[prompt.splitlines()[-1].split(" | ")[0]]

    options: dict[str, Any] = {"form": "written", "judge": judge, "judge_name": "one", "runs": 2}
    report = mm_vet_report(samples, ScriptedSubject(), tmp_path / "out", **options)
    assert (report.result.metric, report.result.value, report.result.details["deviation"]) == ("mm_vet_score", 50.0, 0)
    assert len(prompts) == 6
    assert mm_vet_report(samples, ScriptedSubject(), tmp_path / "out", **options).result.value == 50.0
    assert len(prompts) == 6
    mm_vet_report(samples, ScriptedSubject(), tmp_path / "out", **options | {"judge_name": "another"})
    assert len(prompts) == 12


def test_the_judge_is_asked_again_at_a_higher_temperature_if_it_gives_no_number() -> None:
    said = iter(["Well", "7", "", "0.3 or so"])
    temperatures: list[float] = []

    def judge(prompt: str, temperature: float) -> str:
        temperatures.append(temperature)
        return next(said)

    assert judged(judge, "prompt") == 0.3
    assert temperatures == [0.0, 0.5, 1.0, 1.5]
    assert judged(lambda prompt, temperature: "no", "prompt") is None


def test_the_judge_gets_the_papers_table_to_complete() -> None:
    prompt = judge_prompt("What is x?", "-1<AND>-5", "x = 3")
    assert "What is x in the equation? | -1 <AND> -5 | x = -1 or x = -5 | 1.0\n" in prompt
    assert prompt.endswith("\nWhat is x? | -1 <AND> -5 | x = 3 | ")


def test_mm_vet_runs_with_a_preset(tmp_path: Path, tiny: PresetSubject) -> None:
    questions = Questions(write_mm_vet(tmp_path), reader="tiny")
    samples = load_mm_vet(tmp_path, questions)[:1]
    assert mm_vet_report(samples, tiny, None, form=questions.form).result.count == 1


# Video-MME


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("C", "C"),
        ("The best answer is: B.", "B"),
        ("(D) They are all equal", "D"),
        ("The answer is A because there are many", "A"),
        ("Best option: C", "C"),
        ("I do not know", ""),
        ("", ""),
    ],
)
def test_the_answer_letter_is_extracted_like_in_the_official_script(prediction: str, letter: str) -> None:
    assert chosen_letter(prediction) == letter


def test_videomme_is_reported_by_duration(tmp_path: Path) -> None:
    samples = load_videomme(write_videomme(tmp_path))
    letters = iter(["C", "no idea", "B"])
    report = videomme_report(samples, ScriptedSubject(say=lambda question: next(letters)), None)
    assert report.result.value == pytest.approx(2 / 3, abs=1e-4)
    assert report.result.details["accuracy_of_answered"] == 1.0
    assert report.tables[0].rows == (("short", 50.0, 2), ("long", 100.0, 1))
    assert samples[0].question.text.splitlines()[1:3] == ["What is there most of?", "A. Apples."]
    assert samples[0].question.text.endswith("\nThe best answer is:")


def test_videomme_of_one_duration_without_audio_runs_with_a_preset(tmp_path: Path, tiny: PresetSubject) -> None:
    write_videomme(tmp_path)
    seen, heard = (load_videomme(tmp_path, durations=["long"], video_sound=sound) for sound in (False, True))
    assert len(seen) == 1
    tokens = [tiny.answer(samples[0].question).context_tokens[0] for samples in (seen, heard)]
    assert tokens[0] < tokens[1]
    assert videomme_report(seen, tiny, tmp_path / "out").result.count == 1


def test_the_videomme_evaluation_template_is_read_too(tmp_path: Path) -> None:
    (sample,) = load_videomme(write_videomme_template(tmp_path))
    assert (sample.id, sample.about["duration"], sample.about["answer"]) == ("001-1", "short", "C")
    assert sample.question.videos == (tmp_path / "videos" / "001.mp4",)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("duration", "endless", "not one of short, medium, long"),
        ("options", ["A. one"], "1 options, not 4"),
        ("answer", "E", "not one of A, B, C, D"),
        ("videoID", "missing", "does not exist"),
    ],
)
def test_broken_video_question_is_named(tmp_path: Path, key: str, value: Any, problem: str) -> None:
    path = write_videomme(tmp_path) / "videomme.json"
    rows = json.loads(path.read_text())
    rows[1][key] = value
    write_json(path, rows)
    with pytest.raises(InvalidInput, match=problem) as refused:
        load_videomme(tmp_path)
    assert refused.value.field == f"videomme.json, question 001-2, {key}"


def test_a_question_is_identified_by_the_content_of_its_files(tmp_path: Path) -> None:
    one, two = write_tone(tmp_path / "a.wav"), write_tone(tmp_path / "b.wav", 2.0)
    keys = [Question(name="", audio=(AudioFile(path),)).key() for path in (one, one, two)]
    assert keys[0] == keys[1] != keys[2]
    write_tone(one, 3.0)
    assert Question(name="", audio=(AudioFile(one),)).key() != keys[0]
