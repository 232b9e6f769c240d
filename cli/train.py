"""`lyra train`: the four stages from open models to a Lyra, and nano's recipe made of them."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.connection import lyra_home
from cli.console import note, step_progress
from cli.failure import CommandFailed, model_failures
from cli.presets import CheckpointOption

if TYPE_CHECKING:
    from model_core.presets.stages import TrainingStage
    from model_core.training.dataset import Source

app = typer.Typer(no_args_is_help=True, help="Train: the four stages of the method, and nano by a recipe of them.")

STAGE_HELP = {
    "align": """Stage 1: projectors learn to say what is heard and seen in the language model's own embeddings.

    nano learns against the embedding table alone (CTC over the transcript), which is fast; presets of the published
    method learn through the frozen language model.

    \b
    Example:
      lyra data build align --source chitchat:10000 --out data/align
      lyra train align --preset nano --data data/align --out runs/align
    """,
    "instruct": """Stage 2: projectors and a LoRA adapter learn to answer what is said, shown and written.

    \b
    Examples:
      lyra train instruct --preset nano --data data/instruct --start runs/align --out runs/instruct
      lyra train instruct --preset mini --checkpoint lyra-mini --data data/spoken --data data/written:0.5 --out runs/mm
      torchrun --nproc-per-node 8 -m -- cli train instruct --preset base --checkpoint lyra-base --data data --out runs/b
    """,
    "long-speech": """Stage 3: a second adapter, with a projector of its own, learns long recordings.

    \b
    Example:
      lyra train long-speech --preset nano --data data/long --start runs/instruct --start-adapter speech --out runs/long
    """,
    "speech-generator": """Stage 4: the speech generator learns units from the language model's hidden states.

    \b
    Example:
      lyra train speech-generator --preset nano --data data/speech-generation --out runs/generator
    """,
}

PresetOption = Annotated[
    str, typer.Option(help="Whose models: nano; mini, base, pro or llama3 (of a checkpoint); tiny.")
]
DataOption = Annotated[
    list[str],
    typer.Option("--data", help="Folder of a data set; FOLDER:0.5 takes half of it an epoch. May be repeated."),
]
OutOption = Annotated[
    Path, typer.Option(file_okay=False, help="Folder of the run; the same command goes on where it stopped.")
]
StartOption = Annotated[
    list[Path] | None,
    typer.Option(
        exists=True, file_okay=False, help="Another run's folder to go on from. May be repeated; later ones win."
    ),
]


def stage(
    context: typer.Context,
    data: DataOption,
    out: OutOption,
    preset: PresetOption = "nano",
    checkpoint: CheckpointOption = None,
    start: StartOption = None,
    start_adapter: Annotated[
        str, typer.Option(help="Adapter of --start that the new one takes its weights from; by default its namesake.")
    ] = "",
    freeze: Annotated[
        list[str] | None, typer.Option(help="Projector that stays as it is: speech or vision. May be repeated.")
    ] = None,
    adapter: Annotated[str, typer.Option(help="Name of the adapter that learns; by default the stage's.")] = "",
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, in place of epochs.")] = None,
    epochs: Annotated[float | None, typer.Option(min=0.001, help="Passes over the data.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples a step, of all processes together.")] = None,
    device_batch: Annotated[
        int | None, typer.Option(min=1, help="Samples that a process takes at a time; the rest is accumulated.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="The highest one.")] = None,
    projector_rate: Annotated[
        float | None, typer.Option(min=0.0, help="Of it, the projectors' share: 0.1 lets them learn ten times slower.")
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(min=1, help="Of the adapter.")] = None,
    lora_alpha: Annotated[float | None, typer.Option(min=0.0, help="Of the adapter; alpha / rank scales it.")] = None,
    regularizer: Annotated[float | None, typer.Option(min=0.0, help="Weight of the regularizer; 0 is none.")] = None,
    blocks: Annotated[
        int | None, typer.Option(min=1, help="Blocks of layers between which context is dropped.")
    ] = None,
    keep_rate: Annotated[
        float | None,
        typer.Option(min=0.01, max=1.0, help="Share of context tokens kept after each block but the last."),
    ] = None,
    context_length: Annotated[
        int | None, typer.Option(min=16, help="Most tokens of a sample; longer ones are left out.")
    ] = None,
    evaluate: Annotated[
        list[str] | None, typer.Option(help="Data set whose loss is measured now and then. May be repeated.")
    ] = None,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps between measurements.")] = 200,
    patience: Annotated[
        int, typer.Option(min=0, help="Stop after so many measurements without a better one; 0: never.")
    ] = 0,
    bfloat16: Annotated[
        bool | None, typer.Option("--bf16/--fp32", help="Number format of the work; by default what is fast here.")
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Forget activations and compute them again: less memory, more work.")
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep the encoders' features beside the data.")
    ] = True,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that prepare batches beside each training process.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of order, dropout and fresh weights.")] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between lines of the log.")] = 20,
    deepspeed: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="DeepSpeed's JSON configuration.")
    ] = None,
    fsdp: Annotated[
        str, typer.Option(help="As Hugging Face's Trainer takes it, for example 'full_shard auto_wrap'.")
    ] = "",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be trained, and what memory and time it takes; train nothing."),
    ] = False,
) -> None:
    with model_failures(), step_progress() as show:
        from model_core.training.assembly import Start
        from model_core.training.preset_models import stage_of
        from model_core.training.stage_run import StageOptions, StageRun

        name = context.info_name or ""
        hyperparameters = _changed(
            stage_of(preset, name),
            {
                "adapter": adapter or None,
                "steps": steps,
                "epochs": epochs,
                "batch": batch,
                "learning_rate": learning_rate,
                "projector_rate": projector_rate,
                "regularizer": regularizer,
                "context": context_length,
            },
            {"rank": lora_rank, "alpha": lora_alpha},
            {"blocks": blocks, "keep_rate": keep_rate},
        )
        options = StageOptions(
            name=name,
            preset=preset,
            hyperparameters=hyperparameters,
            data=_sources("--data", data),
            out=out,
            home=lyra_home(),
            checkpoint=checkpoint,
            start=Start(parts=tuple(start or ()), adapter=start_adapter, freeze=tuple(freeze or ())),
            evaluate=_sources("--evaluate", evaluate or []),
            evaluate_every=evaluate_every,
            patience=patience,
            device_batch=device_batch,
            bfloat16=bfloat16,
            checkpointing=recompute,
            cached=cache,
            workers=workers,
            seed=seed,
            save_every=save_every,
            log_every=log_every,
            deepspeed=deepspeed,
            fsdp=fsdp,
            command=shlex.join(["lyra", *sys.argv[1:]]),
        )
        run = StageRun(options, show)
        if dry_run:
            return _print_estimate(run)
        run.run()
    if run.is_main:
        note(f"trained parts, losses and model card are in {out}")
    return None


for _name, _text in STAGE_HELP.items():
    app.command(_name, help=_text)(stage)


@app.command()
def nano(
    run: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of data, losses and checkpoints; goes on where it stopped.")
    ] = Path("runs/nano"),
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for the trained parts; without it, beside the preset.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the commands of the recipe; run none.")] = False,
) -> None:
    """Train all of nano's own parts: a recipe of `lyra data build` and `lyra train` commands, for hours on two cores.

    Stop it with Ctrl-C at any time: the same command goes on. It wants Debian's flite and festival for more voices.

    \b
    Examples:
      lyra train nano --show
      lyra train nano
      lyra train nano --run runs/trial --out runs/trial/parts
    """
    from cli.nano_recipe import Recipe
    from model_core.presets import NANO_PARTS

    recipe = Recipe(run, out or NANO_PARTS)
    if show:
        for command in recipe.commands():
            typer.echo(f"lyra {command}")
        return
    recipe.run()
    note(f"the trained parts are in {out or NANO_PARTS}, the losses in {run}")


def _sources(option: str, texts: list[str]) -> "tuple[Source, ...]":
    from model_core.training.dataset import Source

    sources = []
    for text in texts:
        folder, _, weight = text.rpartition(":")
        if not folder or Path(text).is_dir():
            folder, weight = text, "1"
        try:
            sources.append(Source(Path(folder), float(weight)))
        except ValueError as error:
            raise CommandFailed(f"{option} {text}: {weight!r} is no weight", "write FOLDER or FOLDER:WEIGHT") from error
    return tuple(sources)


def _changed(
    stage: "TrainingStage", fields: dict[str, Any], lora: dict[str, Any], extraction: dict[str, Any]
) -> "TrainingStage":
    """A preset's hyperparameters with what the command line says otherwise."""
    from model_core.language.extractor import ExtractionConfig

    changed: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    lora = {name: value for name, value in lora.items() if value is not None}
    if lora:
        if stage.lora is None:
            raise CommandFailed("this stage has no adapter, so no rank or alpha")
        changed["lora"] = replace(stage.lora, **lora)
    extraction = {name: value for name, value in extraction.items() if value is not None}
    if extraction:
        changed["extraction"] = replace(stage.extraction or ExtractionConfig(), **extraction)
    return replace(stage, **changed)


def _print_estimate(run: Any) -> None:
    from model_core.training.estimate import estimate

    typer.echo(estimate(run).table())
