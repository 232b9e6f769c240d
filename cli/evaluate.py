"""`lyra eval`: benchmarks of a preset or of a running gateway."""

from typing import Annotated

import typer

from cli import evaluate_nano, evaluate_own, evaluate_published
from cli.console import step_progress
from cli.evaluate_options import FileOption, GatewayOption, KeyOption, ManifestOption, PresetOption, subject_of
from cli.failure import model_failures
from cli.presets import CheckpointOption

app = typer.Typer(
    no_args_is_help=True, help="Measure a preset or a running gateway: one JSON line with the figure, more with --out."
)


@app.command(rich_help_panel="Files of your own")
def wer(
    manifest: ManifestOption,
    preset: PresetOption = "nano",
    whisper_decoder: Annotated[
        bool, typer.Option("--whisper-decoder", help="Transcribe with Whisper's own decoder, as a baseline.")
    ] = False,
    out: FileOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """Word error rate of the language model's transcripts.

    Each line of the manifest: {"audio": "path.wav", "text": "transcript"}.

    \b
    Examples:
      lyra eval wer --manifest sentences.jsonl --out transcripts.jsonl
      lyra eval wer --manifest sentences.jsonl --whisper-decoder
    """
    with model_failures(), step_progress() as show:
        from model_core.evaluation.wer import evaluate_wer

        result = evaluate_wer(
            manifest,
            subject_of(preset, checkpoint, gateway, key),
            whisper_decoder=whisper_decoder,
            out=out,
            progress=lambda done, total: show("transcribed", done, total, ""),
        )
    typer.echo(result.to_json())


@app.command(rich_help_panel="Files of your own")
def vqa(
    manifest: ManifestOption,
    preset: PresetOption = "nano",
    out: FileOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """Share of questions about pictures that are answered correctly.

    Each line of the manifest: {"image": "path.png", "question": "written?", "answer": "yes"}, or with
    "audio": "spoken.wav" instead of "question".

    \b
    Example:
      lyra eval vqa --manifest questions.jsonl --out answers.jsonl
    """
    with model_failures(), step_progress() as show:
        from model_core.evaluation.vqa import evaluate_vqa

        result = evaluate_vqa(
            manifest,
            subject_of(preset, checkpoint, gateway, key),
            out=out,
            progress=lambda done, total: show("answered", done, total, ""),
        )
    typer.echo(result.to_json())


for name, command in evaluate_own.COMMANDS.items():
    app.command(name, rich_help_panel="Files of your own")(command)
for name, command in evaluate_published.COMMANDS.items():
    app.command(name, rich_help_panel="Published data sets")(command)
app.command("nano", rich_help_panel="A whole card")(evaluate_nano.nano)
