"""Tensors survive the wire, and invalid ones are refused by field."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lyra.v1 import common_pb2
from services.shared.rpc import tensors
from services.shared.rpc.tensors import TensorAssembler
from services.shared.service_errors import InvalidInput

matrices = arrays.arrays(
    st.sampled_from([np.float32, np.float16]),
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.floats(-1000, 1000, width=16),
)


numbers = st.floats(-tensors.MAX_MAGNITUDE, tensors.MAX_MAGNITUDE, width=32)


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5), elements=numbers))
def test_an_array_round_trips_through_the_message(array: np.ndarray) -> None:
    np.testing.assert_array_equal(tensors.from_message(tensors.to_message(array)), array)


@given(matrices, st.integers(160, 2000))
def test_chunks_of_any_size_reassemble_to_the_array(matrix: np.ndarray, max_bytes: int) -> None:
    chunks = list(tensors.to_chunks(matrix, max_bytes))
    assert all(len(chunk.rows.data) <= max_bytes for chunk in chunks)
    assembler = TensorAssembler(width=matrix.shape[1], max_rows=matrix.shape[0])
    for chunk in chunks:
        assert not assembler.complete
        assembler.add(chunk)
    np.testing.assert_array_equal(assembler.result(), matrix)


def test_an_array_without_rows_is_one_chunk() -> None:
    (chunk,) = tensors.to_chunks(np.zeros((0, 4), np.float32))
    assembler = TensorAssembler(width=4, max_rows=10)
    assembler.add(chunk)
    assert assembler.result().shape == (0, 4)


def test_a_non_contiguous_array_is_sent_in_row_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(tensors.from_message(tensors.to_message(array)), array)


def test_bfloat16_is_widened_exactly() -> None:
    values = np.array([[1.0, -2.5, 0.15625]], np.float32)
    data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    message = common_pb2.Tensor(dtype=common_pb2.ELEMENT_TYPE_BFLOAT16, shape=[1, 3], data=data)
    np.testing.assert_array_equal(tensors.from_message(message), values)


def _tensor(shape: list[int], count: int, dtype: int = common_pb2.ELEMENT_TYPE_FLOAT32) -> common_pb2.Tensor:
    return common_pb2.Tensor(dtype=dtype, shape=shape, data=b"\0" * count)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        (_tensor([2, 2], 16, common_pb2.ELEMENT_TYPE_UNSPECIFIED), "x.dtype"),
        (_tensor([2, 2], 16, 99), "x.dtype"),
        (_tensor([2, 2], 15), "x.data"),
        (_tensor([2, 3], 24), "x.shape"),
        (_tensor([4], 16), "x.shape"),
        (_tensor([-2, 2], 16), "x.shape"),
        (_tensor([1] * 9, 4), "x.shape"),
        (_tensor([1 << 40, 2], 16), "x.shape"),
    ],
)
def test_a_tensor_that_contradicts_its_header_is_refused_by_field(tensor: common_pb2.Tensor, field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        tensors.from_message(tensor, field="x", width=2)
    assert refusal.value.field == field


def _chunk(offset: int, rows: int, total: int) -> common_pb2.TensorChunk:
    return common_pb2.TensorChunk(
        rows=tensors.to_message(np.ones((rows, 2), np.float32)), row_offset=offset, rows_total=total
    )


@pytest.mark.parametrize(
    ("chunks", "field"),
    [
        ([(0, 2, 101)], "x.rows_total"),
        ([(1, 2, 4)], "x.row_offset"),
        ([(0, 2, 4), (3, 1, 4)], "x.row_offset"),
        ([(0, 2, 4), (2, 2, 5)], "x.rows_total"),
        ([(0, 3, 4), (3, 2, 4)], "x.rows.shape"),
        ([(0, 0, 4)], "x.rows.shape"),
        ([(0, 4, 4), (4, 1, 4)], "x.row_offset"),
    ],
)
def test_chunks_out_of_order_or_over_the_total_are_refused(chunks: list[tuple[int, int, int]], field: str) -> None:
    assembler = TensorAssembler(width=2, max_rows=100, field="x")
    for chunk in chunks[:-1]:
        assembler.add(_chunk(*chunk))
    with pytest.raises(InvalidInput) as refusal:
        assembler.add(_chunk(*chunks[-1]))
    assert refusal.value.field == field


def test_missing_rows_are_reported_with_their_count() -> None:
    assembler = TensorAssembler(width=2, max_rows=100, field="x")
    assembler.add(_chunk(0, 2, 4))
    with pytest.raises(InvalidInput, match="2 rows arrived where 4 were announced"):
        assembler.result()


_BAD = [np.nan, np.inf, -np.inf, 65_536.0, -1e38]


@pytest.mark.parametrize("value", _BAD)
@pytest.mark.parametrize("element", ["float32", "bfloat16"])
def test_a_non_finite_or_extreme_value_is_refused_by_field(value: float, element: str) -> None:
    values = np.zeros((3, 2), np.float32)
    values[2, 1] = value
    message = tensors.to_message(values)
    if element == "bfloat16":
        data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
        message = common_pb2.Tensor(dtype=common_pb2.ELEMENT_TYPE_BFLOAT16, shape=[3, 2], data=data)
    with pytest.raises(InvalidInput) as refusal:
        tensors.from_message(message, field="x")
    assert refusal.value.field == "x.data"
    assembler = TensorAssembler(width=2, max_rows=100, field="x")
    with pytest.raises(InvalidInput) as refusal:
        assembler.add(common_pb2.TensorChunk(rows=message, rows_total=3))
    assert refusal.value.field == "x.rows.data"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_infinities_are_refused_in_half_precision_too(value: float) -> None:
    with pytest.raises(InvalidInput, match="not within"):
        tensors.from_message(tensors.to_message(np.array([[1.0, value]], np.float16)))


@pytest.mark.parametrize("value", [65_504.0, -65_504.0, 1e-45, -0.0])
def test_the_largest_and_smallest_numbers_are_accepted(value: float) -> None:
    array = np.array([[value, 1.0]], np.float32)
    np.testing.assert_array_equal(tensors.from_message(tensors.to_message(array)), array)
