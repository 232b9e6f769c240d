"""Linear products of a decoder as the engine runs them: several layers joined, and rows with different LoRA adapters.

Shapes: N rows of a step (the tokens of all its sequences), R rows to sample from, I input width, O output width (that
of all joined layers), C columns of the stacked low-rank updates, E model width, V vocabulary.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_core.engine.packed_weights import FloatWeights, Precision, Product, make_product
from model_core.language.lora import AdaptedLinear, LowRank

__all__ = ["AdapterMix", "FloatWeights", "JoinedProjection", "OutputProjection", "Precision"]

# Each column block of stacked updates: the adapter it belongs to and its width.
Columns = tuple[tuple[str, int], ...]

# Sets of adapters whose stacked updates are kept. Neighbouring steps use the same few sets; stacking anew costs more
# than a product.
_CACHED_SETS = 4


class AdapterMix:
    """Which LoRA adapter each of the N rows of a step uses; made once per step and shared by all projections.

    Attributes:
        used: Names of the adapters in use, sorted.
        uniform: Whether all rows use the same adapter, or none.
    """

    def __init__(self, runs: Sequence[tuple[str | None, int]], device: torch.device | str) -> None:
        self._runs = [(name, count) for name, count in runs if count]
        present = {name for name, _ in self._runs}
        self.used = tuple(sorted(name for name in present if name is not None))
        self.uniform = len(present) <= 1
        self._device = torch.device(device)
        self._masks: dict[tuple[Columns, torch.dtype], Tensor] = {}

    @classmethod
    def of(cls, names: Sequence[str | None], device: torch.device | str) -> "AdapterMix":
        """The mix of rows whose adapters are `names`, one name per row; None for the base model."""
        return cls([(name, len(list(run))) for name, run in groupby(names)], device)

    @classmethod
    def of_runs(cls, runs: Sequence[tuple[str | None, int]], device: torch.device | str) -> "AdapterMix":
        """The mix of consecutive runs of rows, each given as its adapter and its number of rows."""
        return cls(runs, device)

    def mask(self, columns: Columns, dtype: torch.dtype) -> Tensor:
        """[N, C] ones where the row uses the column's adapter, else zeros."""
        if (columns, dtype) not in self._masks:
            index = {name: place for place, name in enumerate(self.used)}
            rows_N = torch.repeat_interleave(
                torch.tensor([-1 if name is None else index[name] for name, _ in self._runs]),
                torch.tensor([count for _, count in self._runs]),
            )
            columns_C = torch.repeat_interleave(
                torch.tensor([index[name] for name, _ in columns]), torch.tensor([width for _, width in columns])
            )
            mask_NC = (rows_N[:, None] == columns_C).to(dtype)
            self._masks[columns, dtype] = mask_NC.to(self._device)
        return self._masks[columns, dtype]


@dataclass(frozen=True, slots=True)
class _Updates:
    """The low-rank updates of some adapters for all joined layers, as two matrices.

    Attributes:
        columns: The adapter and width of each block of columns.
        down_CI: Their A matrices, [C, I].
        up_CO: Their B matrices times their scales, [C, O], each in the outputs of its layer and zero elsewhere.
    """

    columns: Columns
    down_CI: Tensor
    up_CO: Tensor


class JoinedProjection:
    """Several adapted layers over the same input, as one product.

    Rows that use no adapter get exactly the product of the base weights.

    Args:
        layers: In the order of their outputs; of the same input width, dtype and device.
        precision: Of the base weights when few rows are multiplied by them.
        float_weights: What becomes of the layers' weights. `shared`: they become views of the joined tensor, so that
            nothing is stored twice and the layers still work by themselves. Otherwise the layers lose them; `packed` is
            fastest on CPUs, `released` takes the least memory.

    Raises:
        InvalidInput: As `make_product`; the layers are unchanged.
    """

    def __init__(
        self,
        layers: Sequence[AdaptedLinear],
        precision: Precision = "float",
        float_weights: FloatWeights = "shared",
    ) -> None:
        self._layers = tuple(layers)
        weight_OI = torch.cat([layer.weight.data for layer in layers]) if len(layers) > 1 else layers[0].weight.data
        self._product = make_product(weight_OI, precision, float_weights, _joined_bias(layers))
        if float_weights == "shared":
            _share(layers, weight_OI)
        else:
            _release(layers)
        self._stacked: OrderedDict[tuple[str, ...], _Updates | None] = OrderedDict()

    def __call__(self, x_NI: Tensor, adapters: AdapterMix) -> Tensor:
        """[N, I] -> [N, O] in the dtype of `x_NI`."""
        y_NO = self._product(x_NI)
        updates = self._updates(adapters.used) if adapters.used else None
        if updates is None:
            return y_NO
        low_NC = F.linear(x_NI, updates.down_CI)
        if not adapters.uniform:
            low_NC = low_NC * adapters.mask(updates.columns, low_NC.dtype)
        return y_NO.addmm_(low_NC, updates.up_CO)

    def update_adapters(self) -> None:
        """Takes note that adapters were added to the layers or removed from them."""
        self._stacked.clear()

    def _updates(self, names: tuple[str, ...]) -> _Updates | None:
        """The stacked updates of these adapters; None if none of them adapts these layers."""
        if names in self._stacked:
            self._stacked.move_to_end(names)
        else:
            self._stacked[names] = _stack(self._layers, names)
            if len(self._stacked) > _CACHED_SETS:
                self._stacked.popitem(last=False)
        return self._stacked[names]


class OutputProjection:
    """The output layer, which has no adapters; its weights may be those of the embedding table."""

    def __init__(self, product: Product) -> None:
        self._product = product

    @classmethod
    def from_weight(
        cls, weight_VE: Tensor, precision: Precision = "float", float_weights: FloatWeights = "shared"
    ) -> "OutputProjection":
        """The output layer with weights [V, E], which stay as they are, whatever copies the product makes.

        Precision `int4` uses 8 bits here: checkpoints in 4 bits store this layer in more, and 4 bits would lose 9 % of
        nano's.

        Raises:
            InvalidInput: As `make_product`.
        """
        return cls(make_product(weight_VE, "int8" if precision == "int4" else precision, float_weights))

    def __call__(self, hidden_RE: Tensor) -> Tensor:
        """[R, E] -> [R, V] float32 logits."""
        return self._product(hidden_RE).float()


def _joined_bias(layers: Sequence[nn.Linear]) -> Tensor | None:
    """[O] biases of all layers, zero for those without; None if no layer has one."""
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat(
        [layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.data for layer in layers]
    )


def _share(layers: Sequence[nn.Linear], weight_OI: Tensor) -> None:
    """Makes the layers' weights views of the joined tensor."""
    first = 0
    for layer in layers:
        layer.weight.data = weight_OI[first : first + layer.out_features]
        first += layer.out_features


def _release(layers: Sequence[nn.Linear]) -> None:
    """Frees the layers' weights but for their shapes and dtypes."""
    for layer in layers:
        layer.weight = nn.Parameter(torch.empty_like(layer.weight, device="meta"), requires_grad=False)


def _stack(layers: Sequence[AdaptedLinear], names: Sequence[str]) -> _Updates | None:
    ends = torch.tensor([layer.out_features for layer in layers]).cumsum(0).tolist()
    updates: list[tuple[str, int, int, LowRank]] = [
        (name, end - layer.out_features, end, cast(LowRank, layer.adapters[name]))
        for name in names
        for layer, end in zip(layers, ends, strict=True)
        if name in layer.adapters
    ]
    if not updates:
        return None
    columns = tuple((name, update.lora_A.out_features) for name, _, _, update in updates)
    down_CI = torch.cat([update.lora_A.weight.data for *_, update in updates]).to(layers[0].weight.dtype)
    up_CO = down_CI.new_zeros(len(down_CI), ends[-1])
    first = 0
    for (_, width), (_, start, end, update) in zip(columns, updates, strict=True):
        up_CO[first : first + width, start:end] = (update.lora_B.weight.data.float() * update.scale).T
        first += width
    return _Updates(columns, down_CI, up_CO)
