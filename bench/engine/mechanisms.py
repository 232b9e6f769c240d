"""Every mechanism of the engine that can be switched, on and off, each by the figure that it is there for.

A new mechanism is a new entry of `MECHANISMS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.engine import ours
from bench.engine.alone import BLOCKS, KEEP_RATE
from bench.engine.figures import Figures, Plan, Target, summary, take_turns
from bench.engine.ours import LanguageModel
from bench.engine.prompts import conversation, question, recording
from model_core.language.messages import Message, Role

_REQUESTS = 8
_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A mechanism, and the seconds of something that it makes faster.

    Attributes:
        what: What is timed.
        seconds: Of a repeat, with the mechanism on or off.
    """

    what: str
    seconds: Callable[[LanguageModel, bool, int], float]


def mechanisms(plan: Plan) -> tuple[Figures, list[Target]]:
    """Seconds with each mechanism on and off."""
    figures: Figures = {}
    for name, mechanism in MECHANISMS.items():
        models = {on: ours.load(plan.threads, prefix_caching=on or name != "prefix cache") for on in (True, False)}
        ways = {"on" if on else "off": partial(mechanism.seconds, model, on) for on, model in models.items()}
        seconds = {way: summary(values) for way, values in take_turns(ways, plan.repeats).items()}
        gain = round(seconds["off"]["median"] / seconds["on"]["median"], 2)
        figures[name] = {"what": mechanism.what, "seconds": seconds, "off_over_on": gain}
    return figures, []


def _second_question(model: LanguageModel, on: bool, repeat: int) -> float:
    tokens = recording(model.decoder.embed_tokens.weight, seed=repeat + 1)
    ours.answer(model, [Message(Role.USER, [tokens, "What is said first?"])], ours.options(1))
    return ours.answer(model, [Message(Role.USER, [tokens, "Who is speaking?"])], ours.options(1)).first_seconds


def _recording(model: LanguageModel, on: bool, repeat: int) -> float:
    # Other recordings than with it off, for these layers may be cached.
    tokens = recording(model.decoder.embed_tokens.weight, seed=2 * repeat + 2 + on)
    asked = ours.options(1, keep_rate=KEEP_RATE if on else 1.0, blocks=BLOCKS)
    return ours.answer(model, [Message(Role.USER, [tokens, "What is said first?"])], asked).first_seconds


def _batch(model: LanguageModel, on: bool, repeat: int) -> float:
    texts = [question(number + _REQUESTS * (repeat + 1)) for number in range(_REQUESTS)]
    requests = [(conversation(text), ours.options(_TOKENS)) for text in texts]
    batches = [requests] if on else [[each] for each in requests]
    return sum(max(a.token_seconds[-1] for a in ours.answer_together(model, batch)) for batch in batches)


MECHANISMS = {
    "prefix cache": Mechanism("first token of a second question about five minutes", _second_question),
    "extraction": Mechanism("first token of a question about five minutes", _recording),
    "batching": Mechanism(f"{_REQUESTS} answers of {_TOKENS} tokens", _batch),
}
