"""A recording in frames of 32 ms: who decides where it is cut needs no network, only what one has heard.

Shapes: F frames of 512 samples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_core.audio.decoding import SAMPLE_RATE

FRAME_SAMPLES = 512
FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Heard:
    """Some frames of a recording.

    Attributes:
        speech_F: [F] how likely somebody speaks, 0 to 1.
        loudness_F: [F] root mean square of the samples.
    """

    speech_F: NDArray[np.float32]
    loudness_F: NDArray[np.float32]
