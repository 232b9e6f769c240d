"""The benchmark of the engine: what its figures are made of."""

import pytest
from tokenizers import Tokenizer

from bench.engine.__main__ import ROWS
from bench.engine.figures import OtherLoad, Target, p95, summary, take_turns
from bench.engine.ours import Answer, throughput
from bench.engine.prompts import conversation, question, text_of, token_ids
from bench.engine.serving import Pauses, _pauses
from model_core.language.chat_template import CHATML
from model_core.presets import tiny


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny.tokenizer()


@pytest.mark.parametrize(
    ("ratio", "at_least", "met"),
    [(2.0, True, True), (1.9, True, False), (2.0, False, True), (2.1, False, False)],
)
def test_target_is_met_at_its_bound_and_on_the_right_side_of_it(ratio: float, at_least: bool, met: bool) -> None:
    assert Target("speed", ratio, 2.0, at_least).met is met


def test_ways_take_turns_in_both_orders_and_the_first_call_of_each_does_not_count() -> None:
    calls = []

    def way(name: str, repeat: int) -> str:
        calls.append(f"{name}{repeat}")
        return f"{name}{repeat}"

    found = take_turns({name: lambda repeat, name=name: way(name, repeat) for name in "ab"}, 2)  # type: ignore[misc]
    assert found == {"a": ["a0", "a1"], "b": ["b0", "b1"]}
    assert calls == ["a-1", "b-1", "b0", "a0", "a1", "b1"]


def test_summary_has_median_and_extremes() -> None:
    assert summary([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "all": [3.0, 1.0, 2.0]}


def test_p95_has_95_percent_of_the_values_below_it() -> None:
    assert p95([float(value) for value in range(100)]) == 95.0
    assert p95([7.0]) == 7.0


def test_load_of_others_is_what_the_machine_did_beyond_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OtherLoad, "_now", iter([(10.0, 100.0, 5.0), (20.0, 118.0, 8.0)]).__next__)
    assert OtherLoad().cores() == 1.5


def test_questions_and_their_tokens_differ_from_the_first_word_on(tokenizer: Tokenizer) -> None:
    first, second = (token_ids(conversation(question(number)), tokenizer, CHATML) for number in (1, 2))
    assert first != second
    assert question(1)[0] != question(2)[0]


@pytest.mark.parametrize("tokens", [50, 1000])
def test_text_has_nearly_as_many_tokens_as_asked_for_and_never_more(tokenizer: Tokenizer, tokens: int) -> None:
    count = len(tokenizer.encode(text_of(tokens, 3, tokenizer)).ids)
    assert tokens - 20 <= count <= tokens


def test_throughput_counts_all_tokens_until_the_last_one() -> None:
    assert throughput([Answer("a", 1.0, (1.0, 2.0)), Answer("b", 1.0, (1.0, 2.0, 4.0))]) == 5 / 4


def test_pauses_are_those_that_overlap_the_span_and_the_first_is_apart() -> None:
    answers = [[0.0, 1.0, 2.0, 6.0], [5.0, 9.0, 9.5]]
    assert _pauses(answers, 3.0, 8.0) == Pauses(between=[4.0], first=[4.0])


def test_rows_of_the_issue_can_each_be_named() -> None:
    assert {"users", "batch", "stream", "prefill", "second_question", "turns", "interference"} <= ROWS.keys()
