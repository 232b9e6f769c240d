"""Which conversations are valid, and how others are reported."""

import pickle
from dataclasses import replace

import pytest

from model_core.data.conversation import (
    Conversation,
    Turn,
    check,
    check_units,
    split_placeholders,
    without_placeholders,
)
from model_core.data.data_errors import Reason, SampleError
from model_core.errors import CheckpointError, InvalidInput
from model_core.language.messages import Role
from tests.unit.data.samples import dialogue, picture, seen, speech, spoken

ASK = Turn(role=Role.USER, text="Who?")
TELL = Turn(role=Role.ASSISTANT, text="Me.")
SYSTEM = Turn(role=Role.SYSTEM, text="Be brief.")


@pytest.mark.parametrize("sample", [spoken(1), seen(1), Conversation(id="text", turns=(SYSTEM, ASK, TELL, ASK, TELL))])
def test_a_valid_conversation_passes(sample: Conversation) -> None:
    check(sample)


@pytest.mark.parametrize(
    ("sample", "reason", "field"),
    [
        (Conversation(id="", turns=(ASK, TELL)), Reason.NOT_A_SAMPLE, "id"),
        (Conversation(id="a", turns=()), Reason.NO_ANSWER, "turns"),
        (Conversation(id="a", turns=(SYSTEM,)), Reason.NO_ANSWER, "turns"),
        (Conversation(id="a", turns=(ASK,)), Reason.NO_ANSWER, "turns"),
        (Conversation(id="a", turns=(ASK, TELL, ASK)), Reason.NO_ANSWER, "turns"),
        (Conversation(id="a", turns=dialogue("Who?", " \n")), Reason.NO_ANSWER, "turns[1]"),
        (Conversation(id="a", turns=dialogue(" ", "Me.")), Reason.EMPTY_TURN, "turns[0]"),
        (Conversation(id="a", turns=(TELL, ASK)), Reason.ROLES, "turns[0]"),
        (Conversation(id="a", turns=(ASK, ASK)), Reason.ROLES, "turns[1]"),
        (Conversation(id="a", turns=(ASK, TELL, SYSTEM, TELL)), Reason.ROLES, "turns[2]"),
        (Conversation(id="a", turns=dialogue("<image>", "Me.")), Reason.MORE_PLACEHOLDERS, "images"),
        (replace(seen(1), images=(picture(1), picture(2))), Reason.FEWER_PLACEHOLDERS, "images"),
        (replace(spoken(1), speech=()), Reason.MORE_PLACEHOLDERS, "speech"),
        (replace(spoken(1), videos=(b"video",)), Reason.FEWER_PLACEHOLDERS, "videos"),
        (replace(spoken(1), turns=dialogue("Who?", "<speech>")), Reason.PLACEHOLDER_IN_ANSWER, "turns[1]"),
        (replace(seen(1), images=(b"",)), Reason.FILE_SIZE, "images[0]"),
        (replace(spoken(1), speech=(replace(speech(1), data=b""),)), Reason.FILE_SIZE, "speech[0]"),
        (replace(spoken(1), speech=(replace(speech(1), seconds=0.0),)), Reason.SECONDS, "speech[0].seconds"),
        (replace(spoken(1), speech=(replace(speech(1), seconds=float("nan")),)), Reason.SECONDS, "speech[0].seconds"),
        (replace(spoken(1), units=((1,), (2,))), Reason.UNITS, "units"),
        (replace(spoken(1), units=((),)), Reason.UNITS, "units[0]"),
        (replace(spoken(1), units=((3, -1),)), Reason.UNITS, "units[0]"),
    ],
)
def test_a_fault_is_reported_with_its_field_and_reason(sample: Conversation, reason: Reason, field: str) -> None:
    with pytest.raises(SampleError) as caught:
        check(sample)
    assert (caught.value.reason, caught.value.part) == (reason, field)
    assert caught.value.sample == (sample.id or "without id")


def test_a_unit_equal_to_the_vocabulary_size_is_out_of_range() -> None:
    sample = replace(spoken(1), units=((0, 999),))
    check_units(sample, 1000)
    with pytest.raises(SampleError, match="999 is outside the vocabulary of 999") as caught:
        check_units(sample, 999)
    assert caught.value.reason == Reason.UNITS


def test_texts_are_split_at_placeholders_which_are_kept() -> None:
    assert split_placeholders("<image>\n<speech> What?") == ["<image>", "\n", "<speech>", " What?"]
    assert split_placeholders("Who?") == ["Who?"]
    assert without_placeholders("<image>\nWhat <b>?") == "What <b>?"


def test_modalities_are_listed_in_a_fixed_order() -> None:
    assert replace(spoken(1), images=(picture(1),)).modality == "image+speech"
    assert Conversation(id="a", turns=(ASK, TELL)).modality == "text"


@pytest.mark.parametrize(
    "error",
    [SampleError("a", "b", "c", Reason.UNITS), InvalidInput("field", "message"), CheckpointError("name", "message")],
)
def test_errors_survive_pickling(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
