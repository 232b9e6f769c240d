"""Log-mel spectrograms as Whisper was trained on (Radford et al. 2022, section 2.2).

Shapes: S samples at 16 kHz, M mel bins, F mel frames (100 a second), B batch.
"""

from functools import cache

import torch
from torch import Tensor

SAMPLE_RATE = 16_000
FFT_SIZE = 400
HOP = 160


def log_mel(samples_S: Tensor, bins: int) -> Tensor:
    """[S] float32 from -1 to 1, S at least 201 -> [M, F]: log10 mel power, clamped to 8 below the peak, scaled to about
    -1 to 1. F = S // 160; `bins` is 80 or 128."""
    spectrum = torch.stft(samples_S, FFT_SIZE, HOP, window=torch.hann_window(FFT_SIZE), return_complex=True)
    power = spectrum[:, :-1].abs().square()
    log_power = (mel_filters(bins) @ power).clamp(min=1e-10).log10()
    log_power = log_power.maximum(log_power.max() - 8.0)
    return (log_power + 4.0) / 4.0


@cache
def mel_filters(bins: int) -> Tensor:
    """[bins, FFT_SIZE // 2 + 1]: triangular filters of equal area, evenly spaced on Slaney's mel scale, 0 to 8 kHz."""
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1, dtype=torch.float64)
    top = _to_mel(torch.tensor(SAMPLE_RATE / 2, dtype=torch.float64)).item()
    edges = _to_hertz(torch.linspace(0, top, bins + 2, dtype=torch.float64))
    widths = edges.diff()
    slopes = edges[:, None] - frequencies[None]
    rising = -slopes[:-2] / widths[:-1, None]
    falling = slopes[2:] / widths[1:, None]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).float()


# Slaney's scale: linear to 1 kHz (15 mels), then logarithmic with 27 steps to a factor of 6.4.
_LINEAR_HERTZ, _LINEAR_MELS, _LOG_STEP = 1000.0, 15.0, 27.0 / torch.log(torch.tensor(6.4, dtype=torch.float64))


def _to_mel(hertz: Tensor) -> Tensor:
    logarithmic = _LINEAR_MELS + torch.log(hertz.clamp(min=_LINEAR_HERTZ) / _LINEAR_HERTZ) * _LOG_STEP
    return torch.where(hertz < _LINEAR_HERTZ, hertz * 3.0 / 200.0, logarithmic)


def _to_hertz(mels: Tensor) -> Tensor:
    logarithmic = _LINEAR_HERTZ * torch.exp((mels - _LINEAR_MELS) / _LOG_STEP)
    return torch.where(mels < _LINEAR_MELS, mels * 200.0 / 3.0, logarithmic)
