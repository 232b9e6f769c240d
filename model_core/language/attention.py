"""Rotary positions and causal attention over cached keys and values.

Shapes: B batch, H heads, K key-value heads, L positions of this call, P positions before it, D head width.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# Cosines and sines of the rotary angles, each [B, L, D]; B is 1 where all rows have the same positions.
Rotary = tuple[Tensor, Tensor]

# Up to this many positions, attention on a CPU trains in float32.
_MAX_FLOAT32_POSITIONS = 512


def rotate(x_BHLD: Tensor, rotary: Rotary) -> Tensor:
    """Applies rotary position embedding (Su et al. 2021, half-split as in the LLaMA checkpoints), [B, H, L, D]."""
    cos, sin = (x_BLD[:, None] for x_BLD in rotary)
    first, second = x_BHLD.chunk(2, dim=-1)
    return x_BHLD * cos + torch.cat((-second, first), dim=-1) * sin


def attend(q_BHLD: Tensor, k_BKPD: Tensor, v_BKPD: Tensor) -> Tensor:
    """Causal attention of the last L of P + L positions, [B, H, L, D]; key-value heads are never expanded."""
    length, all_positions, groups = q_BHLD.shape[2], k_BKPD.shape[2], q_BHLD.shape[1] // k_BKPD.shape[1]
    if length == 1:
        grouped = rearrange(q_BHLD, "b (k g) 1 d -> b k g d", g=groups)
        return rearrange(F.scaled_dot_product_attention(grouped, k_BKPD, v_BKPD), "b k g d -> b (k g) 1 d")
    if length == all_positions:
        return _attend_within(q_BHLD, k_BKPD, v_BKPD)
    mask = causal_mask(all_positions - length, length, q_BHLD.device)
    return F.scaled_dot_product_attention(q_BHLD, k_BKPD, v_BKPD, attn_mask=mask, enable_gqa=True)


def _attend_within(q_BHLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor) -> Tensor:
    if not (q_BHLD.is_cpu and q_BHLD.requires_grad and q_BHLD.shape[2] <= _MAX_FLOAT32_POSITIONS):
        return F.scaled_dot_product_attention(q_BHLD, k_BKLD, v_BKLD, is_causal=True, enable_gqa=True)
    # PyTorch's backward pass over short sequences on a CPU takes three times as long in bfloat16 as in float32.
    with torch.autocast("cpu", enabled=False):
        attended_BHLD = F.scaled_dot_product_attention(
            q_BHLD.float(), k_BKLD.float(), v_BKLD.float(), is_causal=True, enable_gqa=True
        )
    return attended_BHLD.to(q_BHLD.dtype)


def causal_mask(before: int, length: int, device: torch.device) -> Tensor:
    """[L, P + L] booleans, True where a position may attend."""
    return torch.ones(length, before + length, dtype=torch.bool, device=device).tril(before)
