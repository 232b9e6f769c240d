"""Runs of preset tiny: files written, early stopping, refused options, estimates."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model_core.data.conversation import Conversation
from model_core.errors import CheckpointError, InvalidInput
from model_core.training.estimate import estimate
from model_core.training.options import Source, Start
from model_core.training.report import loss_plot
from model_core.training.stage_run import StageRun
from tests.training_runs import (
    align_samples,
    instruct_samples,
    losses,
    noise,
    options,
    plain_picture,
    run,
    speech_generation_samples,
    user,
    write_data,
)
from tests.training_runs import assistant as answer


@pytest.fixture(scope="module")
def align(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "align", align_samples(8), "align")


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "instruct", instruct_samples(6))


def run_evaluated(instruct: Path, out: Path, **changed: Any) -> list[dict[str, float]]:
    """A run that evaluates on its training data after every step, with a patience of 2."""
    fields = {"evaluate": (Source(instruct),), "evaluate_every": 1, "patience": 2} | changed
    return run("instruct", instruct, out, **fields)


def test_a_rising_loss_stops_the_run_and_the_best_weights_are_written(instruct: Path, tmp_path: Path) -> None:
    rows = run_evaluated(instruct, tmp_path, steps=20, hyperparameters={"learning_rate": 3.0, "regularizer": 0.0})
    found = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert len(found) == 3  # the first one is the best, two are not
    assert found[0] == min(found)
    checkpoints = tmp_path / "checkpoints"
    best = load_file(checkpoints / "checkpoint-1" / "trained.safetensors")
    last = load_file(checkpoints / "checkpoint-3" / "trained.safetensors")
    name = "projectors.speech.linear1.weight"
    written = load_file(tmp_path / "adapters" / "speech" / "projector.safetensors")["linear1.weight"]
    assert torch.equal(written, best[name].half())
    assert not torch.equal(written, last[name].half())
    assert "from step 1" in (tmp_path / "README.md").read_text()
    assert (
        run_evaluated(instruct, tmp_path, steps=20, hyperparameters={"learning_rate": 3.0, "regularizer": 0.0}) == rows
    )


def test_projectors_have_their_own_learning_rate(instruct: Path, tmp_path: Path) -> None:
    asked = options("instruct", instruct, tmp_path, hyperparameters={"learning_rate": 0.5, "projector_rate": 0.1})
    trainer = StageRun(asked).trainer()
    rates: dict[str, set[float]] = {"adapter": set(), "projectors": set()}
    groups = trainer.create_optimizer().param_groups
    for name, parameter in trainer.module.named_parameters():
        if parameter.requires_grad:
            (rate,) = [group["lr"] for group in groups if any(each is parameter for each in group["params"])]
            rates["projectors" if name.startswith("projectors.") else "adapter"].add(rate)
    assert rates == {"adapter": {0.5}, "projectors": {0.05}}


def test_a_falling_loss_runs_to_the_end(instruct: Path, tmp_path: Path) -> None:
    rows = run_evaluated(instruct, tmp_path, steps=8, hyperparameters={"learning_rate": 5e-3})
    found = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert len(found) == 8
    assert found[-1] < found[0]


def test_model_card_plot_and_logs_describe_the_run(align: Path, tmp_path: Path) -> None:
    rows = run("align", align, tmp_path, steps=7, evaluate=(Source(align),), evaluate_every=4, command="lyra train x")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 8))
    assert [row["step"] for row in rows if "eval_loss" in row] == [4, 7]
    assert {"speech_loss", "picture_loss"} <= {name for row in rows for name in row}
    _, head, body = (tmp_path / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["tags"][:2] == ["lyra", "speech"]
    digest = json.loads((tmp_path / "stage.json").read_text())["data"][0]["sha256"][:16]
    for word in ("7 of 7", digest, "pyarrow 26", "lyra train x", f"{rows[0]['loss']:.4f}", "learning_rate"):
        assert word in body
    with Image.open(tmp_path / "losses.png") as plot:
        assert plot.width > 600
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    drawn = {event.step: event.value for event in events.Scalars("train/loss")}
    assert drawn == pytest.approx({row["step"]: row["loss"] for row in rows if "loss" in row}, rel=1e-5)
    assert not (tmp_path / "vision_projector.part").exists()


def test_the_parts_of_a_loss_add_up(instruct: Path, tmp_path: Path) -> None:
    for row in run("instruct", instruct, tmp_path, steps=4, log_every=2, save_every=9):
        assert row["loss"] == pytest.approx(row["answer_loss"] + 0.5 * row["regularizer_loss"], rel=1e-5)


def test_an_unused_projector_is_not_written(tmp_path: Path) -> None:
    spoken = [sample for sample in align_samples(6) if sample.speech]
    run("align", write_data(tmp_path / "data", spoken, "align"), tmp_path / "out", steps=1)
    assert (tmp_path / "out" / "projector.safetensors").is_file()
    assert not (tmp_path / "out" / "vision_projector.safetensors").exists()


def test_a_stage_starts_from_the_parts_of_another(align: Path, instruct: Path, tmp_path: Path) -> None:
    run("align", align, tmp_path / "align", steps=2)
    frozen = Start(parts=(tmp_path / "align",), freeze=("vision",))
    run("instruct", instruct, tmp_path / "instruct", steps=1, start=frozen)
    began = load_file(tmp_path / "align" / "projector.safetensors")
    ended = load_file(tmp_path / "instruct" / "adapters" / "speech" / "projector.safetensors")
    assert torch.equal(began["linear2.weight"], ended["linear2.weight"])  # the first step's rate is 0
    assert not (tmp_path / "instruct" / "vision_projector.safetensors").exists()


def test_more_steps_resume_a_finished_run(align: Path, tmp_path: Path) -> None:
    first = run("align", align, tmp_path, steps=3)
    assert run("align", align, tmp_path, steps=5)[:3] == first
    assert [row["step"] for row in losses(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "another seed"),
        ({"hyperparameters": {"learning_rate": 0.5}}, "another hyperparameters"),
        ({"evaluate_every": 3, "evaluate": True}, "another evaluate"),
    ],
)
def test_a_folder_with_another_run_is_refused(
    align: Path, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    run("align", align, tmp_path, steps=1)
    if "evaluate" in changed:
        changed = changed | {"evaluate": (Source(align),)}
    with pytest.raises(InvalidInput, match=message):
        StageRun(options("align", align, tmp_path, **changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"device_batch": 3}, "is not divisible"),
        ({"patience": 1}, "requires evaluation data"),
        ({"fsdp": "full_shard"}, "has none"),
        ({"start": Start(freeze=("ears",))}, "ears"),
    ],
)
def test_contradictory_options_are_refused(align: Path, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        StageRun(options("align", align, tmp_path, **changed))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"zero_optimization": {"stage": 3}}', "fsdp full_shard"),
        ('{"zero_optimization": {"stage": 2}}', "pip install deepspeed"),
        ("{", "not a JSON file"),
        ("[]", "not a JSON object"),
    ],
)
def test_deepspeed_is_refused_with_a_hint(align: Path, tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "zero.json").write_text(config)
    with pytest.raises(InvalidInput, match=message):
        StageRun(options("align", align, tmp_path / "out", deepspeed=tmp_path / "zero.json"))


def test_unusable_samples_are_counted_by_reason(tmp_path: Path) -> None:
    hopeless = Conversation(
        id="fast", turns=(user("<speech>Repeat."), answer("x")), speech=(noise(0, 0.2, "far too many words"),)
    )
    long = Conversation(id="long", turns=hopeless.turns, speech=(noise(0, 31.0),))
    data = write_data(tmp_path / "data", [*align_samples(5), hopeless, long], "align")
    made = StageRun(options("align", data, tmp_path / "out"))
    assert dict(made.train_data.left_out) == {"transcript-too-long-for-its-recording": 1, "longer-than-a-clip": 1}
    assert len(made.train_data) == 5
    alone = write_data(tmp_path / "alone", [hopeless], "align")
    with pytest.raises(InvalidInput, match="no usable sample is left"):
        StageRun(options("align", alone, tmp_path / "out"))


def test_words_that_occur_only_in_evaluation_data_are_evaluated(align: Path, tmp_path: Path) -> None:
    other = Conversation(id="q", turns=(user("<speech>Repeat."), answer("x")), speech=(noise(0, 3.0, "zebra QUIZ"),))
    data = write_data(tmp_path / "data", [other], "align")
    rows = run("align", align, tmp_path / "out", steps=1, evaluate=(Source(data),), evaluate_every=1)
    assert rows[-1]["eval_loss"] > 0


def test_a_checkpoint_of_another_stage_is_refused(align: Path, instruct: Path, tmp_path: Path) -> None:
    run("align", align, tmp_path / "align", steps=2)
    run("instruct", instruct, tmp_path / "instruct", steps=1)
    (tmp_path / "align" / "checkpoints" / "checkpoint-2").rename(tmp_path / "instruct" / "checkpoints" / "checkpoint-2")
    with pytest.raises(CheckpointError, match="another stage or preset"):
        run("instruct", instruct, tmp_path / "instruct", steps=9)


def test_dry_run_estimates_and_writes_nothing(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", instruct_samples(6))
    made = StageRun(options("instruct", data, tmp_path / "out", steps=12, device_batch=2, hyperparameters={"batch": 4}))
    before = sorted(tmp_path.rglob("*"))
    estimated = estimate(made)
    assert sorted(tmp_path.rglob("*")) == before
    learning = [p.numel() for p in made.assembly.module.parameters() if p.requires_grad]
    assert (estimated.trained, estimated.samples, estimated.batch, estimated.share) == (sum(learning), 6, 4, 2)
    assert (estimated.steps, estimated.epochs) == (12, 8.0)
    assert estimated.memory["gradients (4 bytes)"] == 4 * estimated.trained
    answers = [len(text) + 1 for sample in instruct_samples(6) for text in (sample.turns[1].text, sample.turns[3].text)]
    assert estimated.answer_tokens == round(4 * sum(answers) / 6)  # tiny's tokens are single letters
    assert "GFLOP/s" in estimated.timed
    weights = {name: tensor.clone() for name, tensor in made.assembly.module.state_dict().items()}
    made.train_data.prepare()
    timed = estimate(made)
    assert "measured" in timed.timed
    assert timed.seconds > 0
    for name, tensor in made.assembly.module.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    for word in ("parameters trained", "answer tokens a step", "AdamW's moments", "time in all", "left out"):
        assert word in timed.table()


def test_recomputing_activations_takes_less_memory_and_more_compute(instruct: Path, tmp_path: Path) -> None:
    kept, again = (
        estimate(StageRun(options("instruct", instruct, tmp_path, checkpointing=on))) for on in (False, True)
    )
    assert again.memory["activations"] < kept.memory["activations"]
    assert again.flops > kept.flops
    assert "one layer" in again.activations


def test_plot_works_without_evaluations_and_with_a_nan_loss() -> None:
    rows = [{"step": 1.0, "loss": 2.0, "learning_rate": 0.1}, {"step": 2.0, "loss": float("nan")}]
    losses_axis, rate_axis = loss_plot(rows, "title").axes
    assert [np.asarray(line.get_xdata()).tolist() for line in losses_axis.lines] == [[1]]
    assert rate_axis.get_xlabel() == "step"


def test_images_without_speech_are_trained_on(tmp_path: Path) -> None:
    shown = Conversation(id="p", turns=(user("<image>What?"), answer("red")), images=(plain_picture(3),))
    rows = run("instruct", write_data(tmp_path / "data", [shown] * 1), tmp_path / "out", steps=2)
    assert len(rows) == 2


def test_an_unknown_unit_is_named_with_its_sample(tmp_path: Path) -> None:
    beyond = replace(speech_generation_samples(1)[0], id="beyond", units=((3, 20),))
    data = write_data(tmp_path / "data", [*speech_generation_samples(3), beyond], "speech-generation")
    with pytest.raises(InvalidInput, match="sample beyond, units: 20 is beyond the generator's 20 units"):
        StageRun(options("speech-generator", data, tmp_path / "out"))


def test_answers_without_units_are_left_out_of_the_speech_generator_and_counted(tmp_path: Path) -> None:
    mute = replace(speech_generation_samples(1)[0], id="mute", units=())
    data = write_data(tmp_path / "data", [*speech_generation_samples(3), mute], "speech-generation")
    stage = StageRun(options("speech-generator", data, tmp_path / "out"))
    assert stage.train_data.left_out == {"no-units": 1}
    stage.run()
    assert (tmp_path / "out" / "speech_generator.safetensors").is_file()
