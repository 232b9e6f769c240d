"""Share of a recording that is silent or clipped.

Shapes: S samples at 16 kHz, W windows.
"""

import numpy as np
from numpy.typing import NDArray

WINDOW = 320  # 20 ms at 16 kHz
SILENT_BELOW = 10 ** (-40 / 20)  # relative to the loudest window: below speech, above most background noise
FULL_SCALE = 0.99
CLIPPED_RUN = 3  # consecutive samples at full scale; single peaks may reach it


def silence_share(samples_S: NDArray[np.float32]) -> float:
    """Share of windows that are 40 dB below the loudest one; 1 for a silent recording."""
    whole = len(samples_S) // WINDOW * WINDOW
    if not whole:
        return 1.0
    level_W = np.sqrt(np.mean(samples_S[:whole].reshape(-1, WINDOW).astype(np.float64) ** 2, axis=1))
    loudest = float(level_W.max())
    if loudest < 1e-4:  # -80 dB of full scale: nothing but rounding
        return 1.0
    return float(np.mean(level_W < loudest * SILENT_BELOW))


def clipping_share(samples_S: NDArray[np.float32]) -> float:
    """Share of samples in runs of three or more at full scale."""
    if not len(samples_S):
        return 0.0
    full_S = np.abs(samples_S) >= FULL_SCALE
    edges = np.flatnonzero(np.diff(np.concatenate(([0], full_S.astype(np.int8), [0]))))
    lengths = edges[1::2] - edges[::2]
    return float(lengths[lengths >= CLIPPED_RUN].sum()) / len(samples_S)
