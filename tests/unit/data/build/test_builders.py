"""Data sets of each kind, read by the Piper voice, which needs no program besides packages."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from model_core.data.build.align import AlignSpec
from model_core.data.build.instruct import InstructSpec
from model_core.data.build.long_source import TaskOptions
from model_core.data.build.long_speech import LongSpeechSpec
from model_core.data.build.sources import Source
from model_core.data.build.synthesis import Style
from model_core.data.build.tasks import Weights
from model_core.data.build.work import Spec, build
from model_core.data.conversation import Conversation
from model_core.data.dataset import ConversationDataset
from model_core.data.media import Limits, check_media
from model_core.errors import InvalidInput
from model_core.presets import lyra_home
from tests.unit.data.samples import encoded, picture, voice

JOE = Style(voices=(("joe", 1.0),))
SENTENCES = ("It is late.", "We went home.", "He saw a dog.", "Birds can fly.", "She sings well.", "Rain fell all day.")


def built(spec: Spec, folder: Path, workers: int = 1) -> list[Conversation]:
    build(spec, folder, home=lyra_home(), workers=workers)
    conversations = list(ConversationDataset(folder))
    for conversation in conversations:
        check_media(conversation, Limits())
    return conversations


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def lines_file(folder: Path, name: str, *lines: str) -> Source:
    (folder / name).write_text("\n".join(lines) + "\n")
    return Source.parse(str(folder / name))


def align(tmp_path: Path, **fields: Any) -> AlignSpec:
    values = {"sources": (lines_file(tmp_path, "mine.txt", *SENTENCES),), "style": JOE, "shard_samples": 3}
    return AlignSpec(name="a", **{**values, **fields})


def instruct(tmp_path: Path, **fields: Any) -> InstructSpec:
    values = {"sources": (published(tmp_path),), "style": JOE, "answers_by": "tiny", "answer_tokens": 5}
    return InstructSpec(name="i", **{**values, **fields})


def long_speech(tmp_path: Path, tasks: str = "after", **fields: Any) -> LongSpeechSpec:
    values: dict[str, Any] = {
        "sources": (lines_file(tmp_path, "mine.txt", *SENTENCES),),
        "style": JOE,
        "asking": TaskOptions(weights=Weights.parse(tasks), answers_by="tiny", answer_tokens=8),
        "recordings": 4,
        "readings": 6,
        "shortest": 4.0,
        "longest": 12.0,
        "shard_samples": 2,
    }
    return LongSpeechSpec(name="l", **{**values, **fields})


def published(folder: Path) -> Source:
    """Text-image instruction data as LLaVA publishes it, some of it bad."""
    (folder / "red.png").write_bytes(picture(0))
    (folder / "said.flac").write_bytes(encoded(voice(0)))
    dialogue = [("human", "<image>\nWhat colour is it?"), ("gpt", "Red."), ("human", "Are you sure?"), ("gpt", "Yes.")]
    spoken = [("human", "<speech>\nAnswer what I asked about this.\n<image>"), ("gpt", "It is red.")]
    rows: list[dict[str, Any]] = [
        {"id": "two turns", "image": "red.png", "conversations": dialogue},
        {"id": "same", "image": "red.png", "conversations": [("human", "<image>\n" + "very " * 70), ("gpt", "Long.")]},
        {"id": "same", "image": "red.png", "speech": "said.flac", "speech_asr": "What?", "conversations": spoken},
        {"id": "formula", "conversations": [("human", "What is $x^2$ for x = {2}?"), ("gpt", "Four.")]},
        {"id": "gone", "image": "gone.png", "conversations": dialogue[:2]},
        {"id": "unanswered", "image": "red.png", "conversations": dialogue[:1]},
    ]
    for row in rows:
        row["conversations"] = [{"from": who, "value": text} for who, text in row["conversations"]]
    path = folder / "published.json"
    path.write_text(json.dumps(rows))
    return Source.parse(str(path))


@pytest.mark.parametrize("spec", [align, instruct, long_speech])
def test_every_kind_builds_reproducibly_and_with_two_workers(spec: Callable[[Path], Spec], tmp_path: Path) -> None:
    built(spec(tmp_path), tmp_path / "once")
    built(spec(tmp_path), tmp_path / "again", workers=2)
    assert contents(tmp_path / "once") == contents(tmp_path / "again")


def test_another_seed_gives_other_readings(tmp_path: Path) -> None:
    first = built(align(tmp_path), tmp_path / "a")
    second = built(align(tmp_path, seed=1), tmp_path / "b")
    assert {c.id for c in first} == {c.id for c in second}
    assert {c.speech[0].data for c in first}.isdisjoint(c.speech[0].data for c in second)


def test_the_answer_to_an_aligned_recording_is_its_transcript(tmp_path: Path) -> None:
    conversations = built(align(tmp_path), tmp_path / "a")
    assert sorted(c.answers[0] for c in conversations) == sorted(SENTENCES)
    for conversation in conversations:
        (speech,) = conversation.speech
        assert conversation.turns[0].text.startswith("<speech>\n")
        assert speech.transcript == conversation.answers[0]
        assert speech.voice == "joe"
        assert soundfile.info(io.BytesIO(speech.data)).samplerate == 16_000


def test_sentences_are_read_again_differently_if_more_samples_are_requested(tmp_path: Path) -> None:
    source = Source.parse(f"{lines_file(tmp_path, 'one.txt', 'It is late.').path}:2")
    first, second = built(align(tmp_path, sources=(source,)), tmp_path / "a")
    assert first.answers == second.answers
    assert first.speech[0].data != second.speech[0].data


def test_supplied_clips_are_kept_unchanged_and_missing_ones_counted(tmp_path: Path) -> None:
    data = encoded(voice(0), "WAV")
    (tmp_path / "here.wav").write_bytes(data)
    rows = [json.dumps({"audio": f"{name}.wav", "text": f"The {name} one."}) for name in ("here", "gone")]
    spec = align(tmp_path, sources=(lines_file(tmp_path, "clips.jsonl", *rows),))
    (conversation,) = built(spec, tmp_path / "a")
    assert conversation.speech[0].data == data
    assert conversation.answers == ("The here one.",)
    manifest = build(spec, tmp_path / "a", home=lyra_home())
    assert manifest.dropped == {"missing-file": 1}
    assert "gone.wav" in (tmp_path / "a" / "dropped" / "00000.jsonl").read_text()


def test_published_instructions_are_turned_into_speech(tmp_path: Path) -> None:
    made = {c.id: c for c in built(instruct(tmp_path), tmp_path / "i")}
    two = made["two turns"]
    assert [turn.text for turn in two.turns] == ["<image>\n<speech>", "Red.", "<speech>", "Yes."]
    assert [speech.transcript for speech in two.speech] == ["What colour is it?", "Are you sure?"]
    mixed = made["same#2"]
    assert mixed.turns[0].text == "<speech>\n<speech>\n<image>"
    assert [speech.transcript for speech in mixed.speech] == ["What?", "Answer what I asked about this."]
    assert not made["same"].speech, "a turn over the limit of words stays written"
    assert not made["formula"].speech, "no voice reads a formula"
    manifest = build(instruct(tmp_path), tmp_path / "i", home=lyra_home())
    assert manifest.dropped == {"missing-file": 1, "no-answer": 1}


def test_a_share_of_the_user_turns_is_spoken(tmp_path: Path) -> None:
    questions = lines_file(tmp_path, "questions.txt", *(f"What is {word}?" for word in "abcdefgh"))
    written = built(instruct(tmp_path, sources=(questions,), spoken_share=0.0), tmp_path / "written")
    mixed = built(instruct(tmp_path, sources=(questions,), spoken_share=0.5), tmp_path / "mixed")
    assert not any(c.speech for c in written)
    assert 0 < sum(bool(c.speech) for c in mixed) < 8
    assert {c.answers for c in written} == {c.answers for c in mixed}


def test_unanswered_questions_are_answered_by_the_language_model(tmp_path: Path) -> None:
    questions = lines_file(tmp_path, "questions.txt", "What is late?", "Who is it?")
    made = built(instruct(tmp_path, sources=(questions,)), tmp_path / "i")
    assert {c.speech[0].transcript for c in made} == {"What is late?", "Who is it?"}
    assert all(c.turns[0].text == "<speech>" for c in made)
    assert not all(c.ended for c in made), "five tokens are the beginning of what the model says"


def test_concatenated_recordings_have_pauses_between_sentences(tmp_path: Path) -> None:
    made = built(long_speech(tmp_path, "transcribe"), tmp_path / "l")
    assert len(made) == 4
    for conversation in made:
        (speech,) = conversation.speech
        assert 3 <= speech.seconds <= 12
        assert conversation.answers == (speech.transcript,)
        said = [sentence for sentence in SENTENCES if sentence in speech.transcript]
        assert len(" ".join(said)) == len(speech.transcript), "each sentence once"


def test_a_needle_is_at_its_recorded_depth(tmp_path: Path) -> None:
    made = built(long_speech(tmp_path, "needle", recordings=6), tmp_path / "l")
    for conversation in made:
        (speech,) = conversation.speech
        before, needle, _ = speech.transcript.partition(conversation.answers[0])
        assert needle, conversation.source
        depth = float(conversation.source.split(" depth ")[1].split()[0])
        assert depth == pytest.approx(len(before) / len(speech.transcript), abs=0.25)
    assert len({conversation.source for conversation in made}) > 1


def test_a_needle_is_inserted_into_a_pause_of_a_supplied_recording(tmp_path: Path) -> None:
    silence = np.zeros(16_000, np.float32)
    (tmp_path / "talk.flac").write_bytes(encoded(np.concatenate((voice(1, 3), silence, voice(2, 3)))))
    row = json.dumps({"audio": "talk.flac", "text": "One is said. Two is said. Three is said. Four is said."})
    source = lines_file(tmp_path, "talks.jsonl", row)
    made = built(long_speech(tmp_path, "needle", sources=(Source.parse(f"{source.path}:5"),)), tmp_path / "l")
    for conversation in made:
        assert conversation.speech[0].seconds > 8
        assert conversation.answers[0] in conversation.speech[0].transcript
    depths = [float(c.source.split(" depth ")[1].split()[0]) * c.speech[0].seconds for c in made]
    assert any(3.0 <= at <= 4.0 for at in depths)


def test_a_language_model_writes_questions_and_summaries_if_configured(tmp_path: Path) -> None:
    spec = long_speech(tmp_path, "summary")
    made = built(spec, tmp_path / "l")
    assert made
    assert all("recording" in c.turns[0].text for c in made)
    nonsense = build(long_speech(tmp_path, "question"), tmp_path / "q", home=lyra_home())
    assert nonsense.dropped.get("no-question", 0) + nonsense.samples == 4


def test_a_recording_with_too_few_sentences_is_counted(tmp_path: Path) -> None:
    (tmp_path / "talk.flac").write_bytes(encoded(voice(1, 3)))
    source = lines_file(tmp_path, "talks.jsonl", json.dumps({"audio": "talk.flac", "text": "Only this."}))
    manifest = build(long_speech(tmp_path, "after", sources=(source,)), tmp_path / "l", home=lyra_home())
    assert manifest.dropped == {"too-short": 1}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"shortest": 30.0, "longest": 20.0}, "no range"),
        ({"sources": (Source(name="nonsense"),)}, "nonsense"),
        ({"style": Style(voices=(("nobody", 1.0),))}, "nobody"),
    ],
)
def test_a_spec_that_cannot_be_built_is_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        build(long_speech(tmp_path, **fields), tmp_path / "l", home=lyra_home())
