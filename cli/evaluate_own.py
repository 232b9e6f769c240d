"""`lyra eval` on files of your own: facts, needles, text, spoken answers, throughput."""

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
        str, typer.Option(help="A correct answer contains the expected one (contained) or equals it (whole).")
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
    """Short factual questions: of those answered correctly in writing, the share answered correctly in speech.

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
    depths: Annotated[str, typer.Option(help="Positions of the needle: 0 first, 1 last.")] = "0,0.25,0.5,0.75,1",
    needles: Annotated[int, typer.Option(min=1, help="Needles per length and depth.")] = 1,
    texts: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Sentences to speak, one per line; by default held-out ones."),
    ] = None,
    voices: Annotated[str, typer.Option(help="Voices that speak them, in turn.")] = "joe",
    keep_rates: Annotated[
        str, typer.Option(help="Keep rates to compare; the first one gives the result. 1 keeps all tokens.")
    ] = "",
    blocks: BlocksOption = None,
    seed: Annotated[int, typer.Option(help="Seed of needles and sentences.")] = 0,
    out: FolderOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """Needle in a haystack: find a sentence in a long recording, by length and depth, with a heat map.

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
    adapters: Annotated[str, typer.Option(help="Adapters to force on for text, for comparison.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of an answer.")] = 64,
    out: FolderOption = None,
    limit: LimitOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """Whether adapters leave text-only answers unchanged: the share identical to the base model's.

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
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of an answer.")] = 60,
    out: FolderOption = None,
    limit: LimitOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """Spoken answers: word error rate of Whisper's transcript, real-time factor, latency of the first audio.

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
        list[Path] | None, typer.Option(exists=True, dir_okay=False, help="Spoken questions instead of written ones.")
    ] = None,
    concurrency: Annotated[str, typer.Option(help="Levels of concurrency to measure.")] = "1,2,4",
    requests: Annotated[int, typer.Option(min=1, help="Requests per level.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of an answer.")] = 32,
    out: FolderOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """Tokens and requests per second, and latency of the first token, by concurrency.

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
    """The lines of a file, or sentences held out of all training."""
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
