"""Latent cross-modality regularizer: soft-DTW between speech tokens and their transcript's embeddings (Lyra, 3.2).

Soft-DTW and its gradient are those of Cuturi and Blondel (arXiv 1703.01541). A cell (i, j) depends only on the two
previous anti-diagonals, so a whole anti-diagonal is computed at once. The tables are stored skewed, one anti-diagonal
per row, batch innermost: each step reads and writes contiguous memory, and no compute is spent outside the matrix.

Shapes: B batch, L speech tokens, S text tokens, E language-model width, D anti-diagonals (i + j), C columns (j).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model_core.errors import InvalidInput

Lengths = Tensor | Sequence[int]

# Log-probability of unreachable cells: in effect -inf, but differences of it are not NaN.
_UNREACHABLE = torch.finfo(torch.float64).min
# Anti-diagonals per chunk of the backward pass: few enough for the processor's cache.
_CHUNK = 32


def regularizer_loss(
    speech_BLE: Tensor,
    text_BSE: Tensor,
    speech_lengths: Lengths,
    text_lengths: Lengths,
    temperature: float = 0.06,
    gamma: float = 0.1,
) -> Tensor:
    """Mean over the batch of soft-DTW over the contrastive cost, per speech token.

    Args:
        speech_BLE: Projected speech tokens, floats; padding may hold anything.
        text_BSE: Embeddings of the transcripts' tokens, floats; padding may hold anything.
        speech_lengths: True speech tokens of each row, [B].
        text_lengths: True text tokens of each row, [B].
        temperature: Divides the dot products.
        gamma: Softness of soft-DTW's minimum.

    Returns:
        A scalar, float32 (float64 for float64 input), also under autocast. A row without speech or without text counts
        in the mean with 0 and gets no gradient; so does a transcript of one token, whose cost is 0 everywhere.

    Raises:
        InvalidInput: shapes, lengths, temperature or gamma do not fit.
    """
    if speech_BLE.ndim != 3:
        raise InvalidInput("speech", f"has shape {list(speech_BLE.shape)}; it must be [batch, tokens, width]")
    if not speech_BLE.shape[0]:
        raise InvalidInput("speech", "the batch is empty, so there is no mean")
    speech_lengths_B = _checked_lengths("speech_lengths", speech_lengths, speech_BLE)
    speech_BLE = speech_BLE.masked_fill(_padding(speech_lengths_B, speech_BLE.shape[1])[..., None], 0)
    cost_BLS = contrastive_cost(speech_BLE, text_BSE, text_lengths, temperature)
    value_B = soft_dtw(cost_BLS, speech_lengths_B, text_lengths, gamma)
    return (value_B / speech_lengths_B.clamp(min=1)).mean()


def contrastive_cost(speech_BLE: Tensor, text_BSE: Tensor, text_lengths: Lengths, temperature: float = 0.06) -> Tensor:
    """-log_softmax(speech · text / temperature) over the true text tokens of each row; 0 in their padding.

    Args:
        speech_BLE: Projected speech tokens, floats.
        text_BSE: Embeddings of the transcripts' tokens, floats; padding may hold anything.
        text_lengths: True text tokens of each row, [B].
        temperature: Divides the dot products; greater than 0.

    Returns:
        [B, L, S], float32 (float64 for float64 input), also under autocast.

    Raises:
        InvalidInput: shapes, lengths or temperature do not fit.
    """
    if speech_BLE.ndim != 3 or text_BSE.ndim != 3 or speech_BLE.shape[::2] != text_BSE.shape[::2]:
        shapes = f"{list(speech_BLE.shape)} and {list(text_BSE.shape)}"
        raise InvalidInput(
            "text", f"speech and text are {shapes}; they must be [batch, tokens, width] with equal batch and width"
        )
    if not 0 < temperature < math.inf:
        raise InvalidInput("temperature", f"{temperature} is not a number greater than 0")
    text_lengths_B = _checked_lengths("text_lengths", text_lengths, text_BSE)
    padding_BS = _padding(text_lengths_B, text_BSE.shape[1])
    with torch.autocast(speech_BLE.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(speech_BLE.dtype, text_BSE.dtype), torch.float32)
        text_BSE = text_BSE.masked_fill(padding_BS[..., None], 0).to(dtype)
        logits_BLS = speech_BLE.to(dtype) @ text_BSE.mT / temperature
        # A row without any text keeps its first column here: the gradient of an empty softmax would be NaN.
        hidden_BS = _padding(text_lengths_B.clamp(min=1), text_BSE.shape[1])
        logits_BLS = logits_BLS.masked_fill(hidden_BS[:, None], -torch.inf)
        return -logits_BLS.log_softmax(-1).masked_fill(padding_BS[:, None], 0)


def soft_dtw(cost_BLS: Tensor, lengths: Lengths, text_lengths: Lengths, gamma: float = 0.1) -> Tensor:
    """Soft minimum, over all monotone paths from the first to the last true cell, of the cost along the path.

    Steps are (1, 0), (0, 1) and (1, 1). Always computed in float64: differences of sums in the hundreds, divided by
    `gamma`, would leave only three or four digits of the gradient in float32.

    Args:
        cost_BLS: Finite costs, floats; padding may hold anything.
        lengths: True rows of each matrix, [B].
        text_lengths: True columns of each matrix, [B].
        gamma: Softness of the minimum; greater than 0.

    Returns:
        [B], float32 (float64 for float64 input). 0, with a gradient of 0, for a matrix without rows or columns.

    Raises:
        InvalidInput: shapes, lengths or gamma do not fit.
    """
    if cost_BLS.ndim != 3 or not cost_BLS.is_floating_point():
        raise InvalidInput(
            "cost", f"is {cost_BLS.dtype} {list(cost_BLS.shape)}; it must be floats [batch, rows, columns]"
        )
    if not 0 < gamma < math.inf:
        raise InvalidInput("gamma", f"{gamma} is not a number greater than 0")
    lengths_B = _checked_lengths("lengths", lengths, cost_BLS)
    text_lengths_B = _checked_lengths("text_lengths", text_lengths, cost_BLS.mT)
    value_B: Tensor = _SoftDtw.apply(cost_BLS, lengths_B, text_lengths_B, gamma)  # type: ignore[no-untyped-call]
    return value_B


class _SoftDtw(torch.autograd.Function):
    """Forward: the log-partition of each cell. Backward: the E-matrix, the share of paths that crosses each cell."""

    @staticmethod
    def forward(ctx: Any, cost_BLS: Tensor, lengths_B: Tensor, text_lengths_B: Tensor, gamma: float) -> Tensor:
        batch, rows, columns = cost_BLS.shape
        padding_BLS = _padding(lengths_B, rows)[:, :, None] | _padding(text_lengths_B, columns)[:, None]
        total_DCB = _path_totals(cost_BLS.masked_fill(padding_BLS, 0), gamma)
        ends = (lengths_B + text_lengths_B, text_lengths_B, torch.arange(batch, device=cost_BLS.device))
        empty_B = (lengths_B == 0) | (text_lengths_B == 0)
        ctx.save_for_backward(total_DCB, *ends, empty_B)
        ctx.shape, ctx.dtype = cost_BLS.shape, cost_BLS.dtype
        value_B = (total_DCB[ends] * -gamma).masked_fill(empty_B, 0)
        return value_B.to(torch.promote_types(cost_BLS.dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, None, None, None]:
        total_DCB, *ends, empty_B = ctx.saved_tensors
        _, rows, columns = ctx.shape
        share_DCB = torch.zeros_like(total_DCB)
        share_DCB[tuple(ends)] = grad_B.double().masked_fill(empty_B, 0)
        _spread_back(share_DCB, total_DCB, rows, columns)
        grad_BLS = _cells(share_DCB, rows, columns).permute(2, 0, 1)
        return grad_BLS.to(ctx.dtype, memory_format=torch.contiguous_format), None, None, None


def _path_totals(cost_BLS: Tensor, gamma: float) -> Tensor:
    """Log of the sum of exp(-cost along the path / gamma) over all paths to a cell: [D, C, B].

    The table has one extra row and column before the first; of these only the corner is reachable.
    """
    batch, rows, columns = cost_BLS.shape
    size = (rows + columns + 1, columns + 1, batch)
    total_DCB = cost_BLS.new_full(size, _UNREACHABLE, dtype=torch.float64)
    total_DCB[0, 0] = 0
    _cells(total_DCB, rows, columns).copy_(cost_BLS.permute(1, 2, 0)).div_(-gamma)
    total = total_DCB.flatten(1).unbind()
    for diagonal, (here, before) in enumerate(_diagonals(rows, columns, batch), start=2):
        one_back = total[diagonal - 1]
        sides = torch.logaddexp(one_back[here], one_back[before])
        total[diagonal][here].add_(torch.logaddexp(sides, total[diagonal - 2][before], out=sides))
    return total_DCB


def _spread_back(share_DCB: Tensor, total_DCB: Tensor, rows: int, columns: int) -> None:
    """Distributes each cell's share of the paths to its three predecessors, from the last anti-diagonal backwards."""
    share, diagonals = share_DCB.flatten(1).unbind(), _diagonals(rows, columns, share_DCB.shape[2])
    for end in range(len(diagonals), 0, -_CHUNK):
        start = max(0, end - _CHUNK)
        up, left, across = _portions(total_DCB[start : end + 1])
        for row in reversed(range(start, end)):
            here, before = diagonals[row]
            cells = share[row + 2][here]
            share[row + 1][here].addcmul_(cells, up[row - start][before])
            share[row + 1][before].addcmul_(cells, left[row - start][before])
            share[row][before].addcmul_(cells, across[row - start][before])


def _portions(total_DCB: Tensor) -> list[tuple[Tensor, ...]]:
    """The fractions of a cell's share that go to the cell above, left, and diagonal: D - 1 rows of [C * B] for each."""
    before = torch.stack((total_DCB[1:, 1:], total_DCB[1:, :-1], total_DCB[:-1, :-1]))
    return [table_DCB.flatten(1).unbind() for table_DCB in before.softmax(0)]


def _diagonals(rows: int, columns: int, batch: int) -> list[tuple[slice, slice]]:
    """For each anti-diagonal, its cells as a range of the flat row of totals, and the range one column earlier.

    The second is also where its cells lie in the rows of a table without the extra column.
    """
    ranges = ((max(0, row + 1 - rows) * batch, min(columns, row + 1) * batch) for row in range(rows + columns - 1))
    return [(slice(first + batch, end + batch), slice(first, end)) for first, end in ranges]


def _cells(table_DCB: Tensor, rows: int, columns: int) -> Tensor:
    """A view of a skewed table's cells as [rows, columns, B]: (i, j) is at row i + j + 2, column j + 1."""
    by_row, by_column, by_batch = table_DCB.stride()
    size, stride = (rows, columns, table_DCB.shape[2]), (by_row, by_row + by_column, by_batch)
    return table_DCB.as_strided(size, stride, 2 * by_row + by_column)


def _padding(lengths_B: Tensor, size: int) -> Tensor:
    """[B, size], true beyond each row's length."""
    return torch.arange(size, device=lengths_B.device) >= lengths_B[:, None]


def _checked_lengths(field: str, lengths: Lengths, padded: Tensor) -> Tensor:
    """[B] int64 on the device of `padded`, whose second dimension no length may exceed."""
    batch, max_length = padded.shape[:2]
    lengths_B = torch.as_tensor(lengths) if len(lengths) else torch.zeros(0, dtype=torch.int64)
    if lengths_B.shape != (batch,) or lengths_B.is_floating_point() or lengths_B.dtype == torch.bool:
        kind = f"{lengths_B.dtype} {list(lengths_B.shape)}"
        raise InvalidInput(field, f"is {kind}; it must be integers, one for each of the {batch} rows")
    if batch and not 0 <= int(lengths_B.min()) <= int(lengths_B.max()) <= max_length:
        raise InvalidInput(field, f"{lengths_B.tolist()} must lie between 0 and {max_length}, the padded length")
    return lengths_B.to(padded.device, torch.int64)
