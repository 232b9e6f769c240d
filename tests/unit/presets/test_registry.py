"""The registry: presets by name, and what they provide without building anything."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from cli.main import app
from docs import preset_memory
from model_core.errors import InvalidInput, UnknownPreset
from model_core.presets import (
    NANO_PARTS,
    PRESETS,
    SHIPPED,
    WeightSource,
    build_speech_encoder,
    catalog,
    get_preset,
    packaged_parts,
)
from model_core.presets.stages import STAGES
from model_core.training.preset_models import stage_of


def test_each_catalog_module_defines_the_preset_of_its_name() -> None:
    files = {path.stem for path in Path(next(iter(catalog.__path__))).glob("[!_]*.py")}
    assert {name.replace("-", "_") for name in PRESETS} == files
    assert all(preset.name == name for name, preset in PRESETS.items())


def test_presets_are_listed_by_the_source_of_their_weights() -> None:
    sources = [preset.weights for preset in PRESETS.values()]
    assert sources == sorted(sources, key=list(WeightSource).index)
    assert next(iter(PRESETS)) == "nano"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_all_parts_and_hyperparameters_of_all_stages(preset: str) -> None:
    found = get_preset(preset)
    assert all((found.speech_encoder, found.vision_encoder, found.language_model, found.voice, found.description))
    assert found.unit_generator is not None
    for stage in STAGES:
        assert stage_of(preset, stage).batch > 0


@pytest.mark.parametrize("preset", [name for name, preset in PRESETS.items() if preset.architecture])
def test_adapters_have_the_same_shape_in_training_as_when_served(preset: str) -> None:
    architecture = get_preset(preset).architecture
    assert architecture is not None
    for stage in ("instruct", "long-speech"):
        trained = stage_of(preset, stage)
        assert trained.adapter is not None
        assert architecture().adapters[trained.adapter] == trained.lora


def test_memory_is_known_for_every_preset_with_weights() -> None:
    known = {*preset_memory.computed(), *(name for name, preset in PRESETS.items() if preset.memory)}
    assert known == {name for name, preset in PRESETS.items() if preset.weights is not WeightSource.RANDOM}


def test_trained_parts_are_the_shipped_ones_unless_overridden(tmp_path: Path) -> None:
    nano = get_preset("nano")
    assert (nano.parts_folder(SHIPPED), nano.parts_folder(tmp_path), nano.parts_folder(None)) == (
        NANO_PARTS,
        tmp_path,
        None,
    )
    assert get_preset("tiny").parts_folder(SHIPPED) is None


def test_a_part_that_a_preset_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast(Any, PRESETS), "deaf", replace(get_preset("tiny"), name="deaf", speech_encoder=None))
    with pytest.raises(InvalidInput, match="preset deaf has no speech encoder"):
        build_speech_encoder("deaf")


def test_a_preset_without_packages_cannot_be_pulled() -> None:
    with pytest.raises(UnknownPreset, match="'tiny' has no packaged weights; only nano has"):
        packaged_parts("tiny")


@pytest.mark.parametrize("command", [("serve",), ("demo",), ("weights", "pull")])
def test_commands_list_all_presets_where_an_unknown_one_is_named(command: tuple[str, ...]) -> None:
    option = () if command == ("weights", "pull") else ("--preset",)
    result = CliRunner().invoke(app, [*command, *option, "giant"], env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert f"'giant' is not a preset; there are {', '.join(PRESETS)}" in result.output


def test_a_stack_whose_preset_needs_a_checkpoint_asks_for_it() -> None:
    result = CliRunner().invoke(app, ["serve", "--preset", "base"], env={"COLUMNS": "300", "LYRA_CHECKPOINT": ""})
    assert result.exit_code == 2
    assert "preset base requires the folder of a checkpoint" in result.output
