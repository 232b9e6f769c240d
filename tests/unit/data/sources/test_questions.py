"""Facts and questions; no training question asks for a held-out fact."""

import json
from pathlib import Path

import pytest
from num2words import num2words

from model_core.data.sources.facts import all_facts, asks_held_out_fact
from model_core.data.sources.packages import WORDNET
from model_core.data.sources.questions import held_out_facts, load_questions
from model_core.data.sources.sentences import words_of
from model_core.data.voices import HELD_OUT_VOICE
from model_core.errors import InvalidInput
from tests.paths import ROOT

HELD_OUT = ROOT / "tests" / "data" / "held_out"


def lines(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (HELD_OUT / name).read_text().splitlines()]


def test_each_fact_has_questions_and_worded_answers() -> None:
    for fact in all_facts():
        assert len(fact.asked) >= 3, fact
        assert all(text[0] == text[0].upper() and text[-1] in "?." for text in fact.asked), fact
        assert fact.answers
        assert all(answer.strip() == answer != "" for answer in fact.answers), fact


def test_sums_are_correct() -> None:
    numbers = {num2words(number): number for number in range(150)}
    results = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    for fact in all_facts():
        if fact.family in results:
            first, second = (numbers[word] for word in fact.asked[0][:-1].split() if word in numbers)
            right = results[fact.family](first, second)
            assert fact.answers == (num2words(right), str(right)), fact


def test_a_held_out_fact_is_excluded_in_every_form() -> None:
    held_out = [fact for fact in all_facts() if fact.is_held_out]
    assert all(asks_held_out_fact(text) for fact in held_out for text in fact.asked)
    assert len(all_facts()) * 0.25 < len(held_out) < len(all_facts()) * 0.42


def test_a_fact_and_its_reverse_are_held_out_together() -> None:
    held_out = {words_of(fact.asked[0])[-1]: fact.is_held_out for fact in all_facts() if fact.family == "opposite"}
    assert held_out["hot"] == held_out["cold"]
    assert held_out["asleep"] == held_out["awake"]


def test_small_words_do_not_hide_a_held_out_fact() -> None:
    country = next(fact.about for fact in all_facts() if fact.family == "capital" and fact.is_held_out)
    assert asks_held_out_fact(f"what is capital of {country}")
    assert asks_held_out_fact(f"Could you please tell me the capital of {country}?")
    assert not asks_held_out_fact("What is your name?")


def test_training_facts_and_held_out_ones_share_no_question(tmp_path: Path) -> None:
    training = load_questions("facts", tmp_path)
    assert len(training) > 3000
    assert not {question.text for question in training} & {question.text for question in held_out_facts()}
    assert not any(asks_held_out_fact(question.text) for question in training)


def test_committed_questions_ask_for_the_same_held_out_facts_written_and_spoken() -> None:
    written, spoken = lines("factual-written.jsonl"), lines("factual-spoken.jsonl")
    assert len(written) == len(spoken) == len({line["question"] for line in written}) == 300
    assert all(asks_held_out_fact(str(line["question"])) for line in written)
    assert [line["answer"] for line in written] == [line["answer"] for line in spoken]
    assert all((HELD_OUT / str(line["audio"])).is_file() for line in spoken)
    assert {line["voice"] for line in spoken[4::5]} == {HELD_OUT_VOICE}
    assert HELD_OUT_VOICE not in {line["voice"] for number, line in enumerate(spoken) if number % 5 != 4}


def test_questions_ask_about_common_words_and_not_names(tmp_path: Path) -> None:
    folder = tmp_path / f"{WORDNET.name}-{WORDNET.version}" / WORDNET.members[0]
    folder.mkdir(parents=True)
    (folder / "data.noun").write_text(
        "  1 a licence\n"
        "00000010 05 n 02 dog 0 domestic_dog 0 000 | an animal\n"
        "00000020 15 n 01 London 0 000 | a city\n"
        "00000030 05 n 01 badger 0 000 | an animal\n"
    )
    # lemma, part of speech, senses, pointers, (pointers), senses, tagged senses, offsets
    (folder / "index.noun").write_text(
        "  1 a licence\ndog n 1 2 @ ~ 1 1 00000010  \nlondon n 1 0 1 1 00000020  \nbadger n 1 0 1 0 00000030  \n"
    )
    (folder / "data.verb").write_text("00000040 29 v 01 run 0 000 01 + 02 00 | move fast\n")
    (folder / "index.verb").write_text("run v 1 0 1 1 00000040  \n")
    (folder / "data.adj").write_text("")
    (folder / "index.adj").write_text("")
    asked = [question.text for question in load_questions("wordnet", tmp_path)]
    assert len(asked) == 2
    assert any("a dog" in text for text in asked)
    assert any(" run" in text for text in asked)


def test_an_unknown_collection_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'riddles'.*facts"):
        load_questions("riddles", tmp_path)
