from hypothesis import given
from hypothesis import strategies as st

from model_core.engine.detokenizer import IncrementalDetokenizer
from model_core.presets import tiny

TOKENIZER = tiny.tokenizer()


def stream_text(ids: list[int], stop: tuple[str, ...]) -> tuple[str, bool]:
    detokenizer = IncrementalDetokenizer(TOKENIZER.decode, stop)
    pieces = []
    for token in ids:
        pieces.append(detokenizer.push(token))
        if detokenizer.stopped:
            break
    return "".join([*pieces, detokenizer.flush()]), detokenizer.stopped


@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=30))
def test_pieces_join_to_the_whole_text(text: str) -> None:
    assert stream_text(TOKENIZER.encode(text, add_special_tokens=False).ids, ()) == (text, False)


@given(st.text("aé€😀", max_size=10), st.integers(0, 3))
def test_character_that_max_tokens_cuts_is_left_out(text: str, missing: int) -> None:
    """Preset tiny has a token for each byte."""
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    ids = ids[: len(ids) - missing]
    assert stream_text(ids, ()) == (text.encode()[: len(ids)].decode(errors="ignore"), False)
    assert stream_text(ids, ("zz",)) == stream_text(ids, ())


@given(st.text("ab \n é", max_size=30), st.lists(st.text("ab \n", min_size=1, max_size=4), max_size=4))
def test_answer_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    answer, stopped = stream_text(TOKENIZER.encode(text).ids, tuple(stops))
    first = min((at for stop in stops if (at := text.find(stop)) >= 0), default=-1)
    assert stopped == (first >= 0)
    # Token by token, the first stop string to be complete wins, even if a longer one started before it.
    assert text.startswith(answer)
    assert not any(stop in answer for stop in stops)
    if not stopped:
        assert answer == text


def test_looping_answer_ends_only_with_end_loops() -> None:
    ids = TOKENIZER.encode(" five," * 40).ids
    ending, patient = (IncrementalDetokenizer(TOKENIZER.decode, (), end_loops) for end_loops in (True, False))
    text = ""
    for token in ids:
        patient.push(token)
        if not ending.stopped:
            text += ending.push(token)
    assert ending.stopped
    assert not patient.stopped
    assert text == " five," * 8
