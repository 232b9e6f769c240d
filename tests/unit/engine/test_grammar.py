"""Answers that follow a JSON schema, with random logits."""

import json
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from model_core.engine.grammar import JsonConstraint, JsonGrammar, UnusableSchema
from model_core.engine.language_model import LanguageModel
from model_core.engine.request import Delta, Finish, GenerationOptions
from model_core.engine.sampler import BatchSampler, RowSampling, SampledToken
from model_core.engine.sampling_params import SamplingParams
from model_core.errors import InvalidInput
from model_core.language.messages import Message, Role
from model_core.presets import build_language_model, tiny

TOKENIZER = tiny.tokenizer()
STOP: int = TOKENIZER.encode("<|im_end|>").ids[0]
VOCABULARY = TOKENIZER.get_vocab_size() + 5  # as where a model's vocabulary is padded
GRAMMAR = JsonGrammar(TOKENIZER, VOCABULARY, [STOP])
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Ann", "Zoë"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def answer(constraint: JsonConstraint, seed: int, max_tokens: int = 300, **params: Any) -> tuple[str, bool]:
    """Samples from random logits; whether the answer ended by itself."""
    generator = torch.Generator().manual_seed(seed)
    row = RowSampling(SamplingParams(temperature=1.0, seed=seed, **params), constraint=constraint)
    ids: list[int] = []
    for _ in range(max_tokens):
        logits_1V = 3 * torch.randn(1, VOCABULARY, generator=generator)
        (sampled,) = BatchSampler().sample(logits_1V, [row])
        assert isinstance(sampled, SampledToken)
        if sampled.id == STOP:
            return TOKENIZER.decode(ids), True
        ids.append(sampled.id)
    return TOKENIZER.decode(ids), False


@pytest.mark.parametrize("seed", range(20))
def test_any_logits_give_json_of_the_schema(seed: int) -> None:
    text, stopped = answer(GRAMMAR.compile(json.dumps(PERSON)), seed)
    assert stopped
    value = json.loads(text)
    assert value.keys() == {"name", "age", "tags"}
    assert value["name"] in ("Ann", "Zoë")
    assert 0 <= value["age"] <= 150
    assert len(value["tags"]) <= 3
    assert all(isinstance(tag, bool) for tag in value["tags"])


def test_other_options_leave_the_schema_in_force() -> None:
    biased = {TOKENIZER.encode("a").ids[0]: 100.0, STOP: 100.0}
    text, stopped = answer(
        GRAMMAR.compile(json.dumps(PERSON)), 1, top_p=0.3, min_p=0.5, top_k=2, frequency_penalty=2.0, logit_bias=biased
    )
    assert stopped
    assert json.loads(text).keys() == PERSON["properties"].keys()


def test_white_space_cannot_go_on_for_ever() -> None:
    """Even where a space is always the most likely token that may come next."""
    space = TOKENIZER.encode(" ", add_special_tokens=False).ids[0]
    text, stopped = answer(GRAMMAR.compile(json.dumps(PERSON)), 2, logit_bias={space: 100.0})
    assert stopped
    assert "  " not in text


def test_answer_that_max_tokens_cuts_is_the_beginning_of_json() -> None:
    text, stopped = answer(GRAMMAR.compile(json.dumps(PERSON)), 3, max_tokens=5)
    assert not stopped
    assert text.startswith("{")


def test_finished_json_allows_only_the_stop_token() -> None:
    constraint = GRAMMAR.compile('{"const": true}')
    for token in TOKENIZER.encode("true", add_special_tokens=False).ids:
        assert not constraint.finished
        assert constraint.allowed().nonzero().flatten().tolist() == [token]
        constraint.accept(token)
    assert constraint.finished
    assert constraint.allowed().nonzero().flatten().tolist() == [STOP]


def test_resumed_answer_goes_on_within_the_schema() -> None:
    ids = TOKENIZER.encode('{"name":"Ann","age":1', add_special_tokens=False).ids
    constraint = GRAMMAR.compile(json.dumps(PERSON))
    RowSampling(SamplingParams(), sampled_ids=ids, constraint=constraint)
    allowed = {TOKENIZER.decode([token]) for token in constraint.allowed().nonzero().flatten().tolist()}
    assert allowed == {*"0123456789", ",", " "}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "EOF while parsing"),
        ("[1]", "Expecting object"),
        ('{"const": "\ud800"}', "not JSON"),
        ('{"type": "strin"}', "Invalid type: strin"),
        ('{"not": {"type": "string"}}', "Unimplemented keys"),
        ('{"type": "integer", "minimum": 5, "maximum": 4}', "Unsatisfiable schema"),
        ('{"$ref": "#"}', "cannot be followed"),
        ('{"$ref": "http://example.com/schema.json"}', "not present"),
        ('{"type": "string", "pattern": "(?=x)y"}', "look-around"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "recursion limit"),
        (json.dumps({"allOf": [{"type": "string", "pattern": f".*{c}.*"} for c in "abcdefghijkl"]}), "Unable"),
    ],
)
def test_schema_that_cannot_be_followed_is_refused_by_name(schema: str, message: str) -> None:
    with pytest.raises(InvalidInput, match="json_schema: cannot be followed: ") as caught:
        GRAMMAR.compile(schema)
    assert message in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert len(str(caught.value)) < 300


class GivesUp:
    """A constraint that turns out to be too complex after the first token."""

    def __init__(self) -> None:
        self.accepted = 0

    def exclude(self, logits_V: Tensor) -> Tensor:
        if self.accepted:
            raise UnusableSchema("json_schema", "is too complex")
        return logits_V

    def accept(self, token: int) -> None:
        self.accepted += 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_schema_that_turns_out_too_complex_fails_its_row_alone(temperature: float) -> None:
    params = SamplingParams(temperature=temperature)
    rows = [RowSampling(params), RowSampling(params, constraint=GivesUp()), RowSampling(params)]
    logits_3V = torch.randn(3, VOCABULARY)
    assert all(isinstance(each, SampledToken) for each in BatchSampler().sample(logits_3V, rows))
    first, failed, last = BatchSampler().sample(logits_3V, rows)
    assert isinstance(first, SampledToken)
    assert isinstance(last, SampledToken)
    assert isinstance(failed, UnusableSchema)
    assert failed.field == "json_schema"
    assert [row.sampled for row in rows] == [2, 1, 2]


def test_threads_share_a_grammar() -> None:
    grammar, answers = JsonGrammar(TOKENIZER, VOCABULARY, [STOP]), []
    threads = [
        threading.Thread(target=lambda seed=seed: answers.append(answer(grammar.compile(json.dumps(PERSON)), seed)))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(json.loads(text) and stopped for text, stopped in answers)
    assert len(answers) == 4


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return build_language_model("tiny")


def test_language_model_answers_in_json(model: LanguageModel) -> None:
    params = SamplingParams(json_schema=json.dumps(PERSON), temperature=1.0, seed=1)
    *deltas, finish = model.generate([Message(Role.USER, ["hello"])], GenerationOptions(sampling=params))
    text = "".join(delta.text for delta in deltas if isinstance(delta, Delta))
    assert json.loads(text).keys() == PERSON["properties"].keys()
    assert isinstance(finish, Finish)
    assert finish.reason == "stop"
    bad = GenerationOptions(sampling=SamplingParams(json_schema="{"))
    with pytest.raises(InvalidInput, match="json_schema"):
        next(model.generate([Message(Role.USER, ["hello"])], bad))
