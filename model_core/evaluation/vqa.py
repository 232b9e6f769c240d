"""Visual question answering on a manifest, with written or spoken questions."""

from pathlib import Path

from model_core.evaluation.manifest import Line, Progress, Result, prediction_writer, read_manifest
from model_core.evaluation.subject import AudioFile, Question, Subject
from model_core.metrics.word_errors import same_answer

MAX_ANSWER_TOKENS = 32


def evaluate_vqa(
    manifest: Path, subject: Subject, *, out: Path | None = None, progress: Progress | None = None
) -> Result:
    """Share of answers that match exactly after normalisation, ignoring articles.

    Args:
        manifest: Lines `{"image": path, "question": text, "answer": text}`, or `"audio": path` for a spoken question.
        subject: What is evaluated.
        out: File for every line with its prediction.
        progress: Called with the number of lines done and in total.

    Raises:
        InvalidInput: the manifest or one of its files is invalid; the error names the line. WeightsMissing.
    """
    lines = read_manifest(
        manifest, texts=("question", "answer"), files=("image", "audio"), one_of=("question", "audio")
    )
    spoken = sum("audio" in line.values for line in lines)
    correct = 0
    with prediction_writer(out, manifest) as write:
        for done, line in enumerate(lines):
            if progress:
                progress(done, len(lines))
            prediction = subject.answer(question_of(line)).text
            match = same_answer(line.text("answer"), prediction)
            correct += match
            write(line, {"prediction": prediction, "correct": match})
    if progress:
        progress(len(lines), len(lines))
    details = {"correct": correct, "written": len(lines) - spoken, "spoken": spoken}
    value = round(correct / len(lines), 4)
    return Result(metric="vqa", value=value, count=len(lines), subject=subject.tags, details=details)


def question_of(line: Line) -> Question:
    """The question of a line about its image: written, or its recording."""
    spoken = "audio" in line.values
    return Question(
        name=f"line {line.number}",
        text="" if spoken else line.text("question"),
        images=(line.path("image"),),
        audio=(AudioFile(line.path("audio")),) if spoken else (),
        max_tokens=MAX_ANSWER_TOKENS,
    )
