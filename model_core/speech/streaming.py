"""Convolutions over streams: each layer keeps the little it still needs of the past, nothing is computed twice.

A "same" convolution of reach r looks r samples ahead. Over a stream it runs r samples late instead, and what lies
before the first and behind the last sample counts as zero at every layer, as it does when the whole is padded: chunks
joined together are what one pass over the whole gives.

Shapes: B streams, C channels, L samples of this step (the longest stream's, the others are filled up), W samples of a
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
    """What a chain of layers keeps of one stream.

    `position` counts the inputs so far; `tails` holds the last samples [C, n] that each layer saw, in their order.
    """

    position: int = 0
    tails: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Signal:
    """What one layer hands to the next: samples that run `delay` late, `rate` of them to each input of the chain.

    `skipped` samples at the front, from before every stream's beginning, are left out.
    """

    values_BCL: Tensor
    rate: int = 1
    delay: int = 0
    skipped: int = 0

    def with_values(self, values_BCL: Tensor) -> "Signal":
        """Other samples at the same times."""
        return replace(self, values_BCL=values_BCL)


class Step:
    """A batch of streams on its way through a chain of layers; lends each layer its past and notes what comes next."""

    def __init__(self, pasts: Sequence[Past], lengths: Sequence[int], ends: Sequence[int | None]) -> None:
        self._pasts = pasts
        self._lengths = lengths
        self._ends = ends
        self.tails: list[list[Tensor]] = [[] for _ in pasts]

    def window(self, signal: Signal, before: int) -> Signal:
        """The signal with the `before` samples that came before it, [B, C, W]."""
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
        """The same signal, running `delay` late."""
        before = delay - signal.delay
        if not before:
            return signal
        window = self.window(signal, before)
        return replace(window, values_BCL=window.values_BCL[..., : window.values_BCL.shape[-1] - before], delay=delay)

    def first_places(self, signal: Signal) -> list[int]:
        """Where in its stream each row's first sample stands; what is below 0 lies before the beginning."""
        return [past.position * signal.rate - signal.delay + signal.skipped for past in self._pasts]

    def _inside(self, signal: Signal) -> Signal:
        """The signal from the earliest beginning on (one sample at least), with zeros outside of each stream."""
        length = signal.values_BCL.shape[-1]
        early = min(-max(self.first_places(signal)), min(self._lengths) * signal.rate - signal.skipped - 1)
        if early > 0:
            values_BCL = signal.values_BCL[..., early:]
            signal, length = replace(signal, values_BCL=values_BCL, skipped=signal.skipped + early), length - early
        firsts = self.first_places(signal)
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
    """Samples [B, C, L] of signals with one rate and delay, cut to those that all have."""
    skipped = max(signal.skipped for signal in signals)
    return [signal.values_BCL[..., skipped - signal.skipped :] for signal in signals]


def run(
    chain: Callable[[Signal, Step], Signal],
    pasts: Sequence[Past],
    inputs: Sequence[Tensor],
    last: Sequence[bool],
    lookahead: int,
) -> tuple[list[Tensor], list[Past]]:
    """Takes streams a step further, all in one batch.

    Args:
        chain: Layers that take and return a signal.
        pasts: One for each stream; left as they are.
        inputs: What is new in each stream, [C, n]; n may be 0.
        last: Whether the stream ends here, so that what was held back comes out.
        lookahead: How many inputs the chain runs late, rounded up.

    Returns:
        For each stream what is now certain, [C', m], and its new past.
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
    for place, (row, first) in enumerate(zip(rows, step.first_places(signal), strict=True)):
        end = ends[row] * signal.rate - (0 if last[row] else signal.delay)
        outputs[row] = signal.values_BCL[place, :, max(0, -first) : max(0, end - first)]
        after[row] = Past(ends[row], step.tails[place])
    return outputs, after


class StreamConv1d(nn.Conv1d):
    """A "same" convolution that runs `reach` samples late. It computes in the precision of what it is given.

    Args:
        channels_in, channels_out, kernel, dilation: As of nn.Conv1d.
        ahead: How many samples it looks ahead; half of what it sees where None.
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
    """One convolution of a `ConvStack`: what it sees is `(kernel - 1) * dilation` wide, `ahead` of it yet to come."""

    kernel: int = 5
    dilation: int = 1
    ahead: int = 0


class ConvStack(nn.Module):
    """Convolutions, each around a residual, over streams; runs as late as its layers together look ahead.

    Args:
        width: Channels.
        layers: In their order.
        dropout: Share of each layer's output that is left out in training.
    """

    def __init__(self, width: int, layers: Sequence[Layer], dropout: float = 0.0) -> None:
        super().__init__()
        self.delay = stack_delay(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in layers)
        self.convs = nn.ModuleList(StreamConv1d(width, width, x.kernel, x.dilation, x.ahead) for x in layers)
        self.mixes = nn.ModuleList(nn.Linear(width, width) for _ in layers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, signal: Signal, step: Step) -> Signal:
        """[B, C, L] to the same shape, `delay` late."""
        for norm, conv, mix in zip(self.norms, self.convs, self.mixes, strict=True):
            normed_BCL = norm(signal.values_BCL.transpose(1, 2)).transpose(1, 2)
            seen = conv(signal.with_values(normed_BCL), step)
            change_BLC = self.dropout(mix(F.gelu(seen.values_BCL).transpose(1, 2)))
            change = seen.with_values(change_BLC.transpose(1, 2))
            past_BCL, change_BCL = aligned([step.delayed(signal, change.delay), change])
            signal = change.with_values(past_BCL + change_BCL)
        return signal


def stack_delay(layers: Sequence[Layer]) -> int:
    """How many inputs late a `ConvStack` of these layers runs."""
    return sum(layer.ahead for layer in layers)


class StreamUpsample1d(nn.ConvTranspose1d):
    """A transposed convolution that makes `rate` samples of one, running `reach` of its inputs late."""

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
    """How many inputs to either side have a part in the samples that one input becomes."""
    return (rate - 1 + (kernel - rate) // 2) // rate
