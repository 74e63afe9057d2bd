"""Arrays as the rows of a matrix on the wire: the numbers that the caller has, or an error that names the argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Union

import numpy
import numpy.typing

from dotmax.v1 import matrix_pb2

Buffer = Union[bytes, memoryview]

_WIRE_TYPES = {
    "<f4": matrix_pb2.FLOAT32,
    "<f2": matrix_pb2.FLOAT16,
    "<f8": matrix_pb2.FLOAT64,
    "|i1": matrix_pb2.INT8,
}
# Narrower than float32 or float64: every value is one of theirs.
_WIDENED = {"b1": "<f4", "u1": "<f4", "i2": "<f4", "u2": "<f4", "i4": "<f8", "u4": "<f8"}
_EXACT_INTEGERS = 1 << 53  # up to here every integer is a float64


@dataclass(frozen=True)
class BFloat16:
    """The upper 16 bits of float32 numbers, as uint16; see `bfloat16`."""

    bits: numpy.typing.NDArray[numpy.uint16]


def bfloat16(bits: numpy.typing.ArrayLike) -> BFloat16:
    """Marks uint16 numbers as bfloat16, which numpy itself does not have. Arrays of ml_dtypes.bfloat16 need no mark."""
    array = numpy.asarray(bits)
    if array.dtype != numpy.uint16:
        raise TypeError(f"bfloat16 is marked on uint16, not on {array.dtype}")
    return BFloat16(array)


Rows = Union[numpy.typing.ArrayLike, BFloat16]


@dataclass(frozen=True)
class WireRows:
    """A C-contiguous, little-endian array of (rows, dim), and what its elements are called on the wire."""

    values: numpy.typing.NDArray[Any]
    dtype: matrix_pb2.DType

    @property
    def count(self) -> int:
        return int(self.values.shape[0])

    @property
    def dim(self) -> int:
        return int(self.values.shape[1])

    @property
    def row_bytes(self) -> int:
        return self.dim * self.values.itemsize

    def block(self, first: int, rows: int) -> Buffer:
        """The bytes of rows [first, first + rows), not copied."""
        if rows == 0 or self.dim == 0:
            return b""
        return self.values[first : first + rows].data.cast("B")


def _convert(array: numpy.typing.NDArray[Any], name: str) -> numpy.typing.NDArray[Any]:
    """The array in a type of the wire, with the same values."""
    little = array.dtype.newbyteorder("<")
    if little.str in _WIRE_TYPES:
        return array.astype(little, copy=False)
    if little.str[1:] in _WIDENED:
        return array.astype(_WIDENED[little.str[1:]])
    if little.str[1:] in ("i8", "u8"):
        # Not by abs(), which the least int64 does not survive.
        if array.size and (int(array.max()) > _EXACT_INTEGERS or int(array.min()) < -_EXACT_INTEGERS):
            raise ValueError(f"{name}: {array.dtype} numbers beyond 2**53 are not float64 numbers")
        return array.astype("<f8")
    raise TypeError(f"{name}: cannot send {array.dtype}; float16, float32, float64, bfloat16 and int8 can be sent")


def wire_rows(rows: Rows, name: str) -> WireRows:
    """`rows` of shape (rows, dim), or (dim,) for one row, without a copy where type and layout are the wire's.

    Narrower and integer types become float32 or float64 where no value changes. Raises TypeError or ValueError.
    """
    bits = isinstance(rows, BFloat16)
    array: numpy.typing.NDArray[Any] = numpy.asarray(rows.bits if isinstance(rows, BFloat16) else rows)
    if array.dtype.name == "bfloat16":
        array, bits = array.view(numpy.uint16), True
    if array.ndim == 1:
        array = array.reshape(1, -1)
    if array.ndim != 2:
        raise ValueError(f"{name}: {array.ndim} dimensions; (rows, dim), or (dim,) for one row, can be sent")
    if bits:
        return WireRows(numpy.ascontiguousarray(array, dtype="<u2"), matrix_pb2.BFLOAT16)
    array = numpy.ascontiguousarray(_convert(array, name))
    return WireRows(array, _WIRE_TYPES[array.dtype.str])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Message:
    """A message as pieces, so that its rows are copied once, from the caller's array to what gRPC sends.

    Protobuf would copy them into the message and again out of it. Pieces of fields are the wire format's own:
    protobuf.dev/programming-guides/encoding.
    """

    def __init__(self, pieces: List[Buffer]):
        self.pieces = pieces
        self.size = sum(len(piece) for piece in pieces)

    @staticmethod
    def of(message: Any) -> "Message":
        """Any protobuf message, serialized."""
        return Message([message.SerializeToString()])

    @staticmethod
    def of_rows(rows: WireRows, first: int, count: int) -> "Message":
        """A Matrix of rows [first, first + count)."""
        shape = matrix_pb2.Matrix(rows=count, dim=rows.dim, dtype=rows.dtype)
        data = rows.block(first, count)
        number = matrix_pb2.Matrix.DATA_FIELD_NUMBER
        return Message([shape.SerializeToString(), _varint(number << 3 | 2), _varint(len(data)), data])

    def plus(self, number: int, field: "Message") -> "Message":
        """With a message field more, which the message does not have yet, or which is repeated."""
        return Message([*self.pieces, _varint(number << 3 | 2), _varint(field.size), *field.pieces])

    def serialize(self) -> bytes:
        return b"".join(self.pieces)
