"""`lyra eval` on published data sets: LibriSpeech, TextVQA, DocVQA, ChartQA, MM-Vet and Video-MME."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.connection import lyra_home
from cli.evaluate_options import (
    AdapterOption,
    BlocksOption,
    DataArgument,
    FolderOption,
    GatewayOption,
    KeepRateOption,
    KeyOption,
    LimitOption,
    PresetOption,
    QuestionOverrides,
    run_benchmark,
    subject_of,
)
from cli.failure import model_failures
from cli.presets import CheckpointOption

if TYPE_CHECKING:
    from model_core.evaluation.layouts import Questions

WrittenOption = Annotated[bool, typer.Option("--written", help="Ask in writing instead of speech.")]
VoiceOption = Annotated[
    str, typer.Option(help="Voice that speaks the questions if the folder has no recordings of them.")
]
PromptOption = Annotated[
    str | None, typer.Option(help="Written instruction with every question; empty for none. Default: the benchmark's.")
]
NO_PROMPT = ""


def librispeech(
    folder: DataArgument,
    preset: PresetOption = "nano",
    whisper_decoder: Annotated[
        bool, typer.Option("--whisper-decoder", help="Transcribe with Whisper's own decoder, as a baseline.")
    ] = False,
    out: FolderOption = None,
    limit: LimitOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """Word error rate on LibriSpeech.

    The folder contains SPEAKER/CHAPTER/*.flac with *.trans.txt beside them, for example LibriSpeech/test-clean.

    \b
    Example:
      lyra eval librispeech LibriSpeech/test-clean --preset base --checkpoint Lyra_Base_9B --out results/librispeech
    """
    with model_failures():
        from model_core.evaluation.librispeech import load_librispeech
        from model_core.evaluation.wer import word_error_report

        samples, subject = load_librispeech(folder)[:limit], subject_of(preset, checkpoint, gateway, key)
    run_benchmark(
        "transcribed",
        out,
        lambda show: word_error_report(samples, subject, out, whisper_decoder=whisper_decoder, progress=show),
    )


def _questions(folder: Path, written: bool, voice: str, prompt: str) -> "Questions":
    from model_core.evaluation.layouts import Questions

    return Questions(folder, written=written, reader=voice, home=lyra_home(), prompt=prompt)


def _picture_command(title: str, layout: str, metric: str) -> Callable[..., None]:
    """The command of one of the picture benchmarks, which differ only in names."""
    name = title.lower()

    def command(
        folder: DataArgument,
        preset: PresetOption = "nano",
        written: WrittenOption = False,
        voice: VoiceOption = "joe",
        prompt: PromptOption = None,
        out: FolderOption = None,
        limit: LimitOption = None,
        adapter: AdapterOption = "",
        keep_rate: KeepRateOption = None,
        blocks: BlocksOption = None,
        checkpoint: CheckpointOption = None,
        gateway: GatewayOption = None,
        key: KeyOption = None,
    ) -> None:
        with model_failures():
            from model_core.evaluation import picture_benchmarks as pictures

            chosen: pictures.PictureBenchmark = getattr(pictures, title.upper())
            questions = _questions(folder, written, voice, pictures.SHORT_ANSWER if prompt is None else prompt)
            overrides = QuestionOverrides(limit=limit, adapter=adapter, keep_rate=keep_rate, blocks=blocks)
            samples = overrides.apply_to(chosen.load(folder, questions))
            subject = subject_of(preset, checkpoint, gateway, key)
        run_benchmark(
            "answered",
            out,
            lambda show: pictures.picture_report(chosen, samples, subject, out, form=questions.form, progress=show),
        )

    command.__doc__ = f"""{metric} on {title}, asked in speech or in writing.

    The folder contains {layout}. Spoken questions are audio files in its folder speech or lyra_audios, named by
    question; without these they are synthesized.

    \b
    Examples:
      lyra eval {name} DIR --out results/{name}
      lyra eval {name} DIR --written --gateway http://127.0.0.1:8000
    """
    return command


def mm_vet(
    folder: DataArgument,
    preset: PresetOption = "nano",
    judge: Annotated[
        str | None, typer.Option(help="Base address of an OpenAI-compatible API whose model scores the answers.")
    ] = None,
    judge_model: Annotated[str, typer.Option(help="The judge's model; the paper's is gpt-4-0613.")] = "gpt-4-0613",
    judge_key: Annotated[str, typer.Option(envvar="LYRA_JUDGE_KEY", help="API key of the judge.")] = "",
    judge_runs: Annotated[int, typer.Option(min=1, help="How often each answer is scored; 5 in the paper.")] = 1,
    written: WrittenOption = False,
    voice: VoiceOption = "joe",
    prompt: PromptOption = None,
    out: FolderOption = None,
    limit: LimitOption = None,
    adapter: AdapterOption = "",
    keep_rate: KeepRateOption = None,
    blocks: BlocksOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """MM-Vet: open-ended answers, scored by a judge or, without one, by the words that they contain.

    The folder contains mm-vet.json and images/. Only --judge gives the paper's metric (mm_vet_score); without it the
    metric is mm_vet_match, the share of required elements that the answer contains.

    \b
    Examples:
      lyra eval mm-vet mm-vet --judge https://api.openai.com/v1 --out results/mm-vet
      lyra eval mm-vet mm-vet --written
    """
    with model_failures():
        from cli.judge import judge_at
        from model_core.evaluation.mm_vet import load_mm_vet, mm_vet_report

        questions = _questions(folder, written, voice, prompt or NO_PROMPT)
        overrides = QuestionOverrides(limit=limit, adapter=adapter, keep_rate=keep_rate, blocks=blocks)
        samples = overrides.apply_to(load_mm_vet(folder, questions))
        subject = subject_of(preset, checkpoint, gateway, key)
    run_benchmark(
        "answered",
        out,
        lambda show: mm_vet_report(
            samples,
            subject,
            out,
            form=questions.form,
            judge=judge_at(judge, judge_model, judge_key) if judge else None,
            judge_name=judge_model if judge else "",
            runs=judge_runs,
            progress=show,
        ),
    )


def videomme(
    folder: DataArgument,
    preset: PresetOption = "nano",
    duration: Annotated[str, typer.Option(help="Classes of duration: short, medium, long.")] = "short,medium,long",
    video_sound: Annotated[bool, typer.Option(help="Use the audio tracks too.")] = True,
    out: FolderOption = None,
    limit: LimitOption = None,
    adapter: AdapterOption = "",
    keep_rate: KeepRateOption = None,
    blocks: BlocksOption = None,
    checkpoint: CheckpointOption = None,
    gateway: GatewayOption = None,
    key: KeyOption = None,
) -> None:
    """Accuracy on Video-MME, by duration of the videos.

    The folder contains the questions as JSON (rows of the data set's table, or its evaluation template) and the videos
    in data/ or videos/.

    \b
    Example:
      lyra eval videomme Video-MME --duration short --no-video-sound --out results/videomme
    """
    with model_failures():
        from model_core.evaluation.videomme import load_videomme, videomme_report

        loaded = load_videomme(
            folder, durations=[each.strip() for each in duration.split(",")], video_sound=video_sound
        )
        samples = QuestionOverrides(limit=limit, adapter=adapter, keep_rate=keep_rate, blocks=blocks).apply_to(loaded)
        subject = subject_of(preset, checkpoint, gateway, key)
    run_benchmark("answered", out, lambda show: videomme_report(samples, subject, out, progress=show))


COMMANDS: dict[str, Callable[..., Any]] = {
    "librispeech": librispeech,
    "textvqa": _picture_command("TextVQA", "TextVQA_0.5.1_val.json and train_images/", "VQA accuracy"),
    "docvqa": _picture_command("DocVQA", "val_v1.0.json and documents/", "ANLS"),
    "chartqa": _picture_command(
        "ChartQA", "test/test_human.json, test/test_augmented.json and test/png/", "Relaxed accuracy"
    ),
    "mm-vet": mm_vet,
    "videomme": videomme,
}
