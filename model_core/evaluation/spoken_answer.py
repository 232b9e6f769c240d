"""Spoken answers: intelligibility (WER of Whisper's transcript), real-time factor, and latency of the first audio."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import soundfile

from model_core.evaluation.manifest import Progress, Result
from model_core.evaluation.predictions import Row, Sample, one_by_one, predict_all, reply_row
from model_core.evaluation.report import Report, Table
from model_core.evaluation.subject import GeneratedAudio, Question, SpokenAnswer, Subject
from model_core.evaluation.wer import counts
from model_core.metrics.word_errors import WordErrors, normalize, word_errors

MAX_ANSWER_TOKENS = 60


def spoken_answer_report(
    prompts: Sequence[tuple[str, str]],
    subject: Subject,
    folder: Path | None,
    *,
    voice: str = "",
    max_tokens: int = MAX_ANSWER_TOKENS,
    progress: Progress | None = None,
) -> Report:
    """Word error rate of Whisper's transcript of the answers against their text; real-time factor; first-audio latency.

    The real-time factor is the voice's own compute time over the duration of the audio. A gateway does not report that
    time, so there it is the time from the first token to the end, as `real_time_factor_of` says.

    Args:
        prompts: Names and texts of written questions.
        subject: What is evaluated; its Whisper transcribes the answers.
        folder: Folder of predictions and of the answers' audio (`audio/`); None stores none.
        voice: Name of the voice; empty for the default.
        max_tokens: Maximum tokens of an answer.
        progress: Called with the number of answers so far and in total.
    """
    samples = [
        Sample(
            id=name,
            question=Question(name=name, text=text, max_tokens=max_tokens, speak=True, voice=voice),
            about={"question": text},
        )
        for name, text in prompts
    ]
    predict = _predictor(folder / "audio" if folder else None)
    rows = predict_all(samples, subject, folder, _score, predict=one_by_one(predict), kind="spoken", progress=progress)
    spoken = [row for row in rows if row["errors"]]
    total = sum((WordErrors(**row["errors"]) for row in spoken), WordErrors())
    wer = round(total.rate, 4) if total.words else 1.0
    details = {"voice": voice or "default", "silent": len(rows) - len(spoken), **counts(total), **_times(rows)}
    result = Result(metric="spoken_answer_wer", value=wer, count=len(rows), subject=subject.tags, details=details)
    figures = tuple((name, value) for name, value in _times(rows).items())
    return Report(result=result, tables=(Table(title="Times", headings=("figure", "value"), rows=figures),))


def _predictor(audio_folder: Path | None) -> Callable[[Subject, Sample], Row]:
    def predict(subject: Subject, sample: Sample) -> Row:
        reply = subject.answer(sample.question)
        spoken = reply.spoken
        assert spoken is not None  # it was asked for
        transcript = ""
        if spoken.seconds:
            if audio_folder:
                audio_folder.mkdir(parents=True, exist_ok=True)
                path = audio_folder / f"{sample.id.replace(' ', '-')}.flac"
                soundfile.write(path, spoken.samples, spoken.sample_rate)
            audio = GeneratedAudio(f"answer to {sample.id}", spoken.at_16_khz)
            transcript = subject.transcribe(audio, sample.question.name)
        return reply_row(reply) | {"heard": transcript, **_spoken_times(spoken)}

    return predict


def _spoken_times(spoken: SpokenAnswer) -> dict[str, Any]:
    return {
        "audio_seconds": round(spoken.seconds, 4),
        "own_seconds": spoken.own_seconds,
        "first_audio_seconds": spoken.first_audio_seconds,
        "first_audio_tokens": spoken.first_audio_tokens,
        "own_first_seconds": spoken.own_first_seconds,
    }


def _score(row: Row) -> dict[str, Any]:
    if not normalize(row["prediction"]):
        return {"errors": None}
    return {"errors": counts(word_errors(row["prediction"], row["heard"]))}


def _times(rows: Sequence[Row]) -> dict[str, Any]:
    spoken = [row for row in rows if row["audio_seconds"]]
    if not spoken:
        return {}
    own = all(row["own_seconds"] is not None for row in spoken)
    work = sum(row["own_seconds"] if own else row["seconds"] - (row["first_token_seconds"] or 0.0) for row in spoken)
    tokens = [row["first_audio_tokens"] for row in spoken]
    first_ms = [1000 * row["own_first_seconds"] for row in spoken] if own else []
    return {
        "audio_seconds": round(sum(row["audio_seconds"] for row in spoken), 2),
        "real_time_factor": round(work / sum(row["audio_seconds"] for row in spoken), 4),
        "real_time_factor_of": "voice" if own else "voice and language model",
        "first_audio_tokens": median(tokens),
        "first_audio_tokens_most": max(tokens),
        "first_audio_ms": round(1000 * median(row["first_audio_seconds"] for row in spoken), 1),
        "first_audio_own_ms": round(median(first_ms), 1) if own else None,
        "first_audio_own_ms_most": round(max(first_ms), 1) if own else None,
    }
