"""`lyra eval`: how well a preset hears and sees, on anybody's files."""

from pathlib import Path
from typing import Annotated

import typer

from cli.connection import lyra_home
from cli.console import step_progress
from cli.failure import model_failures
from cli.serve import CheckpointOption

app = typer.Typer(no_args_is_help=True, help="Measure a preset on files of your own: one JSON line with the figure.")

ManifestOption = Annotated[
    Path, typer.Option(exists=True, dir_okay=False, help="JSON Lines; paths in it are relative to its folder.")
]
PresetOption = Annotated[
    str,
    typer.Option(help="Weights to measure: nano; mini, base, pro or llama3 (of a checkpoint); tiny, tiny-qwen2-vl."),
]
OutOption = Annotated[
    Path | None, typer.Option(dir_okay=False, help="File for every line of the manifest with its prediction.")
]


@app.command()
def wer(
    manifest: ManifestOption,
    preset: PresetOption = "nano",
    whisper_decoder: Annotated[
        bool, typer.Option("--whisper-decoder", help="Let Whisper's own decoder write: the yardstick.")
    ] = False,
    out: OutOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Word error rate of what the language model hears.

    Each line of the manifest: {"audio": "path.wav", "text": "what is said"}.

    \b
    Examples:
      lyra eval wer --manifest sentences.jsonl --out heard.jsonl
      lyra eval wer --manifest sentences.jsonl --whisper-decoder
    """
    with model_failures(), step_progress() as show:
        from model_core.evaluation.wer import evaluate_wer

        result = evaluate_wer(
            manifest,
            preset,
            home=lyra_home(),
            checkpoint=checkpoint,
            whisper_decoder=whisper_decoder,
            out=out,
            progress=lambda done, total: show("heard", done, total, ""),
        )
    typer.echo(result.to_json())


@app.command()
def vqa(
    manifest: ManifestOption,
    preset: PresetOption = "nano",
    out: OutOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Share of questions about pictures that are answered as expected.

    Each line of the manifest: {"image": "path.png", "question": "written?", "answer": "yes"}, or with
    "audio": "spoken.wav" in place of "question".

    \b
    Example:
      lyra eval vqa --manifest questions.jsonl --out answers.jsonl
    """
    with model_failures(), step_progress() as show:
        from model_core.evaluation.vqa import evaluate_vqa

        result = evaluate_vqa(
            manifest,
            preset,
            home=lyra_home(),
            checkpoint=checkpoint,
            out=out,
            progress=lambda done, total: show("answered", done, total, ""),
        )
    typer.echo(result.to_json())
