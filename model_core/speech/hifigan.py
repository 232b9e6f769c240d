"""Streaming HiFi-GAN: frames to audio (Kong et al. 2020).

Module names are those of the public checkpoints, weight norm folded in.

Shapes: B streams, C channels, T frames, L samples of a layer in one step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from model_core.speech.streaming import Signal, Step, StreamConv1d, StreamUpsample1d, aligned, upsampling_reach

_SLOPE, _LAST_SLOPE = 0.1, 0.01
_OUTER_KERNEL = 7


@dataclass(kw_only=True, frozen=True, slots=True)
class HifiGanShape:
    """Shape of a HiFi-GAN; the defaults are those of the published unit vocoder.

    `paired`: whether a plain convolution follows each dilated one in a residual block (HiFi-GAN's ResBlock1) or not
    (ResBlock2).
    """

    channels: int = 512
    upsample_rates: tuple[int, ...] = (5, 4, 4, 2, 2)
    upsample_kernels: tuple[int, ...] = (11, 8, 8, 4, 4)
    block_kernels: tuple[int, ...] = (3, 7, 11)
    block_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    paired: bool = True

    @property
    def samples_per_frame(self) -> int:
        return int(torch.tensor(self.upsample_rates).prod())

    @property
    def hifigan_delay(self) -> int:
        """Latency in samples."""
        blocks = zip(self.block_kernels, self.block_dilations, strict=True)
        reach = max((k - 1) // 2 * (sum(dilations) + self.paired * len(dilations)) for k, dilations in blocks)
        delay = _OUTER_KERNEL // 2
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernels, strict=True):
            delay = (delay + upsampling_reach(kernel, rate)) * rate + reach
        return delay + _OUTER_KERNEL // 2


class ResidualBlock(nn.Module):
    """Dilated convolutions with residual connections, each followed by a plain one where `paired`."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int], *, paired: bool = True) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(StreamConv1d(channels, channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(StreamConv1d(channels, channels, kernel) for _ in dilations if paired)

    def forward(self, signal: Signal, step: Step) -> Signal:
        for index, first in enumerate(self.convs1):
            change = first(leaky(signal), step)
            if self.convs2:
                change = self.convs2[index](leaky(change), step)
            past_BCL, change_BCL = aligned([step.delayed(signal, change.delay), change])
            signal = change.with_values(past_BCL + change_BCL)
        return signal


class HifiGan(nn.Module):
    """Frames of `width` channels to audio."""

    def __init__(self, width: int, shape: HifiGanShape) -> None:
        super().__init__()
        self._kinds = len(shape.block_kernels)
        widths = [shape.channels // 2**stage for stage in range(len(shape.upsample_rates) + 1)]
        self.conv_pre = StreamConv1d(width, widths[0], _OUTER_KERNEL)
        shapes = zip(pairwise(widths), shape.upsample_kernels, shape.upsample_rates, strict=True)
        self.ups = nn.ModuleList(StreamUpsample1d(*width, kernel, rate) for width, kernel, rate in shapes)
        self.resblocks = nn.ModuleList(
            ResidualBlock(width, kernel, dilations, paired=shape.paired)
            for width in widths[1:]
            for kernel, dilations in zip(shape.block_kernels, shape.block_dilations, strict=True)
        )
        self.conv_post = StreamConv1d(widths[-1], 1, _OUTER_KERNEL)

    def waveform(self, signal: Signal, step: Step) -> Signal:
        """Frames [B, C, T] -> audio [B, 1, T * samples_per_frame], `hifigan_delay` samples late."""
        signal = self.conv_pre(signal, step)
        for stage, upsample in enumerate(self.ups):
            signal = upsample(leaky(signal), step)
            blocks = [block(signal, step) for block in self.resblocks[stage * self._kinds : (stage + 1) * self._kinds]]
            latest = max(block.delay for block in blocks)
            blocks = [step.delayed(block, latest) for block in blocks]
            mean_BCL = torch.stack(aligned(blocks)).mean(0)
            signal = max(blocks, key=lambda block: block.skipped).with_values(mean_BCL)
        signal = self.conv_post(leaky(signal, _LAST_SLOPE), step)
        return signal.with_values(signal.values_BCL.tanh())


def leaky(signal: Signal, slope: float = _SLOPE) -> Signal:
    return signal.with_values(F.leaky_relu(signal.values_BCL, slope))
