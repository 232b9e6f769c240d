"""Word error rate of what a preset hears: through its language model, or by Whisper's own decoder as the yardstick."""

import math
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from model_core.errors import InvalidInput
from model_core.evaluation.answering import answer, read_audio, speech_parts
from model_core.evaluation.manifest import Progress, Result, prediction_writer, read_manifest
from model_core.evaluation.metrics import WordErrors, normalize, word_errors
from model_core.language.prompt import REPEAT_INSTRUCTION
from model_core.presets import build_language_model, build_speech_encoder
from model_core.speech.audio import SAMPLE_RATE, split_clips

# Fast speech is about five tokens a second: enough for any, and an answer that runs away ends.
TOKENS_A_SECOND, SPARE_TOKENS = 10, 16

Hear = Callable[[Tensor, str], str]


def evaluate_wer(
    manifest: Path,
    preset: str,
    *,
    home: Path | None = None,
    checkpoint: Path | None = None,
    whisper_decoder: bool = False,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Word error rate over all words of a manifest's texts, after Whisper's normalisation.

    Args:
        manifest: Lines `{"audio": path, "text": reference}`.
        preset: Whose models are built, in this process.
        home: Where its weights are; None for the default.
        checkpoint: Folder that presets of the published method run; None for the others.
        whisper_decoder: Let Whisper's own decoder write down what it hears, instead of the language model.
        out: File that gets every line with its prediction and its own errors.
        progress: Called with lines done and lines in all.

    Raises:
        InvalidInput: the manifest or a file of it, naming the line; UnknownPreset; WeightsMissing.
    """
    lines = read_manifest(manifest, texts=("text",), files=("audio",))
    if not any(normalize(line.text("text")) for line in lines):
        raise InvalidInput("manifest", "no text holds a word to compare with")
    hear = (_by_whisper if whisper_decoder else _by_language_model)(preset, home, checkpoint)
    total = WordErrors()
    with prediction_writer(out, manifest) as write:
        for done, line in enumerate(lines):
            if progress:
                progress(done, len(lines))
            field = line.field("audio")
            prediction = hear(read_audio(line.path("audio"), field), field)
            errors = word_errors(line.text("text"), prediction)
            total += errors
            write(line, {"prediction": prediction, "errors": _counts(errors)})
    if progress:
        progress(len(lines), len(lines))
    details = {"decoder": "whisper" if whisper_decoder else "language_model", **_counts(total)}
    return Result(metric="wer", value=round(total.rate, 4), count=len(lines), preset=preset, details=details)


def _by_language_model(preset: str, home: Path | None, checkpoint: Path | None) -> Hear:
    encoder = build_speech_encoder(preset, home, checkpoint=checkpoint)
    model = build_language_model(preset, home, checkpoint=checkpoint)

    def hear_clip(samples: Tensor, field: str) -> str:
        most = SPARE_TOKENS + math.ceil(TOKENS_A_SECOND * samples.shape[0] / SAMPLE_RATE)
        return answer(model, [*speech_parts(encoder, samples), REPEAT_INSTRUCTION], max_tokens=most, field=field)

    def hear(samples: Tensor, field: str) -> str:
        # One clip a question: so a recording may be longer than the context.
        return " ".join(hear_clip(clip.samples, field) for clip in split_clips(samples))

    return hear


def _by_whisper(preset: str, home: Path | None, checkpoint: Path | None) -> Hear:
    transcriber = build_speech_encoder(preset, home, checkpoint=checkpoint).transcriber

    def hear(samples: Tensor, field: str) -> str:
        return " ".join(segment.text for segment in transcriber.transcribe(split_clips(samples)))

    return hear


def _counts(errors: WordErrors) -> dict[str, int]:
    return {
        "words": errors.words,
        "substitutions": errors.substitutions,
        "deletions": errors.deletions,
        "insertions": errors.insertions,
    }
