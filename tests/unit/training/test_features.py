"""Encoder features are computed once, and never used for other data."""

from pathlib import Path

import pytest
import torch

from model_core.data.conversation import Conversation
from model_core.data.dataset import ConversationDataset
from model_core.errors import InvalidInput
from model_core.training.features import Encoders, FeatureCache, Features
from model_core.training.preset_models import load_models
from tests.training_runs import assistant, instruct_samples, noise, plain_picture, user, write_data


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return load_models("tiny", None, None).encoders


def assert_equal(one: Features, other: Features) -> None:
    assert one.grids == other.grids
    assert [len(clips) for clips in one.clips] == [len(clips) for clips in other.clips]
    for ours, theirs in zip(
        (*(clip for clips in one.clips for clip in clips), *one.visual_features),
        (*(clip for clips in other.clips for clip in clips), *other.visual_features),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_stored_features_equal_those_of_the_encoders(tmp_path: Path, encoders: Encoders) -> None:
    samples = [
        *instruct_samples(4),
        Conversation(id="text", turns=(user("Say yes."), assistant("yes"))),
        Conversation(  # two recordings, one of them longer than a clip
            id="two",
            turns=(user("<speech><speech>Repeat."), assistant("hello")),
            speech=(noise(1, 31.0), noise(2, 1.0)),
        ),
    ]
    cache = FeatureCache(ConversationDataset(write_data(tmp_path, samples, shard=3)), encoders)
    assert not cache.complete
    cache.fill()
    assert cache.complete
    for index, sample in enumerate(samples):
        assert_equal(cache[index], encoders.features(sample))
    assert [len(clips) for clips in cache[5].clips] == [2, 1]
    assert cache[4] == Features()


def test_a_picture_of_several_samples_is_stored_once(tmp_path: Path, encoders: Encoders) -> None:
    def of_colours(*reds: int) -> int:
        samples = [
            Conversation(id=f"{row}", turns=(user("<image>What?"), assistant("red")), images=(plain_picture(red),))
            for row, red in enumerate(reds)
        ]
        cache = FeatureCache(ConversationDataset(write_data(tmp_path / str(reds), samples)), encoders)
        cache.fill()
        return (cache.folder / "00000.safetensors").stat().st_size

    assert of_colours(1, 1, 1, 1) < of_colours(1, 2, 3, 4) / 2


def test_only_missing_or_outdated_features_are_computed(
    tmp_path: Path, encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    compute = encoders.features

    def counted(conversation: Conversation) -> Features:
        seen.append(conversation.id)
        return compute(conversation)

    monkeypatch.setattr(encoders, "features", counted)
    write_data(tmp_path, instruct_samples(4), shard=2)
    FeatureCache(ConversationDataset(tmp_path), encoders).fill()
    FeatureCache(ConversationDataset(tmp_path), encoders).fill()
    assert seen == ["c0", "c1", "c2", "c3"]
    seen.clear()
    changed = instruct_samples(5)
    write_data(tmp_path, [*changed[:2], changed[4], changed[3]], shard=2)
    cache = FeatureCache(ConversationDataset(tmp_path), encoders)
    cache.fill()
    assert seen == ["c4", "c3"]
    assert_equal(cache[2], compute(changed[4]))


def test_a_partly_written_file_is_ignored(tmp_path: Path, encoders: Encoders) -> None:
    cache = FeatureCache(ConversationDataset(write_data(tmp_path, instruct_samples(3))), encoders)
    cache.folder.mkdir(parents=True)
    (cache.folder / ".00000.safetensors.partial-1").write_bytes(b"half")
    assert not cache.complete
    cache.fill()
    assert cache[2].clips


def test_each_of_several_processes_computes_its_share(tmp_path: Path, encoders: Encoders) -> None:
    cache = FeatureCache(ConversationDataset(write_data(tmp_path, instruct_samples(6), shard=2)), encoders)
    cache.fill(rank=1, world=2)
    assert [path.name for path in cache.folder.iterdir()] == ["00001.safetensors"]
    cache.fill(rank=0, world=2)
    assert cache.complete


def test_undecodable_media_are_named(tmp_path: Path, encoders: Encoders) -> None:
    broken = Conversation(id="bad", turns=(user("<image>What?"), assistant("red")), images=(b"\x89PNG nothing",))
    cache = FeatureCache(ConversationDataset(write_data(tmp_path, [*instruct_samples(1), broken])), encoders)
    with pytest.raises(InvalidInput, match=r"sample bad, images\[0\]"):
        cache.fill()
    assert not cache.complete
