"""LibriSpeech as published: `SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac` beside `SPEAKER-CHAPTER.trans.txt`."""

from pathlib import Path

from model_core.errors import InvalidInput
from model_core.evaluation.predictions import Sample
from model_core.evaluation.subject import AudioFile, Question


def load_librispeech(folder: Path) -> list[Sample]:
    """Every utterance of a split (such as `test-clean`), or of any folder that contains some, sorted by name.

    Raises:
        InvalidInput: there is no transcript, a line of one is invalid, a recording is missing or not in a transcript.
    """
    if not folder.is_dir():
        raise InvalidInput("folder", f"{folder} is not a folder")
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if not transcripts:
        raise InvalidInput("folder", f"{folder} contains no SPEAKER/CHAPTER/*.trans.txt")
    return [sample for transcript in transcripts for sample in _chapter(transcript)]


def _chapter(transcript: Path) -> list[Sample]:
    samples = []
    for number, line in enumerate(transcript.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, text = line.strip().partition(" ")
        field = f"{transcript.name}, line {number}"
        if not text.strip():
            raise InvalidInput(field, "is not `UTTERANCE WORDS`")
        recording = transcript.parent / f"{name}.flac"
        if not recording.is_file():
            raise InvalidInput(field, f"{recording} does not exist")
        about = {"text": text.strip(), "speaker": transcript.parent.parent.name}
        samples.append(Sample(id=name, question=Question(name=name, audio=(AudioFile(recording),)), about=about))
    if lost := sorted({path.stem for path in transcript.parent.glob("*.flac")} - {sample.id for sample in samples}):
        raise InvalidInput(transcript.name, f"has no line for {lost[0]}.flac")
    return samples
