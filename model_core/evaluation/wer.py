"""Word error rate of a subject's transcripts: by its language model, or by Whisper's own decoder as the baseline."""

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
from model_core.evaluation.subject import AudioFile, AudioSource, GeneratedAudio, Question, Subject
from model_core.language.messages import REPEAT_INSTRUCTION
from model_core.metrics.word_errors import WordErrors, normalize, word_errors

# Twice the rate of fast speech, so that no transcript is cut off but a runaway answer ends.
TOKENS_PER_SECOND, EXTRA_TOKENS = 10, 16

Transcribe = Callable[[Subject, AudioSource, str], str]


def evaluate_wer(
    manifest: Path,
    subject: Subject,
    *,
    whisper_decoder: bool = False,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Word error rate over a manifest, after Whisper's normalisation.

    Args:
        manifest: Lines `{"audio": path, "text": reference}`.
        subject: What is evaluated.
        whisper_decoder: Transcribe with Whisper's own decoder instead of the language model.
        out: File for every line with its prediction and errors.
        progress: Called with the number of lines done and in total.

    Raises:
        InvalidInput: the manifest or one of its files is invalid; the error names the line. WeightsMissing.
    """
    lines = read_manifest(manifest, texts=("text",), files=("audio",))
    if not any(normalize(line.text("text")) for line in lines):
        raise InvalidInput("manifest", "no text contains a word to compare with")
    transcribe = transcribe_by_whisper if whisper_decoder else transcribe_by_language_model
    total = WordErrors()
    with prediction_writer(out, manifest) as write:
        for done, line in enumerate(lines):
            if progress:
                progress(done, len(lines))
            prediction = transcribe(subject, AudioFile(line.path("audio")), f"line {line.number}")
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
    """Word error rate of utterances: each has one recording, its `text` in `about`, optionally its `speaker`.

    Raises:
        InvalidInput: as `predict_all`, or no text contains a word.
    """
    if not any(normalize(sample.about["text"]) for sample in utterances):
        raise InvalidInput("text", "no text contains a word to compare with")
    transcribe = transcribe_by_whisper if whisper_decoder else transcribe_by_language_model
    # The kind is part of the keys of stored predictions.
    kind = "hear_by_whisper" if whisper_decoder else "hear_by_language_model"
    rows = predict_all(
        utterances, subject, folder, _score, predict=_predictor(transcribe), kind=kind, progress=progress
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


def transcribe_by_language_model(subject: Subject, audio: AudioSource, name: str) -> str:
    """The transcript by the language model, clip by clip, so that a recording may exceed the context."""
    samples = _named_samples(audio, name)
    if len(samples) <= CLIP_SECONDS * SAMPLE_RATE:
        return _repeat(subject, audio, len(samples), name)
    clips = split_clips(torch.from_numpy(samples))
    texts = []
    for clip in clips:
        part = GeneratedAudio(f"{audio.key} clip {clip.index}", clip.samples.numpy)
        texts.append(_repeat(subject, part, len(clip.samples), name))
    return " ".join(texts)


def transcribe_by_whisper(subject: Subject, audio: AudioSource, name: str) -> str:
    """The transcript by Whisper's own decoder."""
    return subject.transcribe(audio, name)


def counts(errors: WordErrors) -> dict[str, int]:
    """Words and edits, as in results."""
    return {
        "words": errors.words,
        "substitutions": errors.substitutions,
        "deletions": errors.deletions,
        "insertions": errors.insertions,
    }


def _repeat(subject: Subject, audio: AudioSource, samples: int, name: str) -> str:
    max_tokens = EXTRA_TOKENS + math.ceil(TOKENS_PER_SECOND * samples / SAMPLE_RATE)
    return subject.answer(Question(name=name, text=REPEAT_INSTRUCTION, audio=(audio,), max_tokens=max_tokens)).text


def _named_samples(audio: AudioSource, name: str) -> Any:
    try:
        return audio.samples()
    except InvalidInput as error:
        raise InvalidInput(f"{name}, {error.field}", error.message) from error


def _predictor(transcribe: Transcribe) -> Predict:
    def predict(subject: Subject, sample: Sample) -> Row:
        return {"prediction": transcribe(subject, sample.question.audio[0], sample.question.name)}

    return one_by_one(predict)


def _score(row: Row) -> dict[str, Any]:
    return {"errors": counts(word_errors(row["text"], row["prediction"]))}


def _sum(rows: Sequence[Row]) -> WordErrors:
    return sum((WordErrors(**row["errors"]) for row in rows), WordErrors())


def _decoder(whisper: bool) -> str:
    return "whisper" if whisper else "language_model"
