"""Reading: any sample by index, or all as a stream that can resume anywhere."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_core.data.conversation import Conversation
from model_core.data.data_errors import DataError
from model_core.data.dataset import ConversationDataset, stream
from model_core.data.shards import shard_path
from tests.unit.data.samples import seen, speech, spoken, write_folder

SIZES = (7, 0, 3, 12, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of several sizes, whose row groups hold four samples at most."""
    first = 0
    shards = []
    for size in SIZES:
        shards.append([seen(number) for number in range(first, first + size)])
        first += size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model_core.data.shards.GROUP_SAMPLES", 4)
        return write_folder(tmp_path_factory.mktemp("data"), *shards)


def ids(samples: list[Conversation]) -> list[str]:
    return [sample.id for sample in samples]


ALL = [f"seen-{number}" for number in range(sum(SIZES))]


def test_every_sample_can_be_read_by_index_in_any_order(folder: Path) -> None:
    dataset = ConversationDataset(folder)
    assert len(dataset) == len(ALL)
    assert [dataset[index].id for index in reversed(range(len(ALL)))] == list(reversed(ALL))
    assert ids(list(dataset)) == ALL
    with pytest.raises(IndexError, match="23 of 23"):
        dataset[23]
    with pytest.raises(IndexError):
        dataset[-1]


def test_light_samples_have_everything_but_the_media(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [spoken(1, units=((4, 5, 5),), ended=False), seen(2)])
    heard, shown = ConversationDataset(folder).light()
    whole = spoken(1)
    assert (heard.id, heard.turns, heard.source, heard.ended) == (whole.id, whole.turns, "test", False)
    assert (heard.seconds, heard.voices, heard.unit_counts) == ((1.0,), ("slt",), (3,))
    assert heard.transcripts == (whole.speech[0].transcript,)
    assert (heard.images, shown.images, shown.videos, shown.seconds) == (0, 1, 0, ())
    assert (heard.modality, shown.modality) == ("speech", "image")
    assert shown.answers == seen(2).answers


def test_light_samples_are_read_without_the_media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path, [spoken(1), seen(2)])
    asked: list[list[str]] = []
    read: Callable[..., object] = pq.ParquetFile.read_row_group

    def remember(self: object, group: int, columns: list[str], **options: object) -> object:
        asked.append(columns)
        return read(self, group, columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", remember)
    ConversationDataset(folder).light()
    assert asked
    assert not any("data" in name or name.startswith(("images", "videos")) for columns in asked for name in columns)


def test_estimated_lengths_grow_with_audio_and_pictures(tmp_path: Path) -> None:
    longer = spoken(1, id="long", speech=(speech(1, 3.0, transcript="x"),))
    folder = write_folder(tmp_path, [spoken(1), longer, seen(2)])
    short, long, shown = ConversationDataset(folder).rough_lengths(5)
    assert long - short == 20  # 2 s of 50 frames, five to a token
    assert ConversationDataset(folder).rough_lengths(5, image_tokens=149) == [short, long, shown + 100]


def test_a_stream_without_a_buffer_keeps_the_order(folder: Path) -> None:
    assert ids(list(stream(folder, seed=1, shuffle_buffer=0))) == ALL


def test_a_shuffled_stream_has_every_sample_once_and_epochs_differ(folder: Path) -> None:
    first, second = (ids(list(stream(folder, seed=1, shuffle_buffer=8, epoch=epoch))) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == sorted(ALL)
    assert first != second != ALL != first
    assert ids(list(stream(folder, seed=1, shuffle_buffer=8))) == first
    assert ids(list(stream(folder, seed=2, shuffle_buffer=8))) != first


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    world=st.integers(1, 6),
    buffer=st.integers(0, 30),
    skip=st.integers(0, 30),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 2),
)
def test_ranks_share_the_samples_equally_and_skipping_resumes_a_stream(
    folder: Path, world: int, buffer: int, skip: int, seed: int, epoch: int
) -> None:
    def part(rank: int, skip: int = 0) -> list[str]:
        return ids(
            list(stream(folder, seed=seed, shuffle_buffer=buffer, rank=rank, world=world, epoch=epoch, skip=skip))
        )

    parts = [part(rank) for rank in range(world)]
    assert [len(each) for each in parts] == [len(ALL) // world] * world
    together = [name for each in parts for name in each]
    assert len(set(together)) == len(together)
    assert part(world - 1, skip) == parts[-1][skip:]


def test_skipped_row_groups_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def remember(self: object, group: int, *args: object, **options: object) -> object:
        read.append(group)
        return original(self, group, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", remember)
    assert len(list(stream(folder, seed=1, shuffle_buffer=4, skip=len(ALL) - 1))) == 1
    assert len(read) <= 2


def test_a_rank_outside_the_world_size_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="rank 2 of 2"):
        next(stream(folder, seed=1, shuffle_buffer=0, rank=2, world=2))


def test_a_shard_deleted_after_opening_is_named(tmp_path: Path) -> None:
    dataset = ConversationDataset(write_folder(tmp_path, [seen(0)]))
    shard_path(tmp_path, 0).unlink()
    with pytest.raises(DataError, match=r"00000\.parquet: is missing"):
        dataset[0]
