"""Shared by the commands of `lyra eval`: options, the subject of evaluation, and writing results."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connection import find_gateway, lyra_home
from cli.console import note, step_progress
from cli.failure import CommandFailed, model_failures

if TYPE_CHECKING:
    from model_core.evaluation.manifest import Progress
    from model_core.evaluation.predictions import Sample
    from model_core.evaluation.report import Report
    from model_core.evaluation.subject import Question, Subject

ManifestOption = Annotated[
    Path, typer.Option(exists=True, dir_okay=False, help="JSON Lines; its paths are relative to its folder.")
]
PresetOption = Annotated[
    str,
    typer.Option(help="Weights to measure: nano; mini, base, pro or llama3 (of a checkpoint); tiny, tiny-qwen2-vl."),
]
GatewayOption = Annotated[
    str | None, typer.Option(help="Measure the gateway at this address instead of a preset in this process.")
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", envvar="LYRA_API_KEY", help="API key; without it, the local stack's development key."),
]
FileOption = Annotated[
    Path | None, typer.Option(dir_okay=False, help="File for the lines of the manifest with their predictions.")
]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        file_okay=False,
        help="Folder for result.json, result.md, plots and predictions.jsonl; predictions that it contains are reused.",
    ),
]
DataArgument = Annotated[
    Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="The data set, in its published layout.")
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Measure only this many, the first ones.")]
AdapterOption = Annotated[str, typer.Option(help="Adapter to answer with, base for none; empty for the one that fits.")]
KeepRateOption = Annotated[
    float | None, typer.Option(help="Share of context tokens kept after each block, over 0 and at most 1 (all).")
]
BlocksOption = Annotated[int | None, typer.Option(min=1, help="Blocks that the model's layers are divided into.")]
PartsOption = Annotated[
    Path | None, typer.Option(exists=True, file_okay=False, help="Folder of other trained parts for nano.")
]
QuestionsOption = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="JSON Lines with `question`, or text, one per line; by default 32 prompts."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOverrides:
    """Overrides for all questions of a benchmark: adapter, keep rate, blocks, and a limit on their number.

    Attributes:
        limit: Maximum number of questions; None for all.
        adapter: Adapter to answer with; empty keeps each question's own.
        keep_rate: Share of context tokens kept after each block; None keeps each question's own.
        blocks: Blocks of layers of the extractor; None keeps each question's own.
    """

    limit: int | None = None
    adapter: str = ""
    keep_rate: float | None = None
    blocks: int | None = None

    def apply_to(self, samples: "Sequence[Sample]") -> "list[Sample]":
        """The first `limit` samples, with their questions overridden."""
        return [replace(sample, question=self._overridden(sample.question)) for sample in samples[: self.limit]]

    def _overridden(self, question: "Question") -> "Question":
        return replace(
            question,
            adapter=self.adapter or question.adapter,
            keep_rate=question.keep_rate if self.keep_rate is None else self.keep_rate,
            blocks=question.blocks if self.blocks is None else self.blocks,
        )


def subject_of(
    preset: str, checkpoint: Path | None, gateway: str | None, key: str | None, parts: Path | None = None
) -> "Subject":
    """The gateway if one is named, otherwise the preset. Raises CommandFailed, UnknownPreset."""
    if gateway:
        from cli.gateway_subject import GatewaySubject

        connection = find_gateway(gateway, key)
        if not connection.key and (local := _local_key(connection.url)):
            connection = replace(connection, key=local)
        return GatewaySubject(connection)
    from model_core.evaluation.preset_subject import PresetSubject
    from model_core.presets import SHIPPED

    return PresetSubject(preset, lyra_home(), checkpoint, parts or SHIPPED)


def run_benchmark(name: str, out: Path | None, make: "Callable[[Progress], Report]", *, notes: str = "") -> None:
    """Runs a benchmark with a progress bar, prints its result as a line of JSON, and writes its folder.

    Args:
        name: Label of the progress bar.
        out: Folder of the report; None writes none.
        make: Runs the benchmark; its argument reports progress.
        notes: A paragraph for the Markdown file.
    """
    with model_failures(), voice_failures(), step_progress() as show:
        report = make(lambda done, total: show(name, done, total, ""))
    if out:
        from model_core.evaluation.report import write_report

        write_report(out, report, ["lyra", *sys.argv[1:]], notes)
        note(f"results are in {out}")
    typer.echo(report.result.to_json())


@contextmanager
def voice_failures() -> Iterator[None]:
    """Turns a missing voice into CommandFailed."""
    from model_core.data.voices import VoiceMissing

    try:
        yield
    except VoiceMissing as error:
        raise CommandFailed(str(error), "install it, or name another voice with --voice") from error


def numbers(text: str, option: str) -> list[float]:
    """Parses `1,2,3.5`. Raises BadParameter."""
    try:
        return [float(each) for each in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 1,2,5", param_hint=option) from error


def _local_key(url: str) -> str:
    try:
        local = find_gateway(None, None)
    except CommandFailed:
        return ""
    return local.key if local.url == url else ""
