"""Data of stage 4 for nano: answers with their phoneme units as CTC targets, and a codebook of the voice's units.

`codebook.safetensors`, beside the shards, has the voice's latents, units and durations for the first samples; the
vocoder is trained on it.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from tokenizers import Tokenizer

from model_core.checkpoints.packages import file_sha256
from model_core.checkpoints.store import part_folder
from model_core.data.build.align import sentences_of
from model_core.data.build.sources import Made, Mixture, OpenSource, Source, sample_id, texts_sha256
from model_core.data.build.work import BuildContext, Dropped, Maker, Spec, rng_of
from model_core.data.conversation import Conversation, Turn
from model_core.data.files import written_aside
from model_core.language.messages import Role
from model_core.presets import nano
from model_core.speech.codebook import write_codebook
from model_core.speech.ctc import frames_needed
from model_core.speech.latents import LatentReader, Utterance
from model_core.speech.phone_units import answer_phonemes, phone_units
from model_core.text.phonemes import EnglishPhonemes

CODEBOOK = "codebook.safetensors"
FIGURES = "figures"

REQUEST = "Repeat: "
NOT_SPEAKABLE, TOO_MANY_UNITS = "not-speakable", "more-units-than-frames"
_MAX_SENTENCES = 3
_JOINTS = (" ", " ", " ", "\n", "\n\n")
_MAX_PHONEMES = 200  # of an utterance, as in serving


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechGenerationSpec(Spec):
    """Specification of a speech-generation set.

    Args:
        sources: Named sentences, a .txt file with one text per line, or `figures`: numbers, dates, prices and lists.
        readings: Number of samples that the voice speaks for the codebook.
    """

    kind: ClassVar[str] = "speech-generation"

    sources: tuple[Source, ...]
    readings: int = 1500

    def open(self, context: BuildContext) -> Maker:
        """Raises InvalidInput if a source does not exist, WeightsMissing if nano's weights are not installed."""
        language = part_folder(context.home, "nano", "language")
        answers = AnswerMaker(Tokenizer.from_file(str(language / "tokenizer.json")))
        opened = [(source, self._open(source, answers, context)) for source in self.sources]
        maker = Mixture(opened, self.seed, self.samples)
        reader = LatentReader(part_folder(context.home, "nano", "voice"))
        return with_codebook(maker, reader, self.readings, context)

    def _open(self, source: Source, answers: "AnswerMaker", context: BuildContext) -> OpenSource:
        if source.name == FIGURES:
            return Figures(self.seed, answers)
        return Sentences(source.name, sentences_of(source, context), self.seed, answers)


class AnswerMaker:
    """Makes samples from texts.

    Args:
        tokenizer: The language model's; the number of tokens determines the number of unit frames.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._phonemes = EnglishPhonemes()

    def sample(self, name: str, text: str, source: str) -> Made:
        """A conversation whose answer is `text`, with its units, or the reason why it is dropped."""
        units = phone_units(answer_phonemes(text, self._phonemes))
        if not units:
            return Dropped(name, NOT_SPEAKABLE, f"{text!r} contains nothing to speak")
        tokens = len(self._tokenizer.encode(text, add_special_tokens=False).ids)
        frames, needed = tokens * nano.UNIT_GENERATOR.frames, frames_needed(units)
        if needed > frames:
            message = f"{text!r} needs {needed} frames, but its {tokens} tokens have {frames}"
            return Dropped(name, TOO_MANY_UNITS, message)
        turns = (Turn(role=Role.USER, text=REQUEST + text), Turn(role=Role.ASSISTANT, text=text))
        return Conversation(id=name, turns=turns, source=source, units=(tuple(units),))


class Sentences(OpenSource):
    """One to three sentences separated by spaces or line breaks: answers that teach pauses too."""

    def __init__(self, name: str, texts: list[str], seed: int, answers: AnswerMaker) -> None:
        self._name, self._texts, self._seed, self._answers = name, texts, seed, answers
        self.available = len(texts)
        self.origin = texts_sha256(texts)

    def make(self, indices: Sequence[int]) -> Iterator[Made]:
        """A sample per index that begins with its sentence."""
        for index in indices:
            rng = rng_of(self._seed, self._name, index)
            text = self._texts[index % self.available]
            for _ in range(rng.randrange(_MAX_SENTENCES)):
                text += rng.choice(_JOINTS) + rng.choice(self._texts)
            yield self._answers.sample(sample_id(self._name, index), text, self._name)


class Figures(OpenSource):
    """Short texts with what prose rarely has: numbers, years, prices, percentages, times and lists."""

    def __init__(self, seed: int, answers: AnswerMaker) -> None:
        self._seed, self._answers = seed, answers
        self.available = 20_000
        self.origin = texts_sha256([*_FIGURES, *_THINGS, *_MONTHS])

    def make(self, indices: Sequence[int]) -> Iterator[Made]:
        """A sample per index."""
        for index in indices:
            text = figures_text(rng_of(self._seed, FIGURES, index))
            yield self._answers.sample(sample_id(FIGURES, index), text, FIGURES)


_THINGS = (
    "apples", "people", "miles", "years", "books", "cities", "planets", "hours", "students", "kilometers", "cars",
    "letters", "islands", "minutes", "animals", "rivers", "houses", "degrees", "countries", "dollars",
)  # fmt: skip
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_FIGURES = (
    "There are {small} {thing}.", "It was {big} {thing} in all.", "That happened in {year}.", "It costs ${price}.",
    "About {share}% of the {thing} are gone.", "It began on {month} {day}, {year}.", "We meet at {hour}:{minute}.",
    "The answer is {small}.", "{small} plus {day} is {share}.", "It is {share}.{digit} {thing} long.", "{year}",
    "1. The {thing}\n2. The {other}\n3. The {third}", "- {small} {thing}\n- {day} {other}",
    "The {day}th of {month} was the {rank} day.", "From {year} to {year2}, it had {big} {thing}.", "{small}.",
    "**{month}** has {day} {thing}.", "The {rank} of the {small} {thing} is the best.", "It has {thousands} {thing}.",
)  # fmt: skip
_RANKS = ("first", "second", "third", "1st", "2nd", "3rd", "4th", "10th", "21st", "19th", "20th")


def figures_text(rng: random.Random) -> str:
    """A random text of figures."""
    things = rng.sample(_THINGS, 3)
    return rng.choice(_FIGURES).format(
        small=rng.randrange(100),
        big=rng.randrange(100, 10_000),
        thousands=f"{rng.randrange(1000, 10_000_000):,}",
        year=rng.randrange(1400, 2030),
        year2=rng.randrange(1400, 2030),
        price=f"{rng.randrange(100)}.{rng.randrange(100):02}",
        share=rng.randrange(1, 100),
        digit=rng.randrange(10),
        day=rng.randrange(4, 21),
        hour=rng.randrange(1, 13),
        minute=f"{rng.randrange(60):02}",
        month=rng.choice(_MONTHS),
        rank=rng.choice(_RANKS),
        thing=things[0],
        other=things[1],
        third=things[2],
    )


class PhonemeReader(Protocol):
    """A voice that returns latents instead of audio: `LatentReader`."""

    def read(self, phonemes: str) -> Utterance: ...


def with_codebook(maker: Mixture, reader: PhonemeReader, readings: int, context: BuildContext) -> Mixture:
    """Writes the codebook of the maker's first samples beside the shards, if missing, and returns the maker."""
    path = context.scratch.parent / CODEBOOK
    if not path.is_file():
        with written_aside(path) as partial:
            write_codebook(partial, _readings(maker, reader, min(readings, maker.samples), context))
    maker.origins = {**maker.origins, CODEBOOK: file_sha256(path)}
    return maker


def _readings(maker: Mixture, reader: PhonemeReader, wanted: int, context: BuildContext) -> Iterator[Utterance]:
    phonemes, done = EnglishPhonemes(), 0
    for made in maker.make(range(maker.samples)):
        said = answer_phonemes(made.answers[-1], phonemes) if isinstance(made, Conversation) else ""
        if 0 < len(said) <= _MAX_PHONEMES:
            yield reader.read(said)
            done += 1
            context.show("readings", done, wanted, "")
        if done == wanted:
            return
