"""Tensors on the wire: numpy arrays to `Tensor` and `TensorChunk` messages and back, checked before any byte is read.

Values have to be finite in every element type that a model may use. Any other value would turn into NaN in every layer,
and in everything else in its batch.

Does not use torch: gateway and pipeline pass these messages on without decoding them.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lyra.v1 import common_pb2
from services.shared.service_errors import InvalidInput

MAX_CHUNK_BYTES = 1024 * 1024
MAX_MAGNITUDE = 65_504.0  # the largest float16; tensors may be sent, and models may compute, in float16

Array = npt.NDArray[np.float32]

_ELEMENT_BYTES = {
    common_pb2.ELEMENT_TYPE_FLOAT32: 4,
    common_pb2.ELEMENT_TYPE_FLOAT16: 2,
    common_pb2.ELEMENT_TYPE_BFLOAT16: 2,
}
_MAX_DIMENSIONS = 8


def to_message(array: npt.NDArray[np.floating]) -> common_pb2.Tensor:
    """A float32 or float16 array -> Tensor of the same element type. Other types are converted to float32."""
    if array.dtype == np.float16:
        dtype, wire = common_pb2.ELEMENT_TYPE_FLOAT16, array.astype("<f2", copy=False)
    else:
        dtype, wire = common_pb2.ELEMENT_TYPE_FLOAT32, array.astype("<f4", copy=False)
    return common_pb2.Tensor(dtype=dtype, shape=array.shape, data=np.ascontiguousarray(wire).tobytes())


def to_chunks(array: npt.NDArray[np.floating], max_bytes: int = MAX_CHUNK_BYTES) -> Iterator[common_pb2.TensorChunk]:
    """[rows, ...] -> chunks of whole rows, each with at most `max_bytes` of data; without rows, one empty chunk.

    Raises:
        ValueError: `array` has no dimension, or a single row is larger than `max_bytes`.
    """
    if array.ndim == 0:
        raise ValueError("a scalar has no rows")
    rows = array.shape[0]
    row_bytes = math.prod(array.shape[1:]) * (2 if array.dtype == np.float16 else 4)
    if row_bytes > max_bytes:
        raise ValueError(f"a row of {row_bytes} bytes does not fit into a chunk of {max_bytes}")
    step = max(1, max_bytes // row_bytes) if row_bytes else max(1, rows)
    for offset in range(0, max(1, rows), step):
        part = array[offset : offset + step]
        yield common_pb2.TensorChunk(rows=to_message(part), row_offset=offset, rows_total=rows)


def check(
    tensor: common_pb2.Tensor, *, field: str = "tensor", width: int | None = None, max_bytes: int = MAX_CHUNK_BYTES
) -> None:
    """Checks element type, shape and byte count, without reading the data.

    Args:
        tensor: Message to check.
        field: Its name in errors.
        width: Required width of a [rows, width] tensor; None to accept any shape.
        max_bytes: Maximum size of the data.

    Raises:
        InvalidInput: A check fails; its field is `field` with the invalid part appended.
    """
    element_bytes = _ELEMENT_BYTES.get(tensor.dtype)
    if element_bytes is None:
        raise InvalidInput(f"{field}.dtype", f"element type {tensor.dtype} is not one of float32, float16, bfloat16")
    shape = list(tensor.shape)
    if len(shape) > _MAX_DIMENSIONS:
        raise InvalidInput(f"{field}.shape", f"{len(shape)} dimensions are over the limit of {_MAX_DIMENSIONS}")
    if any(size < 0 for size in shape):
        raise InvalidInput(f"{field}.shape", f"{shape} has a negative size")
    if width is not None and (len(shape) != 2 or shape[1] != width):
        raise InvalidInput(f"{field}.shape", f"{shape} is not [rows, {width}], as the model requires")
    expected = math.prod(shape) * element_bytes
    if expected > max_bytes:
        raise InvalidInput(f"{field}.shape", f"{shape} is {expected} bytes, over the limit of {max_bytes} per message")
    if len(tensor.data) != expected:
        raise InvalidInput(f"{field}.data", f"has {len(tensor.data)} bytes; shape {shape} requires {expected}")


def from_message(
    tensor: common_pb2.Tensor, *, field: str = "tensor", width: int | None = None, max_bytes: int = MAX_CHUNK_BYTES
) -> Array:
    """Tensor -> float32 array of its shape (float16 and bfloat16 are widened).

    Arguments as for `check`.

    Raises:
        InvalidInput: As `check` does, and for a value that is NaN, infinite or over MAX_MAGNITUDE.
    """
    check(tensor, field=field, width=width, max_bytes=max_bytes)
    return _decode(tensor, field)


def _decode(tensor: common_pb2.Tensor, field: str) -> Array:
    array = _read(tensor)
    # Not `isfinite`, which allocates an array. Comparisons with NaN are false.
    if array.size and not (array.min() >= -MAX_MAGNITUDE and array.max() <= MAX_MAGNITUDE):
        wrong = array[~(np.abs(array) <= MAX_MAGNITUDE)]
        raise InvalidInput(
            f"{field}.data",
            f"contains {wrong[0]:g}, which is not within ±{MAX_MAGNITUDE:g}",
        )
    return array


def _read(tensor: common_pb2.Tensor) -> Array:
    shape = tuple(tensor.shape)
    if tensor.dtype == common_pb2.ELEMENT_TYPE_BFLOAT16:
        # bfloat16 is the upper half of a float32.
        bits = np.frombuffer(tensor.data, dtype="<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    source = "<f2" if tensor.dtype == common_pb2.ELEMENT_TYPE_FLOAT16 else "<f4"
    return np.frombuffer(tensor.data, dtype=source).astype(np.float32).reshape(shape)


class TensorAssembler:
    """Joins the chunks of one [rows, width] array as they arrive, in order.

    Args:
        width: Size of the last dimension.
        max_rows: Maximum rows of the whole array; checked with the first chunk, before memory is allocated.
        field: Name of the array in errors.
    """

    def __init__(self, *, width: int, max_rows: int, field: str = "tensor") -> None:
        self._width = width
        self._max_rows = max_rows
        self._field = field
        self._rows: Array | None = None
        self._filled = 0

    @property
    def complete(self) -> bool:
        """Whether all rows have arrived."""
        return self._rows is not None and self._filled == len(self._rows)

    def add(self, chunk: common_pb2.TensorChunk) -> None:
        """Adds the next chunk.

        Raises:
            InvalidInput: Its element type, shape, byte count, order, total or values are invalid.
        """
        if self.complete:
            raise InvalidInput(f"{self._field}.row_offset", "a chunk arrived after the last row")
        check(chunk.rows, field=f"{self._field}.rows", width=self._width)
        if chunk.rows_total > self._max_rows:
            raise InvalidInput(
                f"{self._field}.rows_total", f"{chunk.rows_total} rows are over the limit of {self._max_rows}"
            )
        if self._rows is not None and chunk.rows_total != len(self._rows):
            raise InvalidInput(
                f"{self._field}.rows_total", f"{chunk.rows_total} differs from the {len(self._rows)} announced before"
            )
        if chunk.row_offset != self._filled:
            raise InvalidInput(f"{self._field}.row_offset", f"is {chunk.row_offset}; row {self._filled} is next")
        count = chunk.rows.shape[0]
        if self._filled + count > chunk.rows_total:
            raise InvalidInput(
                f"{self._field}.rows.shape", f"rows up to {self._filled + count} exceed the total of {chunk.rows_total}"
            )
        if count == 0 and chunk.rows_total > 0:
            raise InvalidInput(f"{self._field}.rows.shape", "the chunk has no rows")
        if self._rows is None:
            self._rows = np.empty((chunk.rows_total, self._width), dtype=np.float32)
        self._rows[self._filled : self._filled + count] = _decode(chunk.rows, f"{self._field}.rows")
        self._filled += count

    def result(self) -> Array:
        """[rows, width] float32.

        Raises:
            InvalidInput: Rows are missing.
        """
        if self._rows is None or not self.complete:
            total = "any" if self._rows is None else str(len(self._rows))
            raise InvalidInput(f"{self._field}.rows", f"{self._filled} rows arrived where {total} were announced")
        return self._rows
