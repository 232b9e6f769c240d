"""Training on preset tiny: stages learn, resume exactly, and read their samples as inference does."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from model_core.language.prompt import Message, Role, SpeechPart, render, splice
from model_core.presets import build_language_model, tiny
from model_core.training import corpus
from model_core.training.align import PictureAlignment, SpeechAlignment
from model_core.training.instruct import Instruction, Sample
from model_core.training.loop import Schedule, batches_of, train
from model_core.training.recordings import Recording, Utterance, load_recordings, record
from model_core.training.speakers import disturb
from model_core.training.written_answers import written_answers

SCHEDULE = Schedule(steps=60, learning_rate=2e-2, warmup=3, save_every=20, log_every=10)


def recordings(count: int) -> list[Recording]:
    """Words whose letters are frames that differ from letter to letter."""
    alphabet = torch.randn(26, 8, generator=torch.Generator().manual_seed(0))
    rng = random.Random(0)
    made = []
    for seed in range(count):
        word = "".join(rng.choice("abcdef") for _ in range(4))
        frames = torch.stack([alphabet[ord(letter) - 97] for letter in word]).repeat_interleave(8, 0)
        made.append(Recording(Utterance(word, "nobody", seed), frames.half()))
    return made


def test_alignment_learns_to_hear(tmp_path: Path) -> None:
    model = build_language_model("tiny")
    alignment = SpeechAlignment(
        tiny.SPEECH_ENCODER.projector.build(), model.decoder.embed_tokens.weight.detach(), model.tokenizer,
        recordings(64), batch=16,
    )  # fmt: skip
    before = alignment.loss(0).item()
    train("align", alignment.modules, alignment.loss, SCHEDULE, tmp_path)
    assert alignment.loss(0).item() < before / 2
    assert (tmp_path / "align.jsonl").read_text().count("\n") == 6


def test_picture_alignment_learns_the_words_of_a_picture(tmp_path: Path) -> None:
    model = build_language_model("tiny")
    pictures = [(torch.randn(16, 4, 4), word) for word in ("a", "b", "ab", "c") * 4]
    alignment = PictureAlignment(
        tiny.VISION_ENCODER.projector.build(), model.decoder.embed_tokens.weight.detach(), model.tokenizer, pictures, 8
    )
    before = alignment.loss(0).item()
    train("pictures", alignment.modules, alignment.loss, SCHEDULE, tmp_path)
    assert alignment.loss(0).item() < before / 2


def instruction() -> Instruction:
    torch.manual_seed(0)
    samples = [
        Sample(frames=recording.frames, text="say it", answer=recording.utterance.text[:1])
        for recording in recordings(16)
    ]
    model = build_language_model("tiny")
    return Instruction(model, "speech", samples, tiny.SPEECH_ENCODER.projector.build(), None, batch=4)


def test_only_the_adapter_and_the_projector_learn() -> None:
    stage = instruction()
    learning = {name for name, parameter in stage.modules.named_parameters() if parameter.requires_grad}
    assert learning
    assert all(".adapters.speech." in name or name.startswith("speech_projector.") for name in learning)


def test_a_batch_costs_what_its_samples_cost_alone() -> None:
    stage = instruction()
    samples = [
        Sample(frames=torch.randn(8, 8), text="x", answer="ab"),
        Sample(text="longer text without speech", answer="cdefg"),
    ]
    alone = [stage.batch_loss([sample]).item() for sample in samples]
    tokens = [3, 6]  # with the end token
    weighted = sum(loss * count for loss, count in zip(alone, tokens, strict=True)) / sum(tokens)
    assert stage.batch_loss(samples).item() == pytest.approx(weighted, rel=1e-4)


def test_training_asks_as_inference_does() -> None:
    stage = instruction()
    model = stage.language_model
    sample = Sample(frames=torch.randn(16, 8), text="hello", answer="x")
    assert stage.speech_projector is not None
    tokens = stage.speech_projector(sample.frames[None]).detach()[0]  # type: ignore[index]
    messages = [Message(Role.USER, ["hello", SpeechPart(tokens)])]
    asked = splice(render(messages), model.tokenizer, model.decoder.embed_tokens).embeds
    torch.testing.assert_close(stage.prompts([sample])[0], asked)


class Interrupted(Exception):
    pass


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    def run(folder: Path, interrupt_at: int | None) -> dict[str, Tensor]:
        stage = instruction()

        def loss(step: int) -> Tensor:
            if step == interrupt_at:
                raise Interrupted
            return stage.loss(step)

        schedule = Schedule(steps=12, learning_rate=1e-2, save_every=4, log_every=1)
        train("stage", stage.modules, loss, schedule, folder)
        return {name: p.detach().clone() for name, p in stage.modules.named_parameters() if p.requires_grad}

    undisturbed = run(tmp_path / "a", None)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", 6)
    resumed = run(tmp_path / "b", None)
    for name, weights in undisturbed.items():
        assert torch.equal(resumed[name], weights), name


@given(st.integers(1, 80), st.integers(1, 9), st.booleans())
def test_an_epoch_holds_every_sample_at_most_once_and_misses_less_than_a_batch(
    count: int, size: int, by_length: bool
) -> None:
    size = min(size, count)
    indices = batches_of(count, size, 0, [index % 7 for index in range(count)] if by_length else None)
    seen = [index for step in range(count // size) for index in indices(step)]
    assert len(seen) == len(set(seen)) == count // size * size


def test_recordings_are_made_once_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken: list[str] = []

    def speak(text: str, *_: object, **__: object) -> object:
        spoken.append(text)
        return torch.zeros(3200).numpy()

    monkeypatch.setattr("model_core.training.recordings.speak", speak)
    utterances = [Utterance(f"text {row}", "nobody", row) for row in range(3)]

    def encode(clips: list[Tensor]) -> list[Tensor]:
        return [torch.full((10, 4), float(len(clips))) for _ in clips]

    for _ in range(2):
        record("some", utterances, tmp_path, encode, None)
    assert spoken == ["text 0", "text 1", "text 2"]
    back = load_recordings("some", tmp_path)
    assert [recording.utterance for recording in back] == utterances
    assert [recording.frames.shape for recording in back] == [(10, 4)] * 3


def test_written_answers_are_kept_between_runs(tmp_path: Path) -> None:
    model = build_language_model("tiny")
    questions = ["one", "two", "three"]
    first = written_answers(model, questions, tmp_path / "answers.json", 8)
    assert set(first) <= set(questions)
    monkey = nn.Module()
    model.decoder.forward = monkey.forward  # type: ignore[method-assign]
    assert written_answers(model, questions, tmp_path / "answers.json", 8) == first


@pytest.mark.parametrize(
    ("said", "tidied"),
    [
        ("im sure thats nice", "I'm sure that's nice."),
        ("how are you?", "How are you?"),
        ("well... ok!!", "Well. ok!"),
        ("u know i like it,", "You know I like it."),
    ],
)
def test_chat_is_tidied_as_a_writer_would(said: str, tidied: str) -> None:
    assert corpus.tidy(said) == tidied


def test_held_out_does_not_depend_on_case_or_punctuation() -> None:
    texts = [f"sentence number {word}" for word in ("one", "two", "three", "four", "five")] * 20
    assert [corpus.is_held_out(t) for t in texts] == [corpus.is_held_out(t.upper() + "!") for t in texts]
    many = [corpus.is_held_out(f"{a} {b} words") for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmnopqrst"]
    assert 2 < sum(many) < 25


def test_noise_never_drowns_the_voice_or_leaves_the_range() -> None:
    voice = torch.sin(torch.arange(8000) / 5).numpy()
    for seed in range(20):
        heard = disturb(voice, random.Random(seed))
        assert heard.shape == voice.shape
        assert abs(heard).max() <= 1
        assert abs(heard @ voice) / (heard @ heard) ** 0.5 / (voice @ voice) ** 0.5 > 0.9
