"""Questions about pictures, written or spoken: the share that a subject answers as expected."""

from pathlib import Path

from model_core.evaluation.manifest import Line, Progress, Result, prediction_writer, read_manifest
from model_core.evaluation.subject import Ask, SoundFile, Subject
from model_core.metrics.word_errors import same_answer

MAX_ANSWER_TOKENS = 32


def evaluate_vqa(
    manifest: Path, subject: Subject, *, out: Path | None = None, progress: Progress | None = None
) -> Result:
    """Share of answers that match exactly after normalisation, articles aside.

    Args:
        manifest: Lines `{"image": path, "question": text, "answer": text}`, or `"audio": path` for a spoken question.
        subject: Who is asked.
        out: File that gets every line with its prediction.
        progress: Called with lines done and lines in all.

    Raises:
        InvalidInput: the manifest or a file of it, naming the line; WeightsMissing.
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
            prediction = subject.answer(question(line)).text
            match = same_answer(line.text("answer"), prediction)
            correct += match
            write(line, {"prediction": prediction, "correct": match})
    if progress:
        progress(len(lines), len(lines))
    details = {"correct": correct, "written": len(lines) - spoken, "spoken": spoken}
    value = round(correct / len(lines), 4)
    return Result(metric="vqa", value=value, count=len(lines), subject=subject.tags, details=details)


def question(line: Line) -> Ask:
    """What a line asks: written, or in its recording, about its picture."""
    spoken = "audio" in line.values
    return Ask(
        name=f"line {line.number}",
        text="" if spoken else line.text("question"),
        images=(line.path("image"),),
        sounds=(SoundFile(line.path("audio")),) if spoken else (),
        max_tokens=MAX_ANSWER_TOKENS,
    )
