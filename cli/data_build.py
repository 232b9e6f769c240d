"""`lyra data build`: data sets from released packages or from your own files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connection import lyra_home
from cli.console import note, step_progress
from cli.failure import CommandFailed, model_failures
from cli.presets import CheckpointOption

if TYPE_CHECKING:
    from model_core.data.build.sources import Source
    from model_core.data.build.synthesis import Style
    from model_core.data.build.work import Spec

app = typer.Typer(
    no_args_is_help=True,
    help="Build a data set. The same command resumes an interrupted build; the same options give the same bytes.",
)

TASKS = "transcribe=3,part=2,after=2,before=1,order=1,needle=3"
VOICES = "slt,awb,kal16,joe=0.3"

NameOption = Annotated[str | None, typer.Option(help="Name of the data set; by default its kind.")]
SourceOption = Annotated[
    list[str],
    typer.Option(help="A source, NAME or FILE, optionally with :COUNT, its number of samples; may be repeated."),
]
OutOption = Annotated[Path, typer.Option(file_okay=False, help="Folder of the data set: new, or of the same build.")]
VoicesOption = Annotated[
    str, typer.Option(help="Voices, comma-separated; NAME=0.3 is used less often than others (weight 1).")
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]
SamplesOption = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of samples, of all sources in proportion.")
]
WorkersOption = Annotated[int, typer.Option(min=1, help="Number of processes; the data does not depend on it.")]
ShardOption = Annotated[int, typer.Option(min=1, help="Samples per shard, the unit of resumption.")]
VaryOption = Annotated[bool, typer.Option("--vary/--no-vary", help="Vary pace, pitch and loudness.")]
NoiseOption = Annotated[bool, typer.Option("--noise/--no-noise", help="Add noise to some utterances.")]
RoomOption = Annotated[bool, typer.Option("--room/--no-room", help="Add reverberation to some utterances.")]


@app.command()
def align(
    source: SourceOption,
    out: OutOption,
    voices: VoicesOption = VOICES,
    samples: SamplesOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    shard: ShardOption = 500,
    name: NameOption = None,
    vary: VaryOption = True,
    noise: NoiseOption = True,
    room: RoomOption = True,
) -> None:
    """Data of stage 1: synthesized sentences with transcripts, pictures with the words that name them.

    Sources: named texts (chitchat, austen, moby-dick, bible, sotu, wordnet-examples, wordnet-glosses), pictures
    (easy-vqa, drawings), a .txt file with one sentence per line, or a .jsonl file with your own recordings, each line
    {"audio": "path", "text": "transcript"}.

    \b
    Examples:
      lyra data build align --source chitchat:10000 --source wordnet-examples:20000 --out data/align
      lyra data build align --source mine.txt --voices slt,joe --no-noise --out data/mine
    """
    with building():
        from model_core.data.build.align import AlignSpec

        spec = AlignSpec(
            name=name or "align",
            seed=seed,
            samples=samples,
            shard_samples=shard,
            sources=sources_of(source),
            style=style_of(voices, vary, noise, room),
        )
        run(spec, out, workers)


@app.command()
def instruct(
    source: SourceOption,
    out: OutOption,
    voices: VoicesOption = VOICES,
    spoken_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the conversations with spoken user turns.")
    ] = 1.0,
    longest_spoken: Annotated[int, typer.Option(min=1, help="Maximum words of a spoken turn.")] = 60,
    answers_by: Annotated[
        str, typer.Option(help="Preset whose text-only language model answers questions without a picture.")
    ] = "nano",
    known_answers: Annotated[
        bool, typer.Option("--known-answers", help="Keep the answers that questions come with, instead of the model's.")
    ] = False,
    answer_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum tokens of its answers; longer ones are cut off, without an end token.")
    ] = 64,
    checkpoint: CheckpointOption = None,
    media_root: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder that paths in a .json file are relative to."),
    ] = None,
    samples: SamplesOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    shard: ShardOption = 500,
    name: NameOption = None,
    vary: VaryOption = True,
    noise: NoiseOption = True,
    room: RoomOption = True,
) -> None:
    """Data of stage 2: spoken and written questions with answers.

    Sources: named questions, questions about pictures (easy-vqa, drawings), a .txt file with one question per line, or
    a .json file in the layout of LLaVA and Lyra, whose human turns are synthesized. Recordings keep their transcripts.
    Questions without an answer are answered by a text-only language model.

    
    Examples:
      lyra data build instruct --source chitchat:3000 --source easy-vqa:6000 --source drawings:2000 --out data/instruct
      lyra data build instruct --source llava.json --media-root images --spoken-share 0.5 --out data/spoken-llava
    """
    with building():
        from model_core.data.build.instruct import InstructSpec

        spec = InstructSpec(
            name=name or "instruct",
            seed=seed,
            samples=samples,
            shard_samples=shard,
            sources=sources_of(source),
            style=style_of(voices, vary, noise, room),
            spoken_share=spoken_share,
            longest_spoken=longest_spoken,
            answers_by=answers_by,
            known_answers=known_answers,
            answer_tokens=answer_tokens,
            checkpoint=checkpoint,
            media_root=media_root,
        )
        run(spec, out, workers)


@app.command("long-speech")
def long_speech(
    source: SourceOption,
    out: OutOption,
    voices: VoicesOption = VOICES,
    recordings: Annotated[int, typer.Option(min=1, help="Number of joined recordings.")] = 1000,
    readings: Annotated[int, typer.Option(min=3, help="Number of synthesized sentences to join them from.")] = 4000,
    shortest: Annotated[float, typer.Option(min=1, help="Minimum length of joined recordings, in seconds.")] = 20,
    longest: Annotated[float, typer.Option(min=1, help="Maximum seconds; your own longer ones are dropped.")] = 600,
    even_lengths: Annotated[
        bool, typer.Option("--even-lengths", help="Draw lengths uniformly instead of log-uniformly.")
    ] = False,
    tasks: Annotated[
        str,
        typer.Option(
            help="Tasks with weights: transcribe, part, after, before, order, needle; question and summary "
            "are asked and answered by a language model."
        ),
    ] = TASKS,
    transcribe_seconds: Annotated[float, typer.Option(min=1, help="Maximum length of full transcripts.")] = 60,
    answers_by: Annotated[
        str, typer.Option(help="Preset whose language model asks questions and writes summaries.")
    ] = "nano",
    answer_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum tokens of its answers; longer ones are cut off, without an end token.")
    ] = 64,
    checkpoint: CheckpointOption = None,
    samples: SamplesOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    shard: ShardOption = 25,
    name: NameOption = None,
    vary: VaryOption = True,
    noise: NoiseOption = True,
    room: RoomOption = True,
) -> None:
    """Data of stage 3: long recordings with questions about parts, order and content, and hidden needles.

    Sources: named texts or a .txt file, synthesized by several voices and joined with pauses, and .jsonl files with
    your own long recordings, each line {"audio": "path", "text": "transcript"}.

    
    Examples:
      lyra data build long-speech --source austen --source chitchat --recordings 1000 --out data/long
      lyra data build long-speech --source talks.jsonl --tasks needle=2,after,summary --longest 7200 --out data/talks
    """
    with building():
        from model_core.data.build.long_source import TaskOptions
        from model_core.data.build.long_speech import LongSpeechSpec
        from model_core.data.build.tasks import Weights

        spec = LongSpeechSpec(
            name=name or "long-speech",
            seed=seed,
            samples=samples,
            shard_samples=shard,
            sources=sources_of(source),
            style=style_of(voices, vary, noise, room),
            asking=TaskOptions(
                weights=Weights.parse(tasks),
                transcribe_seconds=transcribe_seconds,
                answers_by=answers_by,
                answer_tokens=answer_tokens,
                checkpoint=checkpoint,
            ),
            recordings=recordings,
            readings=readings,
            shortest=shortest,
            longest=longest,
            even_lengths=even_lengths,
        )
        run(spec, out, workers)


@app.command("speech-generation")
def speech_generation(
    source: SourceOption,
    out: OutOption,
    readings: Annotated[
        int, typer.Option(min=1, help="Number of samples that the voice speaks for the codebook.")
    ] = 1500,
    samples: SamplesOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 1,
    shard: ShardOption = 2000,
    name: NameOption = None,
) -> None:
    """Data of stage 4 for nano: answers with their speech units, and a codebook of the units' audio.

    Sources: named texts, a .txt file with one answer per line, or `figures` (numbers, dates, prices, lists); one to
    three sentences of the first two are joined to an answer.

    \b
    Examples:
      lyra data build speech-generation --source chitchat:9000 --source figures:1000 --out data/units
    """
    with building():
        from model_core.data.build.speech_generation import SpeechGenerationSpec

        spec = SpeechGenerationSpec(
            name=name or "speech-generation",
            seed=seed,
            samples=samples,
            shard_samples=shard,
            sources=sources_of(source),
            readings=readings,
        )
        run(spec, out, workers)


@contextmanager
def building() -> Iterator[None]:
    """Turns builders' errors into CommandFailed with a hint."""
    with model_failures():
        from model_core.data.voices import VoiceMissing

        try:
            yield
        except VoiceMissing as error:
            raise CommandFailed(str(error), "install it, or name the voices that are there with --voices") from error


def sources_of(texts: list[str]) -> "tuple[Source, ...]":
    """Parses the options `--source`. Raises InvalidInput."""
    from model_core.data.build.sources import Source

    return tuple(Source.parse(text) for text in texts)


def style_of(voices: str, vary: bool, noise: bool, room: bool) -> "Style":
    """The style from the options on voices. Raises InvalidInput."""
    from model_core.data.build.synthesis import Style

    return Style(voices=Style.parse_voices(voices), vary=vary, noise=noise, room=room)


def run(spec: "Spec", out: Path, workers: int) -> None:
    """Builds with a progress bar, then prints a summary. Raises InvalidInput, DataError, WeightsMissing."""
    from model_core.data.build.work import build

    with step_progress() as show:
        manifest = build(spec, out, home=lyra_home(), workers=workers, show=show)
    dropped = "".join(f", {count:,} dropped ({reason})" for reason, count in manifest.dropped.items())
    mix = ", ".join(f"{count:,} {modality}" for modality, count in manifest.mix.items())
    note(f"{out}: {manifest.samples:,} samples ({mix}), {manifest.seconds / 3600:.2f} h of audio{dropped}")
