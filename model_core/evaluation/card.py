"""nano's model card: the metrics it reports, how each is measured on the committed test sets, and its target.

The table `PARTS` is the card. Timed parts run alone at the end; the others may share the machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_core.errors import InvalidInput
from model_core.evaluation.ablation import ablation_report
from model_core.evaluation.factual import WRITTEN, factual_report, load_factual
from model_core.evaluation.manifest import Progress
from model_core.evaluation.manifests import exact_match, picture_questions, recorded_sentences
from model_core.evaluation.needle import Haystack, Setting, needle_report, needle_samples
from model_core.evaluation.picture_benchmarks import PictureBenchmark, picture_report
from model_core.evaluation.predictions import Row
from model_core.evaluation.prompts import load_prompts
from model_core.evaluation.report import Report
from model_core.evaluation.spoken_answer import spoken_answer_report
from model_core.evaluation.subject import Subject
from model_core.evaluation.text_quality import text_quality_report
from model_core.evaluation.tts import DEFAULT_VOICE, TINY_VOICE
from model_core.evaluation.wer import word_error_report
from model_core.metrics.short_answers import contains_answer, is_right
from model_core.presets import WeightSource, get_preset

# With nano's default number of blocks.
KEEP_RATES = (1.0, 0.8, 0.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A row of the card.

    Attributes:
        what: Description; results are compared by it from release to release.
        at: Path of keys to the value in a part's result.
        percent: Whether the value is a fraction shown as a percentage.
        minimum, maximum: Its target; with neither it is only reported.
        minimum_at: Path of keys to another value that is its minimum.
    """

    what: str
    at: tuple[str, ...] = ("value",)
    percent: bool = True
    minimum: float | None = None
    maximum: float | None = None
    minimum_at: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PartContext:
    """What the benchmark of a part runs with.

    Attributes:
        subject: What is evaluated.
        data: Folder of the test sets.
        folder: Folder of the part's predictions.
        home: Folder of weights and packages.
        adapters: Adapters of the subject.
        reader: Name of the voice that synthesizes spoken texts.
        show: Called with the number of samples done and in total.
    """

    subject: Subject
    data: Path
    folder: Path
    home: Path | None
    adapters: tuple[str, ...]
    reader: str
    show: Progress


Run = Callable[[PartContext, Mapping[str, Any]], Report]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A benchmark of the card: its function, its options, and the figures it contributes."""

    name: str
    run: Run
    options: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[Figure, ...]
    timed: bool = False


def voice_of(preset: str) -> str:
    """Name of the voice that synthesizes spoken texts for a preset."""
    return TINY_VOICE if get_preset(preset).weights is WeightSource.RANDOM else DEFAULT_VOICE


def choose_parts(only: tuple[str, ...]) -> tuple[Part, ...]:
    """The parts whose names start with one of the given prefixes; all parts if none is given. Raises InvalidInput."""
    for wanted in only:
        if not any(part.name.startswith(wanted) for part in PARTS):
            raise InvalidInput("only", f"{wanted!r} is not a part; parts are {', '.join(part.name for part in PARTS)}")
    return tuple(part for part in PARTS if not only or part.name.startswith(only))


def _wer(context: PartContext, options: Mapping[str, Any]) -> Report:
    sentences = recorded_sentences(context.data / options["manifest"])
    whisper = bool(options.get("whisper"))
    return word_error_report(sentences, context.subject, context.folder, whisper_decoder=whisper, progress=context.show)


def _pictures(context: PartContext, options: Mapping[str, Any]) -> Report:
    samples = picture_questions(context.data / options["manifest"])
    benchmark = PictureBenchmark(
        name=options["manifest"],
        metric="vqa",
        load=lambda folder, _: picture_questions(folder),
        score=lambda prediction, answers: float(is_right(prediction, answers)),
    )
    form = "recorded" if samples[0].question.audio else "written"
    return picture_report(benchmark, samples, context.subject, context.folder, form=form, progress=context.show)


def _factual(context: PartContext, options: Mapping[str, Any]) -> Report:
    samples = load_factual(context.data / "factual-written.jsonl", context.data / "factual-spoken.jsonl")
    return factual_report(samples, context.subject, context.folder, progress=context.show)


def _spoken(context: PartContext, options: Mapping[str, Any]) -> Report:
    prompts = load_prompts(None)[: options["prompts"]]
    voice = options.get("voice", "")
    return spoken_answer_report(prompts, context.subject, context.folder, voice=voice, progress=context.show)


def _needle(context: PartContext, options: Mapping[str, Any]) -> Report:
    from model_core.data.sources.texts import load_sentences
    from model_core.presets import lyra_home

    packages = (context.home or lyra_home()) / "training" / "packages"
    haystack = Haystack(tuple(load_sentences("chitchat", packages, held_out=True)), (context.reader,), context.home)
    samples = needle_samples(
        haystack,
        minutes=options["minutes"],
        depths=options["depths"],
        needles=options["needles"],
        settings=[Setting(keep_rate=rate) for rate in options["keep_rates"]],
    )
    return needle_report(samples, context.subject, context.folder, context.show)


def _extractor(context: PartContext, options: Mapping[str, Any]) -> Report:
    samples = picture_questions(context.data / options["manifest"])[: options["questions"]]
    settings = {f"keep {rate:g}": {"keep_rate": rate} for rate in KEEP_RATES}
    return ablation_report(
        samples,
        context.subject,
        context.folder,
        metric="extractor",
        settings=settings,
        score=exact_match,
        progress=context.show,
    )


def _text(context: PartContext, options: Mapping[str, Any]) -> Report:
    prompts = load_prompts(None)[: options["prompts"]]
    return text_quality_report(
        prompts, context.subject, context.folder, adapters=context.adapters, progress=context.show
    )


def _adapters(context: PartContext, options: Mapping[str, Any]) -> Report:
    samples = load_factual(context.data / "factual-written.jsonl")[: options["questions"]]
    assert all(sample.about["form"] == WRITTEN for sample in samples)
    settings = {name or "as served": {"adapter": name} for name in ("base", "", *context.adapters)}
    return ablation_report(
        samples,
        context.subject,
        context.folder,
        metric="adapters_on_text",
        settings=settings,
        score=_accepted,
        progress=context.show,
    )


def _accepted(row: Row) -> dict[str, Any]:
    return {"score": float(contains_answer(row["prediction"], row["accepted"]))}


def _keep(rate: float, *keys: str) -> tuple[str, ...]:
    return ("details", "settings", f"keep-{rate:g}", *keys)


def _wer_part(name: str, manifest: str, what: str, maximum: float | None = None, *, whisper: bool = False) -> Part:
    figure = Figure(what=what, maximum=maximum)
    return Part(name=name, run=_wer, options={"manifest": manifest, "whisper": whisper}, figures=(figure,))


def _picture_part(name: str, what: str, minimum: float | None = None) -> Part:
    figure = Figure(what=what, minimum=minimum)
    return Part(name=name, run=_pictures, options={"manifest": f"{name}.jsonl"}, figures=(figure,))


def _spoken_figures(voice: str, with_targets: bool) -> tuple[Figure, ...]:
    """The figures of a voice; only the trained voice has targets."""
    return (
        Figure(what=f"spoken answers, {voice}: WER as Whisper hears them", maximum=0.20 if with_targets else None),
        Figure(
            what=f"spoken answers, {voice}: real-time factor",
            at=("details", "real_time_factor"),
            percent=False,
            maximum=0.3 if with_targets else None,
        ),
        Figure(
            what=f"spoken answers, {voice}: answer tokens until the first sound (most)",
            at=("details", "first_audio_tokens_most"),
            percent=False,
            maximum=4 if with_targets else None,
        ),
        Figure(
            what=f"spoken answers, {voice}: the voice's own ms until the first sound (median)",
            at=("details", "first_audio_own_ms"),
            percent=False,
            maximum=100 if with_targets else None,
        ),
    )


_KNOWN, _HELD_OUT, _HUMAN = "sentences-known-voices.jsonl", "sentences-held-out-voice.jsonl", "human.jsonl"

PARTS = (
    # The longest first, so that two workers finish at about the same time.
    Part(
        name="needle-long",
        run=_needle,
        options={"minutes": (5.0, 10.0), "depths": (0.1, 0.5, 0.9), "needles": 1, "keep_rates": (1.0, 0.7)},
        figures=(
            Figure(what="needle, 5 min", at=_keep(1, "by_minutes", "5")),
            Figure(what="needle, 5 min, keep rate 0.7", at=_keep(0.7, "by_minutes", "5")),
            Figure(what="needle, 10 min", at=_keep(1, "by_minutes", "10")),
            Figure(what="needle, 10 min, keep rate 0.7", at=_keep(0.7, "by_minutes", "10")),
        ),
    ),
    Part(
        name="needle-short",
        run=_needle,
        options={"minutes": (1.0, 2.0, 3.0), "depths": (0.1, 0.5, 0.9), "needles": 2, "keep_rates": (1.0, 0.7)},
        figures=(
            Figure(what="needle, 1 to 3 min", at=_keep(1, "found"), minimum=0.70),
            Figure(what="needle, 1 to 3 min, keep rate 0.7", at=_keep(0.7, "found"), minimum_at=_keep(1, "found")),
        ),
    ),
    Part(
        name="adapters-on-text",
        run=_adapters,
        options={"questions": 30},
        figures=(
            Figure(what="written facts, as served", at=("details", "settings", "as served", "score")),
            Figure(what="written facts, speech adapter forced", at=("details", "settings", "speech", "score")),
        ),
    ),
    Part(
        name="factual",
        run=_factual,
        figures=(
            Figure(what="facts: right in writing (answer within the sentence)", at=("details", "written_contained")),
            Figure(what="facts: right in speech (answer within the sentence)", at=("details", "spoken_contained")),
            Figure(what="facts: of those right in writing, right in speech (within the sentence)", minimum=0.60),
            Figure(what="facts: the same, where the whole answer is the expected one", at=("details", "kept_whole")),
            Figure(what="facts: answers whose text is the same in both", at=("details", "same_text")),
        ),
    ),
    _picture_part("vqa-written", "easy-vqa test, written", 0.95),
    _picture_part("vqa-spoken", "easy-vqa test, spoken", 0.85),
    _picture_part("named-written", "named drawings, written"),
    _picture_part("named-spoken", "named drawings, spoken"),
    _picture_part("named-other-drawings", "named things drawn by another hand, written"),
    _wer_part("wer-held-out", _HELD_OUT, "WER, held-out sentences, held-out voice", 0.12),
    _wer_part("wer-known", _KNOWN, "WER, held-out sentences, known voices"),
    _wer_part("wer-human", _HUMAN, "WER, human recordings", 0.30),
    _wer_part("whisper-held-out", _HELD_OUT, "Whisper's decoder: held-out voice", whisper=True),
    _wer_part("whisper-known", _KNOWN, "Whisper's decoder: known voices", whisper=True),
    _wer_part("whisper-human", _HUMAN, "Whisper's decoder: human recordings", whisper=True),
    Part(
        name="text-quality",
        run=_text,
        options={"prompts": 8},
        figures=(Figure(what="text alone: answers that are the base's to the letter", minimum=1.0),),
    ),
    Part(
        name="extractor-speech",
        run=_needle,
        options={"minutes": (2.0,), "depths": (0.1, 0.5, 0.9), "needles": 1, "keep_rates": KEEP_RATES},
        figures=tuple(
            figure
            for rate in KEEP_RATES
            for figure in (
                Figure(what=f"needle in 2 min, keep rate {rate:g}", at=_keep(rate, "found")),
                Figure(
                    what=f"needle in 2 min, keep rate {rate:g}: seconds from the speech tokens to the first token",
                    at=_keep(rate, "seconds", "2"),
                    percent=False,
                ),
            )
        ),
        timed=True,
    ),
    Part(
        name="extractor-pictures",
        run=_extractor,
        options={"manifest": "vqa-spoken.jsonl", "questions": 20},
        figures=tuple(
            Figure(what=f"spoken easy-vqa, keep rate {rate:g}", at=("details", "settings", f"keep {rate:g}", "score"))
            for rate in KEEP_RATES
        ),
        timed=True,
    ),
    Part(
        name="spoken-answer",
        run=_spoken,
        options={"prompts": 16, "voice": "nano"},
        figures=_spoken_figures("generated voice", with_targets=True),
        timed=True,
    ),
    Part(
        name="spoken-answer-joe",
        run=_spoken,
        options={"prompts": 16, "voice": "joe"},
        figures=_spoken_figures("Piper voice", with_targets=False),
        timed=True,
    ),
)
