"""`lyra data`: validate, summarise, filter and build training data."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import data_build
from cli.connection import lyra_home
from cli.console import note, out, step_progress
from cli.failure import CommandFailed, model_failures

if TYPE_CHECKING:
    from collections.abc import Callable

    from model_core.data.media import Limits
    from model_core.data.shards import Manifest
    from model_core.data.validate import Report

app = typer.Typer(no_args_is_help=True, help="Validate, summarise, filter and build training data.")
app.add_typer(data_build.app, name="build")

_SHOWN = 20  # faults listed on the terminal

DataArgument = Annotated[
    Path, typer.Argument(exists=True, help="A folder of shards, or a JSON file in the published layout.")
]
MediaRootOption = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder of a JSON file's media; by default the file's own folder."),
]
WorkersOption = Annotated[int, typer.Option(min=1, help="Number of processes; the output does not depend on it.")]
AudioMinutesOption = Annotated[float, typer.Option(min=0.01, help="Maximum minutes of a recording or video.")]
PixelsOption = Annotated[float, typer.Option(min=0.01, help="Maximum pixels of a picture or frame, in millions.")]
FileOption = Annotated[float, typer.Option(min=0.01, help="Maximum size of a media file, in MiB.")]
DecodingOption = Annotated[float, typer.Option(min=0.01, help="Maximum time to decode one file, in seconds.")]


@app.command()
def validate(
    data: DataArgument,
    media_root: MediaRootOption = None,
    unit_vocabulary: Annotated[
        int | None, typer.Option(min=1, help="Number of units; a larger unit is an error.")
    ] = None,
    report: Annotated[Path | None, typer.Option(dir_okay=False, help="JSON file for all faults.")] = None,
    max_minutes: AudioMinutesOption = 120,
    max_megapixels: PixelsOption = 50,
    max_file_mib: FileOption = 512,
    max_decoding_seconds: DecodingOption = 60,
    workers: WorkersOption = 1,
) -> None:
    """Validate a data set: decode every file, list invalid samples and count them by reason.

    Exit code 0 if there are no faults, else 1.

    \b
    Examples:
      lyra data validate data/instruct
      lyra data validate lyra_multimodal.json --media-root media --report wrong.json --workers 8
    """
    with model_failures():
        from model_core.data.validate import validate as run

        limits = _limits(max_minutes, max_megapixels, max_file_mib, max_decoding_seconds)
        with step_progress() as show:
            found = run(
                data,
                media_root=media_root,
                limits=limits,
                unit_vocabulary=unit_vocabulary,
                workers=workers,
                progress=lambda done, total: show("checked", done, total, "shards" if total else "samples"),
            )
        if report:
            found.write(report)
    _show_report(found)
    if found.faults:
        where = f"; all of them are in {report}" if report else "; --report FILE.json lists all of them"
        raise CommandFailed(f"{len(found.faults):,} faults in {found.samples:,} samples{where}")


@app.command()
def stats(
    data: DataArgument,
    out_folder: Annotated[
        Path, typer.Option("--out", file_okay=False, help="Folder for stats.json, stats.md and the histograms.")
    ],
    media_root: MediaRootOption = None,
    kind: Annotated[
        str,
        typer.Option(
            help="Compare with the published data for: align, instruct, long-speech, speech-generation; "
            "by default the kind in the folder's manifest, or instruct."
        ),
    ] = "",
    tokenizer: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A tokenizer.json to count with; by default nano's."),
    ] = None,
) -> None:
    """Statistics of a data set: durations, tokens and modalities, as JSON, tables and histograms.

    The tables also compare the data with what Lyra was trained on; a difference is not an error.

    \b
    Examples:
      lyra data stats data/instruct --out stats
      lyra data stats lyra_longspeech.json --media-root media --kind long-speech --out stats
    """
    with model_failures():
        from model_core.data.data_errors import SampleError
        from model_core.data.shards import read_manifest
        from model_core.data.stats import light_samples, measure
        from model_core.data.stats_report import markdown, write_stats

        kind = kind or (read_manifest(data).kind if data.is_dir() else "instruct")
        bad: Counter[str] = Counter()

        def count_bad(error: SampleError) -> None:
            bad[error.reason] += 1

        count_tokens, name = _tokenizer(tokenizer)
        samples = light_samples(data, media_root=media_root, on_error=count_bad)
        found = measure(samples, kind, count_tokens=count_tokens, tokenizer=name, bad=bad)
        write_stats(found, out_folder)
    out.print(markdown(found), markup=False, soft_wrap=True)
    note(f"stats.json, stats.md and the histograms are in {out_folder}")


@app.command("filter")
def filter_(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A folder of shards.")],
    out_folder: Annotated[
        Path, typer.Option("--out", file_okay=False, help="A new folder, or one of the same command to resume.")
    ],
    min_seconds: Annotated[float | None, typer.Option(min=0, help="Minimum duration of a recording.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Maximum duration of a recording.")] = None,
    max_silence: Annotated[
        float | None, typer.Option(help="Maximum share of a recording that is 40 dB below its loudest part.")
    ] = None,
    max_clipping: Annotated[
        float | None, typer.Option(help="Maximum share of samples in runs at full scale, for example 0.001.")
    ] = None,
    max_wer: Annotated[
        float | None, typer.Option(min=0, help="Maximum word error rate of Whisper's transcript against the sample's.")
    ] = None,
    hearing: Annotated[str, typer.Option(help="The preset whose Whisper transcribes.")] = "nano",
    language: Annotated[
        list[str] | None, typer.Option(help="Language of the texts (en, de, ...); may be repeated.")
    ] = None,
    max_repetition: Annotated[
        float | None, typer.Option(help="Maximum share of an answer's four-word sequences that are repeated.")
    ] = None,
    duplicates: Annotated[bool, typer.Option("--drop-duplicates", help="Drop exact duplicates.")] = False,
    near_duplicates: Annotated[
        float | None, typer.Option(help="Drop samples that are this similar to an earlier one, for example 0.8.")
    ] = None,
    blocked_words: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File of words and phrases, one per line.")
    ] = None,
    workers: WorkersOption = 1,
) -> None:
    """Copy the samples of a folder that pass the filters to a new one; dropped samples are counted and listed.

    A filter without its option is off. Samples whose media cannot be decoded are always dropped. Run the same command
    again to resume after an interruption. The same command gives the same bytes.

    \b
    Examples:
      lyra data filter data/raw --out data/clean --max-wer 0.3 --min-seconds 0.5 --max-seconds 30
      lyra data filter data/raw --out data/clean --language en --drop-duplicates --near-duplicates 0.9
    """
    with model_failures():
        from model_core.data.filters import Rules, filter_folder
        from model_core.data.filters.words import read_blocked_words
        from model_core.data.shards import read_manifest

        rules = Rules(
            min_seconds=min_seconds,
            max_seconds=max_seconds,
            languages=tuple(language or ()),
            max_repetition=max_repetition,
            blocked=read_blocked_words(blocked_words) if blocked_words else (),
            max_silence=max_silence,
            max_clipping=max_clipping,
            max_word_errors=max_wer,
            hearing=hearing,
            duplicates=duplicates,
            near_duplicates=near_duplicates,
        )
        before = read_manifest(data)
        with step_progress() as show:
            after = filter_folder(data, out_folder, rules, home=lyra_home(), workers=workers, show=show)
    _show_dropped(before, after, out_folder)


def _limits(minutes: float, megapixels: float, file_mib: float, decoding_seconds: float) -> "Limits":
    from model_core.data.media import Limits

    return Limits(
        file_bytes=int(file_mib * 2**20),
        audio_seconds=minutes * 60,
        video_seconds=minutes * 60,
        pixels=int(megapixels * 1e6),
        decoding_seconds=decoding_seconds,
    )


def _tokenizer(file: Path | None) -> "tuple[Callable[[str], int] | None, str]":
    """A token counter and its name; None if nano's weights are not installed."""
    from tokenizers import Tokenizer

    from model_core.checkpoints.store import part_folder
    from model_core.errors import WeightsMissing

    if file is None:
        try:
            file = part_folder(lyra_home(), "nano", "language") / "tokenizer.json"
        except WeightsMissing:
            note("nano's tokenizer is not installed (lyra weights pull nano): four characters are counted as a token")
            return None, ""
        name = "nano's tokenizer"
    else:
        name = file.name
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), name


def _show_report(report: "Report") -> None:
    from rich.table import Table

    if not report.faults:
        out.print(f"{report.samples:,} samples, no faults")
        return
    table = Table("reason", "count")
    for reason, count in report.reasons.items():
        table.add_row(reason, f"{count:,}")
    out.print(table)
    for fault in report.faults[:_SHOWN]:
        where = f"{fault.sample}, {fault.field}" if fault.field else fault.sample
        out.print(f"{where}: {fault.message} ({fault.reason})", markup=False, soft_wrap=True)
    if len(report.faults) > _SHOWN:
        out.print(f"... and {len(report.faults) - _SHOWN:,} more")


def _show_dropped(before: "Manifest", after: "Manifest", folder: Path) -> None:
    from rich.table import Table

    table = Table("samples", "count", "share")
    for reason, count in after.dropped.items():
        table.add_row(f"dropped: {reason}", f"{count:,}", f"{count / max(before.samples, 1):.1%}")
    table.add_row("kept", f"{after.samples:,}", f"{after.samples / max(before.samples, 1):.1%}")
    out.print(table)
    note(f"{folder}: {after.samples:,} samples, {after.seconds / 3600:.2f} h of audio; dropped/ lists the others")
