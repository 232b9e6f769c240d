"""Which adapter reads a request, and whose speech projector serves it: decided here and nowhere else.

The published models read all recordings of a request with one adapter, chosen by the number of their clips together.
Imports nothing, so that the pipeline and the workers can decide before a model sees the request.
"""

from collections.abc import Collection

# Adapters of the method: speech of one clip (at most 30 s), speech of several, pictures and videos without speech.
SPEECH, LONG_SPEECH, VISION = "speech", "long_speech", "vision"
# What requests and answers call the language model without an adapter.
BASE = "base"


def choose_adapter(resident: Collection[str], *, clips: int, vision: bool = False) -> str:
    """The adapter for a request that names none; empty for the base model.

    Args:
        resident: Names of the adapters that are loaded.
        clips: Clips of speech in the request, over all its recordings.
        vision: Whether it holds pictures or videos.
    """
    preferred: tuple[str, ...] = (VISION,) if vision else ()
    if clips:
        preferred = (LONG_SPEECH, SPEECH) if clips > 1 else (SPEECH,)
    return next((name for name in preferred if name in resident), "")


def choose_projector(projectors: Collection[str], adapters: Collection[str], *, clips: int, named: str = "") -> str:
    """The adapter whose projector makes a request's speech tokens; empty to leave the choice to the encoder.

    Args:
        projectors: Adapters that the speech encoder has a projector for.
        adapters: Adapters that are resident in the language model.
        clips: Clips of speech in the request, over all its recordings.
        named: The adapter that the request asks for; ignored where it has no projector (`base`, `vision`).
    """
    if named in projectors:
        return named
    # Where the adapter `speech` is not resident, the base model reads the tokens of its projector.
    return choose_adapter([name for name in projectors if name == SPEECH or name in adapters], clips=clips)
