"""Questions about pictures, written or spoken: the share that a preset answers as expected."""

from pathlib import Path

from model_core.evaluation.answering import answer, read_audio, speech_parts, vision_part
from model_core.evaluation.manifest import Line, Progress, Result, prediction_writer, read_manifest
from model_core.evaluation.metrics import same_answer
from model_core.language.engine import LanguageModel
from model_core.language.prompt import Part
from model_core.presets import build_language_model, build_speech_encoder, build_vision_encoder
from model_core.speech.encoder import SpeechEncoder
from model_core.vision.encoder import VisionEncoder

MAX_ANSWER_TOKENS = 32


def evaluate_vqa(
    manifest: Path,
    preset: str,
    *,
    home: Path | None = None,
    checkpoint: Path | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Share of answers that match exactly after normalisation, articles aside.

    Args:
        manifest: Lines `{"image": path, "question": text, "answer": text}`, or `"audio": path` for a spoken question.
        preset: Whose models are built, in this process.
        home: Where its weights are; None for the default.
        checkpoint: Folder that presets of the published method run; None for the others.
        out: File that gets every line with its prediction.
        progress: Called with lines done and lines in all.

    Raises:
        InvalidInput: the manifest or a file of it, naming the line; UnknownPreset; WeightsMissing.
    """
    lines = read_manifest(
        manifest, texts=("question", "answer"), files=("image", "audio"), one_of=("question", "audio")
    )
    spoken = sum("audio" in line.values for line in lines)
    vision = build_vision_encoder(preset, home, checkpoint=checkpoint)
    model = build_language_model(preset, home, checkpoint=checkpoint)
    speech = build_speech_encoder(preset, home, checkpoint=checkpoint) if spoken else None
    correct = 0
    with prediction_writer(out, manifest) as write:
        for done, line in enumerate(lines):
            if progress:
                progress(done, len(lines))
            prediction = _ask(line, vision, speech, model)
            match = same_answer(line.text("answer"), prediction)
            correct += match
            write(line, {"prediction": prediction, "correct": match})
    if progress:
        progress(len(lines), len(lines))
    details = {"correct": correct, "written": len(lines) - spoken, "spoken": spoken}
    return Result(metric="vqa", value=round(correct / len(lines), 4), count=len(lines), preset=preset, details=details)


def _ask(line: Line, vision: VisionEncoder, speech: SpeechEncoder | None, model: LanguageModel) -> str:
    parts: list[Part] = [vision_part(vision, line.path("image"), line.field("image"))]
    if speech is not None and "audio" in line.values:
        parts += speech_parts(speech, read_audio(line.path("audio"), line.field("audio")))
        return answer(model, parts, max_tokens=MAX_ANSWER_TOKENS, field=line.field("audio"))
    parts.append(line.text("question"))
    return answer(model, parts, max_tokens=MAX_ANSWER_TOKENS, field=line.field("question"))
