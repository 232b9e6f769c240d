"""`lyra eval` without a published data set: facts, needles, text, spoken answers, throughput."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.connection import lyra_home
from cli.evaluate_options import (
    AdapterOption,
    BlocksOption,
    FolderOption,
    GatewayOption,
    KeepRateOption,
    KeyOption,
    LimitOption,
    PresetOption,
    QuestionOverrides,
    QuestionsOption,
    numbers,
    run_benchmark,
    subject_of,
)
from cli.failure import model_failures
from cli.presets import CheckpointOption


def factual(
    written: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help='Lines {"question", "answer", "accept": [...]}.')
    ],
    spoken: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help='The same questions: lines {"audio", "answer", "accept"}.'),
    ] = None,
    judge: Annotated[
        str, typer.Option(help="Right is an answer that holds the expected one (contained) or that is it (whole).")
    ] = "contained",
    preset: PresetOption = "nano",
    out: FolderOption = None,
    adapter: AdapterOption = "",
    keep_rate: KeepRateOption = None,
    blocks: BlocksOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """Short factual questions: the share answered right in writing that is answered right in speech too.

    \b
    Example:
      lyra eval factual --written factual-written.jsonl --spoken factual-spoken.jsonl --out results/factual
    """
    with model_failures():
        from model_core.evaluation.factual import factual_report, load_factual

        overrides = QuestionOverrides(adapter=adapter, keep_rate=keep_rate, blocks=blocks)
        samples = overrides.apply_to(load_factual(written, spoken))
        subject = subject_of(preset, checkpoint, gateway, key)
    run_benchmark("answered", out, lambda show: factual_report(samples, subject, out, judge=judge, progress=show))


def needle(
    preset: PresetOption = "nano",
    minutes: Annotated[str, typer.Option(help="Lengths of the recordings.")] = "1,2,3,5,10",
    depths: Annotated[str, typer.Option(help="Where the needle is: 0 first, 1 last.")] = "0,0.25,0.5,0.75,1",
    needles: Annotated[int, typer.Option(min=1, help="Needles for each length and depth.")] = 1,
    texts: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Sentences of the recordings, one a line; else held-out ones."),
    ] = None,
    voices: Annotated[str, typer.Option(help="Who reads them, in turn.")] = "joe",
    keep_rates: Annotated[
        str, typer.Option(help="Keep rates to measure side by side, the first one for the figure; 1 keeps all.")
    ] = "",
    blocks: BlocksOption = None,
    seed: Annotated[int, typer.Option(help="Decides on needles and sentences.")] = 0,
    out: FolderOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """A sentence to be found in a long recording: a grid of lengths and depths, and its heat map.

    \b
    Examples:
      lyra eval needle --minutes 1,3 --keep-rates 1,0.7 --out results/needle
      lyra eval needle --texts book.txt --voices joe,slt,awb
    """
    with model_failures():
        from model_core.evaluation.needle import Haystack, Setting, needle_report, needle_samples

        rates = numbers(keep_rates, "--keep-rates") if keep_rates else [None]
        lengths, places = numbers(minutes, "--minutes"), numbers(depths, "--depths")
        haystack = Haystack(_sentences(texts), tuple(voices.split(",")), lyra_home())
        samples = needle_samples(
            haystack,
            minutes=lengths,
            depths=places,
            needles=needles,
            settings=[Setting(keep_rate=rate, blocks=blocks) for rate in rates],
            seed=seed,
        )
        subject = subject_of(preset, checkpoint, gateway, key)
    run_benchmark("searched", out, lambda show: needle_report(samples, subject, out, progress=show))


def text_quality(
    preset: PresetOption = "nano",
    questions: QuestionsOption = None,
    adapters: Annotated[str, typer.Option(help="Adapters to force on text, for comparison.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 64,
    out: FolderOption = None,
    limit: LimitOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """Whether adapters leave text alone: the share of answers that are the base's to the letter.

    \b
    Example:
      lyra eval text-quality --adapters speech,long_speech --out results/text
    """
    with model_failures():
        from model_core.evaluation.prompts import load_prompts
        from model_core.evaluation.text_quality import text_quality_report

        prompts, subject = load_prompts(questions)[:limit], subject_of(preset, checkpoint, gateway, key)
    forced = [each.strip() for each in adapters.split(",") if each.strip()]
    run_benchmark(
        "answered",
        out,
        lambda show: text_quality_report(prompts, subject, out, adapters=forced, max_tokens=max_tokens, progress=show),
    )


def spoken_answer(
    preset: PresetOption = "nano",
    questions: QuestionsOption = None,
    voice: Annotated[str, typer.Option(help="Voice of the answers; empty for the default one.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 60,
    out: FolderOption = None,
    limit: LimitOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """Spoken answers: how well Whisper understands them, their real-time factor, how soon they begin.

    \b
    Example:
      lyra eval spoken-answer --voice joe --limit 20 --out results/spoken
    """
    with model_failures():
        from model_core.evaluation.prompts import load_prompts
        from model_core.evaluation.spoken_answer import spoken_answer_report

        prompts, subject = load_prompts(questions)[:limit], subject_of(preset, checkpoint, gateway, key)
    run_benchmark(
        "spoken",
        out,
        lambda show: spoken_answer_report(prompts, subject, out, voice=voice, max_tokens=max_tokens, progress=show),
    )


def throughput(
    preset: PresetOption = "nano",
    questions: QuestionsOption = None,
    audio: Annotated[
        list[Path] | None, typer.Option(exists=True, dir_okay=False, help="Spoken questions in place of written ones.")
    ] = None,
    concurrency: Annotated[str, typer.Option(help="Requests under way at a time, each measured.")] = "1,2,4",
    requests: Annotated[int, typer.Option(min=1, help="Requests for each.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 32,
    out: FolderOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """Tokens and requests a second, and the wait for the first token, by requests at a time.

    \b
    Example:
      lyra eval throughput --gateway http://127.0.0.1:8000 --concurrency 1,4,16 --requests 64
    """
    with model_failures():
        from model_core.evaluation.prompts import load_prompts
        from model_core.evaluation.subject import AudioFile, Question
        from model_core.evaluation.throughput import throughput_report

        if audio:
            asked = [Question(name=path.name, audio=(AudioFile(path),), max_tokens=max_tokens) for path in audio]
        else:
            asked = [Question(name=name, text=text, max_tokens=max_tokens) for name, text in load_prompts(questions)]
        subject = subject_of(preset, checkpoint, gateway, key)
    levels = [int(level) for level in numbers(concurrency, "--concurrency")]
    run_benchmark(
        "answered",
        out,
        lambda show: throughput_report(asked, subject, concurrency=levels, requests=requests, progress=show),
    )


def _sentences(texts: Path | None) -> tuple[str, ...]:
    """Lines of a file, or sentences that are kept out of all training."""
    if texts is None:
        from model_core.data.sources.texts import load_sentences

        return tuple(load_sentences("chitchat", lyra_home() / "training" / "packages", held_out=True))
    return tuple(line.strip() for line in texts.read_text(encoding="utf-8").splitlines() if line.strip())


COMMANDS: dict[str, Callable[..., Any]] = {
    "factual": factual,
    "needle": needle,
    "spoken-answer": spoken_answer,
    "text-quality": text_quality,
    "throughput": throughput,
}
