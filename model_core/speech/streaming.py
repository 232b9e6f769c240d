"""Streaming convolutions: each layer keeps the samples of the past that it still needs; nothing is computed twice.

A "same" convolution of reach r looks r samples ahead. On a stream it runs r samples late instead, and everything before
the first and after the last sample counts as zero at every layer, as with padding: chunks joined together equal one
pass over the whole.

Shapes: B streams, C channels, L samples of this step (those of the longest stream, others are padded), W samples of a
layer's window (its past, then L).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


@dataclass(slots=True)
class Past:
    """The state of one stream in a chain of layers.

    Attributes:
        position: Number of inputs so far.
        tails: The last samples [C, n] that each layer saw, in the order of the layers.
    """

    position: int = 0
    tails: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Signal:
    """What one layer passes to the next: samples that are `delay` late, `rate` of them per input of the chain.

    `skipped` samples at the front, from before the start of every stream, are left out.
    """

    values_BCL: Tensor
    rate: int = 1
    delay: int = 0
    skipped: int = 0

    def with_values(self, values_BCL: Tensor) -> "Signal":
        """Other samples at the same times."""
        return replace(self, values_BCL=values_BCL)


class Step:
    """One step of a batch of streams through a chain of layers: gives each layer its past, and collects the new one."""

    def __init__(self, pasts: Sequence[Past], lengths: Sequence[int], ends: Sequence[int | None]) -> None:
        self._pasts = pasts
        self._lengths = lengths
        self._ends = ends
        self.tails: list[list[Tensor]] = [[] for _ in pasts]

    def window(self, signal: Signal, before: int) -> Signal:
        """The signal with the `before` samples that preceded it, [B, C, W]."""
        signal = self._inside(signal)
        layer = len(self.tails[0])
        nothing = signal.values_BCL.new_zeros(signal.values_BCL.shape[1], before)
        tails = torch.stack([past.tails[layer] if past.tails else nothing for past in self._pasts])
        window_BCW = torch.cat((tails, signal.values_BCL), dim=-1)
        for row, length in enumerate(self._lengths):
            end = length * signal.rate - signal.skipped
            self.tails[row].append(window_BCW[row, :, end : end + before].detach().clone())
        return signal.with_values(window_BCW)

    def delayed(self, signal: Signal, delay: int) -> Signal:
        """The same signal, `delay` late."""
        before = delay - signal.delay
        if not before:
            return signal
        window = self.window(signal, before)
        return replace(window, values_BCL=window.values_BCL[..., : window.values_BCL.shape[-1] - before], delay=delay)

    def first_positions(self, signal: Signal) -> list[int]:
        """Position of each row's first sample in its stream; negative before the start."""
        return [past.position * signal.rate - signal.delay + signal.skipped for past in self._pasts]

    def _inside(self, signal: Signal) -> Signal:
        """The signal from the earliest start on (at least one sample), with zeros outside each stream."""
        length = signal.values_BCL.shape[-1]
        early = min(-max(self.first_positions(signal)), min(self._lengths) * signal.rate - signal.skipped - 1)
        if early > 0:
            values_BCL = signal.values_BCL[..., early:]
            signal, length = replace(signal, values_BCL=values_BCL, skipped=signal.skipped + early), length - early
        firsts = self.first_positions(signal)
        if min(firsts) >= 0 and all(end is None for end in self._ends):
            return signal
        ends = [math.inf if end is None else end * signal.rate for end in self._ends]
        inside = [[max(0, -first), max(0, min(end - first, length))] for first, end in zip(firsts, ends, strict=True)]
        device = signal.values_BCL.device
        begin_B1, end_B1 = torch.tensor(inside, device=device).unsqueeze(-1).unbind(1)
        place_L = torch.arange(length, device=device)
        inside_B1L = ((place_L >= begin_B1) & (place_L < end_B1)).unsqueeze(1)
        return signal.with_values(signal.values_BCL.where(inside_B1L, 0.0))


def aligned(signals: Sequence[Signal]) -> list[Tensor]:
    """Samples [B, C, L] of signals with the same rate and delay, cut to those that all have."""
    skipped = max(signal.skipped for signal in signals)
    return [signal.values_BCL[..., skipped - signal.skipped :] for signal in signals]


def run(
    chain: Callable[[Signal, Step], Signal],
    pasts: Sequence[Past],
    inputs: Sequence[Tensor],
    last: Sequence[bool],
    lookahead: int,
) -> tuple[list[Tensor], list[Past]]:
    """Advances streams by one step, all in one batch.

    Args:
        chain: Layers that take and return a signal.
        pasts: One for each stream; not modified.
        inputs: New inputs of each stream, [C, n]; n may be 0.
        last: Whether the stream ends here, which releases what was held back.
        lookahead: Latency of the chain in inputs, rounded up.

    Returns:
        For each stream the output that is now final, [C', m], and its new past.
    """
    outputs, after = [inputs[row].new_zeros(0, 0) for row in range(len(inputs))], list(pasts)
    ends = [past.position + new.shape[-1] for past, new in zip(pasts, inputs, strict=True)]
    rows = [row for row, new in enumerate(inputs) if new.shape[-1] or (last[row] and ends[row])]
    if not rows:
        return outputs, after
    lengths = [inputs[row].shape[-1] + lookahead * last[row] for row in rows]
    batch_BCL = pad_sequence([inputs[row].T for row in rows], batch_first=True).transpose(1, 2)
    batch_BCL = F.pad(batch_BCL, (0, max(lengths) - batch_BCL.shape[-1]))
    step = Step([pasts[row] for row in rows], lengths, [ends[row] if last[row] else None for row in rows])
    signal = chain(Signal(batch_BCL), step)
    for place, (row, first) in enumerate(zip(rows, step.first_positions(signal), strict=True)):
        end = ends[row] * signal.rate - (0 if last[row] else signal.delay)
        outputs[row] = signal.values_BCL[place, :, max(0, -first) : max(0, end - first)]
        after[row] = Past(ends[row], step.tails[place])
    return outputs, after


class StreamConv1d(nn.Conv1d):
    """A "same" convolution that runs `reach` samples late. Computes in the dtype of its input.

    Args:
        channels_in, channels_out, kernel, dilation: As of nn.Conv1d.
        ahead: Look-ahead in samples; None for half the receptive field.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, dilation: int = 1, ahead: int | None = None
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, dilation=dilation)
        self.span = (kernel - 1) * dilation
        self.reach = self.span // 2 if ahead is None else ahead

    def forward(self, signal: Signal, step: Step) -> Signal:  # type: ignore[override]
        window = step.window(signal, self.span)
        window_BCW = window.values_BCL
        weight, bias = self.weight.to(window_BCW.dtype), self.bias.to(window_BCW.dtype)  # type: ignore[union-attr]
        values_BCL = F.conv1d(window_BCW, weight, bias, dilation=self.dilation)
        return replace(window, values_BCL=values_BCL, delay=window.delay + self.reach)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One convolution of a `ConvStack`: it spans `(kernel - 1) * dilation` samples, `ahead` of them in the future."""

    kernel: int = 5
    dilation: int = 1
    ahead: int = 0


class ConvStack(nn.Module):
    """Streaming convolutions with residual connections; as late as its layers together look ahead.

    Args:
        width: Channels.
        layers: In order.
        dropout: Of each layer's output, in training.
    """

    def __init__(self, width: int, layers: Sequence[Layer], dropout: float = 0.0) -> None:
        super().__init__()
        self.delay = stack_delay(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in layers)
        self.convs = nn.ModuleList(StreamConv1d(width, width, x.kernel, x.dilation, x.ahead) for x in layers)
        self.mixes = nn.ModuleList(nn.Linear(width, width) for _ in layers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, signal: Signal, step: Step) -> Signal:
        """[B, C, L] -> [B, C, L], `delay` late."""
        for norm, conv, mix in zip(self.norms, self.convs, self.mixes, strict=True):
            normed_BCL = norm(signal.values_BCL.transpose(1, 2)).transpose(1, 2)
            seen = conv(signal.with_values(normed_BCL), step)
            change_BLC = self.dropout(mix(F.gelu(seen.values_BCL).transpose(1, 2)))
            change = seen.with_values(change_BLC.transpose(1, 2))
            past_BCL, change_BCL = aligned([step.delayed(signal, change.delay), change])
            signal = change.with_values(past_BCL + change_BCL)
        return signal


def stack_delay(layers: Sequence[Layer]) -> int:
    """Latency of a `ConvStack` of these layers, in inputs."""
    return sum(layer.ahead for layer in layers)


class StreamUpsample1d(nn.ConvTranspose1d):
    """A transposed convolution that makes `rate` samples of one, `reach` of its inputs late."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, rate: int) -> None:
        super().__init__(channels_in, channels_out, kernel, rate, padding=(kernel - rate) // 2)
        self.rate = rate
        self.reach = upsampling_reach(kernel, rate)

    def forward(self, signal: Signal, step: Step) -> Signal:  # type: ignore[override]
        window = step.window(signal, 2 * self.reach)
        padding = (self.kernel_size[0] - self.rate) // 2
        values = F.conv_transpose1d(window.values_BCL, self.weight, self.bias, self.rate, padding)
        edge = self.reach * self.rate
        return Signal(
            values[..., edge : values.shape[-1] - edge],
            rate=window.rate * self.rate,
            delay=(window.delay + self.reach) * self.rate,
            skipped=window.skipped * self.rate,
        )


def upsampling_reach(kernel: int, rate: int) -> int:
    """How many inputs on either side contribute to the samples of one input."""
    return (rate - 1 + (kernel - rate) // 2) // rate
