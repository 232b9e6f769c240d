"""Voice activity in frames of 32 ms: what the cutter needs, without the network that makes it.

Shapes: F frames of 512 samples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_core.audio.decoding import SAMPLE_RATE

FRAME_SAMPLES = 512
FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class FrameActivity:
    """Voice activity of consecutive frames.

    Attributes:
        speech_F: [F] probability of speech, 0 to 1.
        loudness_F: [F] root mean square of the samples.
    """

    speech_F: NDArray[np.float32]
    loudness_F: NDArray[np.float32]
