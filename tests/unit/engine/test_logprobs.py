from hypothesis import given
from hypothesis import strategies as st

from model_core.engine.language_model import LanguageModel
from model_core.engine.logprobs import TokenLogprob, token_bytes, token_logprobs
from model_core.engine.request import Delta, GenerationOptions
from model_core.engine.sampler import SampledToken
from model_core.engine.sampling_params import SamplingParams
from model_core.language.messages import Message, Role
from model_core.presets import build_language_model, tiny

TOKENIZER = tiny.tokenizer()


@given(st.text(max_size=20))
def test_bytes_of_the_tokens_join_to_the_text(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert b"".join(token_bytes(token, TOKENIZER) for token in ids) == text.encode()


def test_special_tokens_are_written_out_and_unused_ids_are_empty() -> None:
    (special,) = TOKENIZER.encode("<|im_end|>").ids
    assert token_bytes(special, TOKENIZER) == b"<|im_end|>"
    assert token_bytes(TOKENIZER.get_vocab_size() + 3, TOKENIZER) == b""


def test_part_of_a_character_has_its_bytes() -> None:
    first, _ = TOKENIZER.encode("é", add_special_tokens=False).ids
    (letter,) = TOKENIZER.encode("a", add_special_tokens=False).ids
    assert token_logprobs(SampledToken(first, -0.5, ((letter, -0.25),)), TOKENIZER) == (
        TokenLogprob("\ufffd", b"\xc3", -0.5, (TokenLogprob("a", b"a", -0.25),)),
    )
    assert token_logprobs(SampledToken(first), TOKENIZER) == ()


def deltas(model: LanguageModel, params: SamplingParams) -> list[Delta]:
    events = model.generate([Message(Role.USER, ["hello"])], GenerationOptions(sampling=params))
    return [event for event in events if isinstance(event, Delta)]


def test_each_token_of_an_answer_comes_with_its_logprob_on_request() -> None:
    model = build_language_model("tiny")
    answer = deltas(model, SamplingParams(max_tokens=5, logprobs=True, top_logprobs=2))
    assert [len(delta.logprobs) for delta in answer] == [delta.tokens for delta in answer]
    assert all(len(each.top_logprobs) == 2 for delta in answer for each in delta.logprobs)
    assert not any(delta.logprobs for delta in deltas(model, SamplingParams(max_tokens=5)))
