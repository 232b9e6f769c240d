"""Whisper's encoder on clips of any length: the cost grows with the audio, not with a 30 s window.

Whisper was trained on windows padded with silence to 30 s. Here a clip gets `tail_frames` of silence instead, and
clips of different length share a batch: everything beyond a clip's own end is masked, so that a clip's frames do not
depend on its neighbours. `docs/architecture.md` says how closely the frames match those of the padded window.

Shapes: B batch, F mel frames (100 a second), T encoder frames (50 a second), M mel bins, D width, H heads.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model_core.speech.features import SAMPLE_RATE, log_mel

SAMPLES_PER_FRAME = SAMPLE_RATE // 50

_BLOCK = 256  # queries


class WhisperEncoder(nn.Module):
    """Two convolutions and a stack of pre-norm transformer layers; names as in transformers' `WhisperEncoder`."""

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        mel_bins: int
        width: int
        layers: int
        heads: int
        feed_forward: int
        max_frames: int = 1500
        tail_frames: int = 50
        # Published Lyra: clips are padded to the window, and their silence makes frames too (300 tokens a clip).
        whole_window: bool = False

        def build(self) -> "WhisperEncoder":
            return WhisperEncoder(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.mel_bins, config.width, 3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_frames, config.width)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.width)

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Casts the linear layers to `dtype`; residual stream, norms and convolutions stay."""
        for module in self.modules():
            if isinstance(module, CastLinear):
                module.to(dtype)

    def frames_of(self, samples: Tensor) -> int:
        """Number of frames of a clip [samples], without its tail."""
        max_frames = self.config.max_frames
        frames = -(-samples.shape[0] // SAMPLES_PER_FRAME)
        return max_frames if self.config.whole_window else min(frames, max_frames)

    @torch.inference_mode()
    def encode(self, clips: list[Tensor], *, tail: bool = False) -> list[Tensor]:
        """Encodes clips of at most 30 s as one batch.

        Args:
            clips: Each [samples] float32 at 16 kHz.
            tail: Whether to return the frames of the silence after each clip, too.

        Returns:
            For each clip [T, D] float32, T = samples / 320 rounded up, at most 1500; always 1500 for a whole window.
            The frames of the clip itself do not depend on `tail`.
        """
        wanted = [self.frames_of(clip) for clip in clips]
        lengths = [min(frames + self.config.tail_frames, self.config.max_frames) for frames in wanted]
        mel_BMF = torch.zeros(len(clips), self.config.mel_bins, 2 * max(lengths))
        for row, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
            samples = F.pad(clip, (0, length * SAMPLES_PER_FRAME - clip.shape[0]))
            mel_BMF[row, :, : 2 * length] = log_mel(samples, self.config.mel_bins)
        frames_BTD = self(mel_BMF.to(self.conv1.weight), torch.tensor(lengths)).float()
        return [frames_BTD[row, :count] for row, count in enumerate(lengths if tail else wanted)]

    def forward(self, mel_BMF: Tensor, lengths_B: Tensor) -> Tensor:
        """Mel [B, M, F] and the valid encoder frames of each row -> [B, T, D]."""
        valid_BT = (torch.arange(mel_BMF.shape[2] // 2)[None] < lengths_B[:, None]).to(mel_BMF.device)
        hidden_BDF = F.gelu(self.conv1(mel_BMF)) * valid_BT.repeat_interleave(2, dim=1)[:, None]
        hidden_BTD = F.gelu(self.conv2(hidden_BDF)).transpose(1, 2)
        hidden_BTD = hidden_BTD + self.embed_positions.weight[: hidden_BTD.shape[1]]
        mask = None if bool(valid_BT.all()) else valid_BT[:, None, None]
        for layer in self.layers:
            hidden_BTD = layer(hidden_BTD, mask)
        normed_BTD: Tensor = self.layer_norm(hidden_BTD)
        return normed_BTD


class CastLinear(nn.Linear):
    """A linear layer that casts its input to the dtype of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class EncoderLayer(nn.Module):
    def __init__(self, config: WhisperEncoder.Config) -> None:
        super().__init__()
        self.self_attn = EncoderAttention(config.width, config.heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.width)
        self.fc1 = CastLinear(config.width, config.feed_forward)
        self.fc2 = CastLinear(config.feed_forward, config.width)
        self.final_layer_norm = nn.LayerNorm(config.width)

    def forward(self, hidden_BTD: Tensor, mask: Tensor | None) -> Tensor:
        hidden_BTD = hidden_BTD + self.self_attn(self.self_attn_layer_norm(hidden_BTD), mask)
        fed_BTD: Tensor = self.fc2(F.gelu(self.fc1(self.final_layer_norm(hidden_BTD))))
        return hidden_BTD + fed_BTD


class EncoderAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = CastLinear(width, width)
        self.k_proj = CastLinear(width, width, bias=False)
        self.v_proj = CastLinear(width, width)
        self.out_proj = CastLinear(width, width)

    def forward(self, hidden_BTD: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            rearrange(projection(hidden_BTD), "b t (h d) -> b h t d", h=self.heads)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if mask is None and q.device.type == "cpu" and q.dtype == torch.bfloat16:
            attended = _attend_in_blocks(q, k, v)
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed: Tensor = self.out_proj(rearrange(attended, "b h t d -> b t (h d)"))
        return mixed


def _attend_in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over [B, H, T, D / H] in blocks whose scores fit a core's cache.

    On a CPU with bfloat16 instructions this takes 0.6 of the time of torch's fused attention for 30 s.
    """
    attended, scaled = torch.empty_like(q), q * q.shape[-1] ** -0.5
    for row, head in itertools.product(range(q.shape[0]), range(q.shape[1])):
        keys_DT, values_TD = k[row, head].T, v[row, head]
        for at in range(0, q.shape[2], _BLOCK):
            block = slice(at, at + _BLOCK)
            attended[row, head, block] = (scaled[row, head, block] @ keys_DT).softmax(-1) @ values_TD
    return attended
