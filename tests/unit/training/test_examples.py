"""Samples are laid out like prompts in inference, and only the answers are labels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, trainers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import ByteLevel

from model_core.data.conversation import Conversation
from model_core.data.rows import LightSample, to_light_sample, to_row
from model_core.errors import InvalidInput
from model_core.language.chat_template import CHATML, render
from model_core.language.messages import Message, Part, SpeechPart, VisionPart
from model_core.language.splicing import lay_out
from model_core.presets.building import byte_tokenizer
from model_core.training.assembly import Models
from model_core.training.examples import IGNORED, Example, ExampleMaker, collate, with_merges
from model_core.training.preset_models import load_models
from tests.training_runs import assistant, instruct_samples, noise, plain_picture, user


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models("tiny", None, None)


def light(conversation: Conversation) -> LightSample:
    return to_light_sample(to_row(conversation))


def example(models: Models, conversation: Conversation) -> Example:
    return models.maker(light(conversation), models.encoders.features(conversation))


def learned(models: Models, made: Example) -> list[str]:
    """Each stretch of labels as text."""
    runs: list[list[int]] = [[]]
    for label in made.labels.tolist():
        if label != IGNORED:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [models.tokenizer.decode(run, skip_special_tokens=False) for run in runs if run]


def test_only_answers_with_their_end_token_are_labels(models: Models) -> None:
    whole, cut = (example(models, conversation) for conversation in instruct_samples(2))
    assert learned(models, whole) == ["hello you<|im_end|>", "hello 0<|im_end|>"]
    assert learned(models, cut) == ["yes<|im_end|>", "hello 1"]  # its last answer is unfinished


def test_a_label_is_the_token_after_its_position(models: Models) -> None:
    made = example(models, instruct_samples(1)[0])
    at = (made.labels != IGNORED).nonzero()[:, 0]
    inside = at[:-1][at[1:] == at[:-1] + 1]
    assert torch.equal(made.labels[inside], made.ids[inside + 1])
    assert len(inside) > 10


def asked(models: Models, conversation: Conversation) -> list[Message]:
    """The conversation up to its last answer, as in a request."""
    features = models.encoders.features(conversation)
    group, width = models.speech.config.projector.group, models.decoder.config.width
    speech = [SpeechPart(torch.zeros(len(clip) // group, width)) for clips in features.clips for clip in clips]
    pictures = [VisionPart(torch.zeros(t * h * w, width), (t, h, w)) for t, h, w in features.grids]
    media: dict[str, list[Part]] = {"<speech>": list(speech), "<image>": list(pictures)}
    messages = []
    for turn in conversation.turns[:-1]:
        lines = [line.strip() for line in turn.text.splitlines()]
        parts = [media[line].pop(0) if line in media else line for line in lines]
        messages.append(Message(turn.role, parts))
    return messages


@pytest.mark.parametrize("turns", [1, 2])
def test_the_prompt_equals_that_of_inference(models: Models, turns: int) -> None:
    conversation = instruct_samples(1)[0]
    if turns == 1:
        conversation = Conversation(
            id="one", turns=conversation.turns[:2], images=conversation.images, speech=conversation.speech
        )
    made = example(models, conversation)
    layout = lay_out(render(asked(models, conversation), models.template), models.tokenizer)
    length = len(layout.ids)
    assert torch.equal(made.ids[:length], layout.ids)
    assert torch.equal(made.positions[:, :length], layout.positions)
    assert torch.equal(made.speech[:length], layout.speech)
    assert torch.equal(made.vision[:length], layout.vision)
    assert made.labels[length - 1] != IGNORED  # the answer starts where inference starts to generate
    last_answer = len(models.tokenizer.encode(conversation.turns[-1].text, add_special_tokens=False).ids)
    assert len(made.ids) == length + last_answer


def test_recordings_of_one_clip_have_their_transcript(models: Models) -> None:
    conversation = Conversation(
        id="x",
        turns=(user("<speech><speech>Repeat."), assistant("ok")),
        speech=(noise(0, 31.0, "long words"), noise(1, 1.0, "short")),
    )
    made = example(models, conversation)
    assert [models.tokenizer.decode(ids.tolist()) for ids in made.transcripts] == ["", "", "short"]


@pytest.fixture(scope="module")
def merging() -> Tokenizer:
    made = byte_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(["wizards and wallets", "the wizard lost his wallet", "he and she"] * 9, trainer)
    return made


@given(text=st.text(st.sampled_from("wizards andhellot é")), count=st.integers(0, 60))
def test_fewer_merges_give_the_same_text_in_known_ids(merging: Tokenizer, text: str, count: int) -> None:
    coarse = with_merges(merging, count)
    ids, pieces = (tokenizer.encode(text).ids for tokenizer in (merging, coarse))
    assert merging.decode(pieces) == merging.decode(ids) == text
    assert len(pieces) >= len(ids)
    assert all(piece < 256 + count for piece in pieces)


def test_only_speech_transcripts_are_split(merging: Tokenizer) -> None:
    maker = ExampleMaker(merging, CHATML, 4, merges=0)
    assert len(maker.encode("wizard")) < len(maker.transcript("wizard")) == len("wizard")


def test_a_tokenizer_without_merges_is_refused() -> None:
    whole_words = Tokenizer(WordLevel({"hello": 0}, unk_token="hello"))
    with pytest.raises(InvalidInput, match="merges: the language model's tokenizer is WordLevel"):
        with_merges(whole_words, 10)


@given(st.permutations(range(4)))
def test_a_batch_contains_its_samples(models: Models, order: list[int]) -> None:
    text = Conversation(id="t", turns=(user("Say yes."), assistant("yes")))
    picture = Conversation(id="p", turns=(user("<image>What?"), assistant("red")), images=(plain_picture(9),))
    made = [example(models, conversation) for conversation in (*instruct_samples(2), text, picture)]
    made = [made[row] for row in order]
    batch = collate(made)
    assert batch["lengths"].tolist() == [len(one.ids) for one in made]
    for row, one in enumerate(made):
        length = len(one.ids)
        for name in ("ids", "labels", "speech", "vision", "instruction"):
            assert torch.equal(batch[name][row, :length], getattr(one, name))
        assert torch.equal(batch["positions"][row, :length].T, one.positions)
        assert (batch["labels"][row, length:] == IGNORED).all()
        assert not batch["speech"][row, length:].any()
    assert batch["frame_lengths"].tolist() == [len(clip) for one in made for clip in one.clips]
    assert len(batch["visual_features"]) == sum(len(values) for one in made for values in one.visual_features)
