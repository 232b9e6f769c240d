"""Word error rate of what a subject hears: through its language model, or by Whisper's own decoder as the yardstick."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from model_core.audio.tensors import CLIP_SECONDS, SAMPLE_RATE, split_clips
from model_core.errors import InvalidInput
from model_core.evaluation.manifest import Progress, Result, prediction_writer, read_manifest
from model_core.evaluation.predictions import Predict, Row, Sample, one_by_one, predict_all
from model_core.evaluation.report import Report, Table
from model_core.evaluation.subject import Ask, MadeSound, Sound, SoundFile, Subject
from model_core.language.messages import REPEAT_INSTRUCTION
from model_core.metrics.word_errors import WordErrors, normalize, word_errors

# Fast speech is about five tokens a second: enough for any, and an answer that runs away ends.
TOKENS_A_SECOND, SPARE_TOKENS = 10, 16

Hear = Callable[[Subject, Sound, str], str]


def evaluate_wer(
    manifest: Path,
    subject: Subject,
    *,
    whisper_decoder: bool = False,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Word error rate over all words of a manifest's texts, after Whisper's normalisation.

    Args:
        manifest: Lines `{"audio": path, "text": reference}`.
        subject: Who hears.
        whisper_decoder: Let Whisper's own decoder write down what it hears, instead of the language model.
        out: File that gets every line with its prediction and its own errors.
        progress: Called with lines done and lines in all.

    Raises:
        InvalidInput: the manifest or a file of it, naming the line; WeightsMissing.
    """
    lines = read_manifest(manifest, texts=("text",), files=("audio",))
    if not any(normalize(line.text("text")) for line in lines):
        raise InvalidInput("manifest", "no text holds a word to compare with")
    hear = hear_by_whisper if whisper_decoder else hear_by_language_model
    total = WordErrors()
    with prediction_writer(out, manifest) as write:
        for done, line in enumerate(lines):
            if progress:
                progress(done, len(lines))
            prediction = hear(subject, SoundFile(line.path("audio")), f"line {line.number}")
            errors = word_errors(line.text("text"), prediction)
            total += errors
            write(line, {"prediction": prediction, "errors": counts(errors)})
    if progress:
        progress(len(lines), len(lines))
    details = {"decoder": _decoder(whisper_decoder), **counts(total)}
    return Result(metric="wer", value=round(total.rate, 4), count=len(lines), subject=subject.tags, details=details)


def word_error_report(
    utterances: Sequence[Sample],
    subject: Subject,
    folder: Path | None,
    *,
    whisper_decoder: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Word error rate of utterances, each with one sound, its words as `text` in `about`, perhaps its `speaker`.

    Raises:
        InvalidInput: as `predict_all`, or no text holds a word.
    """
    if not any(normalize(sample.about["text"]) for sample in utterances):
        raise InvalidInput("text", "no text holds a word to compare with")
    hear = hear_by_whisper if whisper_decoder else hear_by_language_model
    rows = predict_all(
        utterances, subject, folder, _score, predict=_predicting(hear), kind=hear.__name__, progress=progress
    )
    total = _sum(rows)
    details = {"decoder": _decoder(whisper_decoder), **counts(total)}
    result = Result(metric="wer", value=round(total.rate, 4), count=len(rows), subject=subject.tags, details=details)
    speakers = sorted({row["speaker"] for row in rows if row.get("speaker")})
    tables: tuple[Table, ...] = ()
    if len(speakers) > 1:
        sums = {speaker: _sum([row for row in rows if row.get("speaker") == speaker]) for speaker in speakers}
        cells = tuple((name, 100 * errors.rate, errors.words) for name, errors in sums.items() if errors.words)
        tables = (Table(title="Word error rate by speaker", headings=("speaker", "WER %", "words"), rows=cells),)
    return Report(result=result, tables=tables)


def hear_by_language_model(subject: Subject, sound: Sound, name: str) -> str:
    """What the language model repeats, one clip a question: so a recording may be longer than the context."""
    samples = _named_samples(sound, name)
    if len(samples) <= CLIP_SECONDS * SAMPLE_RATE:
        return _repeat(subject, sound, len(samples), name)
    clips = split_clips(torch.from_numpy(samples))
    texts = []
    for clip in clips:
        part = MadeSound(f"{sound.key} clip {clip.index}", clip.samples.numpy)
        texts.append(_repeat(subject, part, len(clip.samples), name))
    return " ".join(texts)


def hear_by_whisper(subject: Subject, sound: Sound, name: str) -> str:
    """What Whisper's own decoder writes."""
    return subject.transcribe(sound, name)


def counts(errors: WordErrors) -> dict[str, int]:
    """Words and edits, as results list them."""
    return {
        "words": errors.words,
        "substitutions": errors.substitutions,
        "deletions": errors.deletions,
        "insertions": errors.insertions,
    }


def _repeat(subject: Subject, sound: Sound, samples: int, name: str) -> str:
    most = SPARE_TOKENS + math.ceil(TOKENS_A_SECOND * samples / SAMPLE_RATE)
    return subject.answer(Ask(name=name, text=REPEAT_INSTRUCTION, sounds=(sound,), max_tokens=most)).text


def _named_samples(sound: Sound, name: str) -> Any:
    try:
        return sound.samples()
    except InvalidInput as error:
        raise InvalidInput(f"{name}, {error.field}", error.message) from error


def _predicting(hear: Hear) -> Predict:
    return one_by_one(lambda subject, sample: {"prediction": hear(subject, sample.ask.sounds[0], sample.ask.name)})


def _score(row: Row) -> dict[str, Any]:
    return {"errors": counts(word_errors(row["text"], row["prediction"]))}


def _sum(rows: Sequence[Row]) -> WordErrors:
    return sum((WordErrors(**row["errors"]) for row in rows), WordErrors())


def _decoder(whisper: bool) -> str:
    return "whisper" if whisper else "language_model"
