"""Which adapter reads a request, and whose projector makes its speech tokens."""

import pytest

from model_core.adapter_choice import choose_adapter, choose_projector

ALL = ("speech", "long_speech", "vision")
BOTH = ("speech", "long_speech")


@pytest.mark.parametrize(
    ("resident", "clips", "vision", "expected"),
    [
        (ALL, 0, False, ""),
        (ALL, 0, True, "vision"),
        (ALL, 1, False, "speech"),
        (ALL, 1, True, "speech"),
        (ALL, 2, False, "long_speech"),
        (ALL, 240, True, "long_speech"),
        (("speech", "vision"), 2, True, "speech"),
        (("long_speech", "vision"), 1, True, ""),
        (("long_speech",), 2, False, "long_speech"),
        (("vision",), 2, True, ""),
        (("speech",), 0, True, ""),
        ((), 2, True, ""),
    ],
)
def test_the_adapter_follows_from_clips_vision_and_resident_adapters(
    resident: tuple[str, ...], clips: int, vision: bool, expected: str
) -> None:
    assert choose_adapter(resident, clips=clips, vision=vision) == expected


@pytest.mark.parametrize(
    ("projectors", "adapters", "clips", "named", "expected"),
    [
        (BOTH, ALL, 1, "", "speech"),
        (BOTH, ALL, 3, "", "long_speech"),
        (("speech",), ALL, 3, "", "speech"),
        (BOTH, ("speech", "vision"), 3, "", "speech"),
        (BOTH, (), 3, "", "speech"),
        ((), ALL, 3, "", ""),
        (BOTH, ALL, 0, "", ""),
        (BOTH, ALL, 3, "speech", "speech"),
        (BOTH, ALL, 1, "long_speech", "long_speech"),
        (BOTH, ALL, 3, "base", "long_speech"),
        (BOTH, ALL, 1, "vision", "speech"),
        ((*BOTH, "mine"), ALL, 1, "mine", "mine"),
    ],
)
def test_the_projector_is_of_the_adapter_that_both_services_have(
    projectors: tuple[str, ...], adapters: tuple[str, ...], clips: int, named: str, expected: str
) -> None:
    assert choose_projector(projectors, adapters, clips=clips, named=named) == expected
