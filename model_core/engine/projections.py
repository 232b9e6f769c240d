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

# Stacked updates that are kept: neighbouring steps use the same few sets of adapters, and stacking takes longer than a
# product.
_MAX_STACKS = 4
# Rows up to which a CPU computes updates in float32: at 1 to 16 rows, bfloat16 calls of these sizes took two to
# six times as long.
_MAX_FLOAT32_ROWS = 32


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
class _LayerUpdates:
    """The B matrices of one joined layer times their scales, side by side.

    Attributes:
        outputs: The layer's place among the outputs.
        columns: Their place among the columns.
        up_OC: [outputs of the layer, columns of the layer].
    """

    outputs: slice
    columns: slice
    up_OC: Tensor


@dataclass(frozen=True, slots=True)
class _Updates:
    """The low-rank updates of some adapters for all joined layers.

    Attributes:
        columns: The adapter and width of each block of columns.
        down_CI: The A matrices of all adapters and layers, [C, I].
        layers: The B matrices of each layer that has any.
    """

    columns: Columns
    down_CI: Tensor
    layers: tuple[_LayerUpdates, ...]

    def add_to(self, y_NO: Tensor, x_NI: Tensor, adapters: AdapterMix) -> Tensor:
        """[N, O] sum of `y_NO`, which may be overwritten, and of each row's update, in the dtype of `y_NO`."""
        dtype = self.down_CI.dtype
        low_NC = F.linear(x_NI.to(dtype), self.down_CI)
        if not adapters.uniform:
            low_NC = low_NC * adapters.mask(self.columns, dtype)
        sum_NO = y_NO.to(dtype)
        for layer in self.layers:
            sum_NO[:, layer.outputs].addmm_(low_NC[:, layer.columns], layer.up_OC.T)
        return sum_NO.to(y_NO.dtype)


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
        self._stacked: OrderedDict[tuple[tuple[str, ...], torch.dtype], _Updates | None] = OrderedDict()

    def __call__(self, x_NI: Tensor, adapters: AdapterMix) -> Tensor:
        """[N, I] -> [N, O] in the dtype of `x_NI`."""
        y_NO = self._product(x_NI)
        updates = self._updates(adapters.used, self._update_dtype(x_NI)) if adapters.used else None
        return y_NO if updates is None else updates.add_to(y_NO, x_NI, adapters)

    def update_adapters(self) -> None:
        """Takes note that adapters were added to the layers or removed from them."""
        self._stacked.clear()

    def _update_dtype(self, x_NI: Tensor) -> torch.dtype:
        few = x_NI.device.type == "cpu" and len(x_NI) <= _MAX_FLOAT32_ROWS
        return torch.float32 if few else self._layers[0].weight.dtype

    def _updates(self, names: tuple[str, ...], dtype: torch.dtype) -> _Updates | None:
        """The stacked updates of these adapters; None if none of them adapts these layers."""
        key = names, dtype
        if key in self._stacked:
            self._stacked.move_to_end(key)
        else:
            self._stacked[key] = _stack(self._layers, names, dtype)
            if len(self._stacked) > _MAX_STACKS:
                self._stacked.popitem(last=False)
        return self._stacked[key]


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


def _stack(layers: Sequence[AdaptedLinear], names: Sequence[str], dtype: torch.dtype) -> _Updates | None:
    """The updates of these adapters in this dtype, by layer and within a layer by adapter."""
    columns: list[tuple[str, int]] = []
    downs: list[Tensor] = []
    stacked: list[_LayerUpdates] = []
    first_output = first_column = 0
    for layer in layers:
        updates = {name: cast(LowRank, layer.adapters[name]) for name in names if name in layer.adapters}
        outputs = slice(first_output, first_output := first_output + layer.out_features)
        if not updates:
            continue
        columns += [(name, update.lora_A.out_features) for name, update in updates.items()]
        downs += [update.lora_A.weight.data.to(dtype) for update in updates.values()]
        ups = [(update.lora_B.weight.data.float() * update.scale).to(dtype) for update in updates.values()]
        up_OC = torch.cat(ups, dim=1)
        stacked.append(
            _LayerUpdates(outputs, slice(first_column, first_column := first_column + up_OC.shape[1]), up_OC)
        )
    return _Updates(tuple(columns), torch.cat(downs), tuple(stacked)) if stacked else None
