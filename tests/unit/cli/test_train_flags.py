"""The flags of `lyra train`, which are generated from dataclasses, are those that users know."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import typer.main

from cli.dataclass_flags import field_values, parameters
from cli.main import app
from model_core.errors import InvalidInput
from model_core.language.extractor import ExtractionConfig
from model_core.training.options import HyperparameterOverrides, Source
from model_core.training.preset_models import stage_of

STAGES = ("align", "instruct", "long-speech", "speech-generator")
KNOWN_FLAGS = json.loads(Path(__file__).with_name("train_flags.json").read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_flags_of_a_stage_keep_their_names_help_and_defaults(stage: str) -> None:
    root: Any = typer.main.get_command(app)
    command = root.get_command(None, "train").get_command(None, stage)
    found = {
        " ".join((*flag.opts, *flag.secondary_opts)): {
            "help": flag.help,
            "default": flag.default,
            "required": flag.required,
        }
        for flag in command.params
    }
    assert found == KNOWN_FLAGS


def test_train_lists_stages_before_the_recipe() -> None:
    root: Any = typer.main.get_command(app)
    assert root.get_command(None, "train").list_commands(None) == [*STAGES, "nano"]


@dataclass(frozen=True)
class Options:
    folders: tuple[Path, ...] = field(default=(), metadata={"help": "Folders.", "flag": "--folder"})
    sources: tuple[Source, ...] = field(default=(), metadata={"help": "Data.", "parse": Source.parse})
    size: int = field(default=3, metadata={"help": "A size.", "min": 1})
    internal: int = 7


def test_parameters_have_the_type_default_and_name_of_their_field() -> None:
    folder, sources, size = parameters(Options)
    assert [each.name for each in (folder, sources, size)] == ["folder", "sources", "size"]
    assert [each.default for each in (folder, sources, size)] == [None, None, 3]
    assert get_args(folder.annotation)[0] == list[Path] | None
    assert get_args(sources.annotation)[0] == list[str] | None
    assert get_args(size.annotation)[0] is int
    assert get_args(size.annotation)[1].min == 1
    assert isinstance(size.annotation, type(Annotated[int, 1]))


def test_field_values_are_parsed_and_lists_become_tuples(tmp_path: Path) -> None:
    values = field_values(Options, {"folder": [tmp_path], "sources": ["a:0.5", "b"], "size": 4})
    assert values == {"folders": (tmp_path,), "sources": (Source(Path("a"), 0.5), Source(Path("b"))), "size": 4}
    assert field_values(Options, {"folder": None, "sources": None, "size": 3})["sources"] == ()


@pytest.mark.parametrize(("text", "message"), [("a:b", "not a weight"), ("a:0", "not greater than 0")])
def test_source_with_a_bad_weight_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Source.parse(text)


def test_a_colon_in_a_folder_name_is_not_a_weight(tmp_path: Path) -> None:
    folder = tmp_path / "a:b"
    folder.mkdir()
    assert Source.parse(str(folder)) == Source(folder)


def test_overrides_change_the_stage_its_adapter_and_its_extraction_and_nothing_else() -> None:
    stage = stage_of("tiny", "instruct")
    assert HyperparameterOverrides().apply_to(stage) == stage
    changed = HyperparameterOverrides(steps=3, rank=2, keep_rate=0.5, adapter="mine").apply_to(stage)
    assert stage.lora is not None
    assert changed.lora is not None
    assert (changed.steps, changed.adapter, changed.learning_rate) == (3, "mine", stage.learning_rate)
    assert (changed.lora.rank, changed.lora.alpha) == (2, stage.lora.alpha)
    assert changed.extraction == ExtractionConfig(keep_rate=0.5)


def test_rank_of_a_stage_without_an_adapter_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no adapter"):
        HyperparameterOverrides(rank=2).apply_to(stage_of("tiny", "align"))
