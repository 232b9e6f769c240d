"""Which of FFmpeg's decoders may touch what users send. It has some 500, and faults are found in the odd ones."""

from collections.abc import Callable

import av
from av.codec import Codec


def decoders(is_taken: Callable[[str], bool]) -> str:
    """Names of the decoders of all codecs that are taken, as FFmpeg's option `codec_whitelist` wants them.

    Args:
        is_taken: Whether a codec, by its canonical name such as `mp3`, is taken.
    """

    def codec_of(decoder: str) -> str:
        try:
            return Codec(decoder, "r").canonical_name
        except ValueError:  # it only encodes
            return ""

    return ",".join(sorted(name for name in av.codecs_available if is_taken(codec_of(name))))
