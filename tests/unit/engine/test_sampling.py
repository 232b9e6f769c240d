import torch
from hypothesis import given
from hypothesis import strategies as st

from model_core.engine.sampling import Sampler, TextStream
from model_core.presets import tiny

TOKENIZER = tiny.tokenizer()


def stream_text(ids: list[int], stop: tuple[str, ...]) -> tuple[str, bool]:
    stream = TextStream(TOKENIZER.decode, stop)
    pieces = []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return "".join([*pieces, stream.finish()]), stream.stopped


@given(st.text(max_size=30))
def test_the_pieces_join_to_the_text(text: str) -> None:
    assert stream_text(TOKENIZER.encode(text, add_special_tokens=False).ids, ()) == (text, False)


@given(st.text("ab \n é", max_size=30), st.lists(st.text("ab \n", min_size=1, max_size=4), max_size=4))
def test_the_answer_ends_before_the_first_stop_text(text: str, stops: list[str]) -> None:
    answer, stopped = stream_text(TOKENIZER.encode(text).ids, tuple(stops))
    first = min((at for stop in stops if (at := text.find(stop)) >= 0), default=-1)
    assert stopped == (first >= 0)
    # Byte by byte, the first stop text to be whole wins; it may begin after the start of a longer one.
    assert text.startswith(answer)
    assert not any(stop in answer for stop in stops)
    if not stopped:
        assert answer == text


def test_greedy_takes_the_likeliest() -> None:
    assert Sampler(0.0, 1.0, None).pick(torch.tensor([0.1, 2.0, 1.9])) == 1


def test_the_same_seed_draws_the_same() -> None:
    logits = torch.randn(50)
    draws = [[sampler.pick(logits) for _ in range(20)] for sampler in (Sampler(1.0, 1.0, 7), Sampler(1.0, 1.0, 7))]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 1


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    sampler = Sampler(1.0, 0.75, 0)
    assert {sampler.pick(logits) for _ in range(200)} == {0, 1}
    assert {Sampler(1.0, 0.01, 0).pick(logits) for _ in range(5)} == {0}
