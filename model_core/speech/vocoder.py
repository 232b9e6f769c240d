"""The unit vocoder: streaming code-HiFi-GAN with a duration predictor.

HiFi-GAN on embedded units (Polyak et al. 2021), repeated as the duration predictor says (Lee et al. 2022). Where the
HiFi-GAN was trained on the latents of another voice, a renderer in between turns embedded units into latents. Module
names are those of the public code-HiFi-GAN checkpoints, weight norm folded in.

Shapes: N units, T unit frames, S samples, C channels, L samples of a layer in one step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_core.errors import InvalidInput
from model_core.speech.hifigan import HifiGan, HifiGanShape
from model_core.speech.streaming import ConvStack, Layer, Past, Signal, Step, StreamConv1d, run, stack_delay


@dataclass(slots=True)
class VocoderState:
    """The state of one stream of units.

    Attributes:
        durations: Whether units last as long as predicted, or one frame.
        speed: Durations are divided by it.
        pending: Units [n] whose durations are not known yet.
        held: The first unit frames [m], until there are enough for any audio.
        predictor, generator: Past of the duration predictor and of the HiFi-GAN.
        ended: Whether the stream has ended.
    """

    durations: bool
    speed: float
    pending: Tensor
    held: Tensor
    predictor: Past = field(default_factory=Past)
    generator: Past = field(default_factory=Past)
    ended: bool = False


class DurationPredictor(nn.Module):
    """Durations of units: two convolutions over their embeddings, giving log(1 + frames).

    Computes in float64, so that rounding does not depend on how a stream was split.
    """

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        """`ahead`: look-ahead in units; None for half the receptive field, as in the published shape."""

        width: int
        hidden_width: int
        kernel: int = 3
        ahead: int | None = None

        @property
        def delay(self) -> int:
            return 2 * ((self.kernel - 1) // 2) if self.ahead is None else self.ahead

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.delay = config.delay
        rest = None if config.ahead is None else 0
        self.conv1 = nn.Sequential(StreamConv1d(config.width, config.hidden_width, config.kernel, ahead=config.ahead))
        self.ln1 = nn.LayerNorm(config.hidden_width)
        self.conv2 = nn.Sequential(StreamConv1d(config.hidden_width, config.hidden_width, config.kernel, ahead=rest))
        self.ln2 = nn.LayerNorm(config.hidden_width)
        self.proj = nn.Linear(config.hidden_width, 1)

    def forward(self, signal: Signal, step: Step) -> Signal:
        """Embedded units [B, C, L] -> log(1 + frames) [B, 1, L], `delay` units late."""
        signal = signal.with_values(signal.values_BCL.double())
        for convolution, norm in ((self.conv1[0], self.ln1), (self.conv2[0], self.ln2)):
            signal = convolution(signal, step)
            values_BLC = signal.values_BCL.relu().transpose(1, 2)
            normed_BLC = F.layer_norm(
                values_BLC, norm.normalized_shape, norm.weight.double(), norm.bias.double(), norm.eps
            )
            signal = signal.with_values(normed_BLC.transpose(1, 2))
        weight, bias = self.proj.weight.double(), self.proj.bias.double()
        return signal.with_values(F.conv1d(signal.values_BCL, weight[..., None], bias))


class FrameRenderer(nn.Module):
    """Embedded units, one per frame, to the latents that a HiFi-GAN was trained on."""

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        """`width` channels in, `latents` out."""

        width: int
        latents: int
        layers: tuple[Layer, ...]

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.stack = ConvStack(config.width, config.layers)
        self.out = nn.Linear(config.width, config.latents)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(config.latents))
        self.register_buffer("deviation", torch.ones(config.latents))

    def standardised(self, signal: Signal, step: Step) -> Signal:
        """[B, C, T] -> latents less their mean, divided by their deviation; `stack.delay` frames late."""
        signal = self.stack(signal, step)
        return signal.with_values(self.out(signal.values_BCL.transpose(1, 2)).transpose(1, 2))

    def forward(self, signal: Signal, step: Step) -> Signal:
        """[B, C, T] -> latents [B, C', T]."""
        signal = self.standardised(signal, step)
        return signal.with_values(signal.values_BCL * self.deviation[:, None] + self.mean[:, None])


class UnitVocoder(HifiGan):
    """Units to audio; one object serves any number of streams.

    The audio of a frame depends on later frames. A stream therefore runs `config.delay` samples late (6,589 in the
    published shape: 20.6 unit frames, 412 ms), and the duration of a unit is known two units later. The end of a stream
    releases what was held back. Steps of any size give the same audio as one pass over the whole.
    """

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config(HifiGanShape):
        """Shape of a vocoder; the defaults are the published one."""

        units: int = 1000
        embedding_width: int = 128
        duration: DurationPredictor.Config | None = DurationPredictor.Config(width=128, hidden_width=128)
        renderer: FrameRenderer.Config | None = None
        sample_rate: int = 16_000

        @property
        def delay(self) -> int:
            """Latency of a stream in samples."""
            late = stack_delay(self.renderer.layers) if self.renderer else 0
            return self.hifigan_delay + late * self.samples_per_frame

        @property
        def lookahead(self) -> int:
            """`delay` in unit frames, rounded up."""
            return -(-self.delay // self.samples_per_frame)

        def build(self) -> "UnitVocoder":
            return UnitVocoder(self)

    def __init__(self, config: Config) -> None:
        super().__init__(config.renderer.latents if config.renderer else config.embedding_width, config)
        self.config = config
        self.dict = nn.Embedding(config.units, config.embedding_width)
        self.dur_predictor = DurationPredictor(config.duration) if config.duration else None
        self.renderer = FrameRenderer(config.renderer) if config.renderer else None

    def new_state(self, *, durations: bool = True, speed: float = 1.0) -> VocoderState:
        """The initial state of a stream.

        Args:
            durations: Whether a unit lasts as long as the duration predictor says, or one frame.
            speed: Durations are divided by it.

        Raises:
            InvalidInput: This vocoder has no duration predictor, or `speed` is not positive or needs one.
        """
        if durations and self.dur_predictor is None:
            raise InvalidInput("durations", "this vocoder has no duration predictor")
        if not 0.0 < speed < float("inf") or (speed != 1.0 and not durations):
            raise InvalidInput("speed", f"{speed} is not positive and finite, or units have no durations to change")
        nothing = self.dict.weight.new_zeros(0, dtype=torch.int64)
        return VocoderState(durations, speed, pending=nothing, held=nothing)

    def forward(self, code_N: Tensor, durations: bool = True) -> Tensor:
        """The whole audio [S] of int64 units [N]; errors are those of `new_state` and `step`."""
        return self.step([self.new_state(durations=durations)], [code_N], [True])[0]

    def step(self, states: Sequence[VocoderState], units: Sequence[Tensor], last: Sequence[bool]) -> list[Tensor]:
        """Advances streams, all in one batch.

        Args:
            states: The streams; updated in place, unless an error is raised.
            units: New units of each: integers [N], N may be 0.
            last: Whether a stream ends here.

        Returns:
            For each stream the audio that is now final, [S] floats within -1 and 1; S may be 0.

        Raises:
            InvalidInput: A unit is unknown, or a stream had ended before.
        """
        units = self._checked(states, units, last)
        frames, pending, predictors = self._with_durations(states, units, last)
        frames, held = self._enough(states, frames, last)
        embedded = [self.dict(each).T for each in frames]
        pasts = [state.generator for state in states]
        waveforms, generators = run(self._generate, pasts, embedded, last, self.config.lookahead)
        for row, state in enumerate(states):
            state.pending, state.predictor = pending[row], predictors[row]
            state.held, state.generator, state.ended = held[row], generators[row], last[row]
        return [audio_1S.flatten() for audio_1S in waveforms]

    def predicted_durations(self, code_N: Tensor) -> Tensor:
        """Duration of each unit in frames, [N] int64: max(1, round(exp(prediction) - 1))."""
        state = self.new_state()
        (code_N,) = self._checked([state], [code_N], [True])
        return self._new_durations([state], [code_N], [True])[0][0]

    def _checked(
        self, states: Sequence[VocoderState], units: Sequence[Tensor], last: Sequence[bool]
    ) -> Sequence[Tensor]:
        """The units as int64 on the device of the weights."""
        if not len(states) == len(units) == len(last):
            raise InvalidInput("units", f"{len(units)} for {len(states)} streams")
        for state, new in zip(states, units, strict=True):
            if state.ended:
                raise InvalidInput("units", "the stream has ended")
            if new.dim() != 1 or new.is_floating_point() or new.dtype == torch.bool:
                raise InvalidInput("units", f"{new.dtype} of shape {list(new.shape)} are not integers [N]")
            unknown = new[(new < 0) | (new >= self.config.units)]
            if len(unknown):
                raise InvalidInput("units", f"{int(unknown[0])} is not within 0 and {self.config.units - 1}")
        return [new.to(self.dict.weight.device, torch.int64) for new in units]

    def _with_durations(
        self, states: Sequence[VocoderState], units: Sequence[Tensor], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[Tensor], list[Past]]:
        """Each stream's final unit frames [T], units without a duration yet, and the predictor's past."""
        frames, pending = list(units), [state.pending for state in states]
        predictors = [state.predictor for state in states]
        rows = [row for row, state in enumerate(states) if state.durations]
        if rows:
            durations, pasts = self._new_durations(
                [states[row] for row in rows], [units[row] for row in rows], [last[row] for row in rows]
            )
            for row, frames_each, past in zip(rows, durations, pasts, strict=True):
                waiting = torch.cat((pending[row], units[row]))
                known = len(frames_each)
                frames[row] = waiting[:known].repeat_interleave(frames_each)
                pending[row], predictors[row] = waiting[known:], past
        return frames, pending, predictors

    def _new_durations(
        self, states: Sequence[VocoderState], units: Sequence[Tensor], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[Past]]:
        assert self.dur_predictor is not None  # ensured by new_state()
        embedded = [self.dict(each).T for each in units]
        pasts = [state.predictor for state in states]
        logs, after = run(self.dur_predictor, pasts, embedded, last, self.dur_predictor.delay)
        counts = [
            ((log.flatten().double().exp() - 1) / state.speed).round().clamp(min=1).long()
            for log, state in zip(logs, states, strict=True)
        ]
        return counts, after

    def _enough(
        self, states: Sequence[VocoderState], frames: Sequence[Tensor], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Each stream's unit frames to run through the layers now, and those to hold.

        With fewer frames than the look-ahead there is no audio yet; one pass costs less than several.
        """
        now, held = [], []
        for state, new, ends in zip(states, frames, last, strict=True):
            all_T = torch.cat((state.held, new))
            early = not state.generator.position and not ends and len(all_T) < self.config.lookahead
            now.append(all_T[:0] if early else all_T)
            held.append(all_T if early else all_T[:0])
        return now, held

    def _generate(self, signal: Signal, step: Step) -> Signal:
        """Embedded frames [B, C, T] -> audio [B, 1, T * samples_per_frame], `delay` samples late."""
        return self.waveform(self.renderer(signal, step) if self.renderer else signal, step)
