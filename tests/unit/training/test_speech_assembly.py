"""Stage 4 put together: the method's generator on preset tiny, and what nano's wants."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model_core.data.conversation import Conversation, Turn
from model_core.data.shards import Manifest, write_manifest, write_shard
from model_core.errors import CheckpointError, InvalidInput
from model_core.language.prompt import Role
from model_core.speech.unit_generator import UnitGenerator
from model_core.training.assembly import Models
from model_core.training.dataset import Source
from model_core.training.preset_models import load_models
from model_core.training.speech_assembly import (
    UNIT_GENERATOR_FILE,
    has_units,
    spelled_assembly,
    unit_assembly,
    unit_dataset,
)


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models("tiny", None, None)


def generator(hidden_width: int) -> UnitGenerator:
    return UnitGenerator.Config(
        hidden_width=hidden_width, layers=1, width=16, heads=2, feed_forward=16, upsample=6, units=8
    ).build()


@pytest.fixture
def source(tmp_path: Path) -> Source:
    turns = (Turn(role=Role.USER, text="Say it."), Turn(role=Role.ASSISTANT, text="Yes."))
    samples = [Conversation(id=f"s{n}", turns=turns, units=((1, 2, 3)[:n],) if n else ()) for n in range(3)]
    entry = write_shard(tmp_path, 0, samples)
    head = {"kind": "speech-generation", "name": "t", "seed": 0}
    write_manifest(tmp_path, Manifest(**head, spec={}, versions={}, shards=(entry,)))  # type: ignore[arg-type]
    return Source(tmp_path)


def test_the_methods_stage_runs_a_step_and_writes_its_generator(models: Models, source: Source, tmp_path: Path) -> None:
    own = generator(models.decoder.config.width)
    assembly, data = unit_assembly(models, own), unit_dataset(models, [source])
    data.leave_out(assembly.keep)
    assert (len(data), dict(data.left_out)) == (2, {"answer-without-units": 1})
    loss = assembly.module(**assembly.collate([data[0], data[1]]))["loss"]
    loss.backward()
    assert loss.isfinite()
    assembly.write(tmp_path / "out")
    written = load_file(tmp_path / "out" / UNIT_GENERATOR_FILE)
    assert written.keys() == own.state_dict().keys()
    assert all(tensor.dtype == torch.float16 for tensor in written.values())


def test_a_generator_of_another_width_is_refused(models: Models) -> None:
    with pytest.raises(InvalidInput, match="3 and 16 wide"):
        unit_assembly(models, generator(3))


def test_data_without_a_codebook_are_refused_with_what_to_run(models: Models, source: Source, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lyra data build speech-generation"):
        spelled_assembly(models, [source], tmp_path)


def test_a_sample_without_units_says_so(models: Models, source: Source) -> None:
    light = unit_dataset(models, [source]).samples
    assert [has_units(sample, 0) for sample in light] == ["answer-without-units", None, None]
