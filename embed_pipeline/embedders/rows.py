"""From what a provider sent to one row of float32 for each text, in the order of the texts; a row that is no vector is told from the others."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embed_pipeline.embedders.failures import Unusable
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.spec import VersionSpec

# The largest finite number of IEEE 754 half precision: pgvector refuses a halfvec with anything above it.
HALF_MAX = float(np.finfo(np.float16).max)


class Rows(NamedTuple):
    """The answer to some texts. `spoiled`: the positions whose row is no vector of the declared length, and what it is; zeros stand there."""

    vectors: Vectors
    spoiled: dict[int, str]


def in_order(sent: Sequence[Any], indexes: Sequence[Any], count: int, dimensions: int) -> Rows:
    """The vectors `sent`, each to its `index`.

    A vector is a list of numbers, or little-endian float32 in base64. Raises Unusable when it cannot be told which of `count` texts has
    which row: there are more or fewer of them, or their indexes name no order.
    """
    if len(sent) != count:
        raise Unusable(f"with {len(sent)} vectors for {count} texts")
    rows = Rows(np.zeros((count, dimensions), dtype=np.float32), {})
    for position, one in zip(_positions(indexes, count), sent, strict=True):
        row = _row(one)
        if isinstance(row, str):
            rows.spoiled[position] = row
        elif len(row) != dimensions:
            rows.spoiled[position] = f"a vector of {len(row)} dimensions, not the declared {dimensions}"
        else:
            rows.vectors[position] = row
    return rows


def _positions(indexes: Sequence[Any], count: int) -> list[int]:
    """The text of each row. No index at all: they come in the order of the texts. One without: it has the place that is left over.

    The second is how Gemini's endpoint writes index 0: its messages leave out a number that is zero.
    """
    if all(index is None for index in indexes):
        return list(range(count))
    told = [index for index in indexes if index is not None]
    if all(type(index) is int for index in told):
        left = set(range(count)) - set(told)
        order = [left.pop() if index is None and len(left) == 1 else index for index in indexes]
        if None not in order and sorted(order) == list(range(count)):
            return order
    raise Unusable(f"with vectors for the positions {str(list(indexes))[:100]}: not one for each of {count} texts")


def _row(one: Any) -> Vectors | str:
    """The vector, or what is there instead of one."""
    if one is None:
        return "null where a vector should be"
    try:
        if isinstance(one, str):
            return np.frombuffer(base64.b64decode(one, validate=True), dtype="<f4")
        with np.errstate(over="ignore"):
            row: Vectors = np.asarray(one, dtype=np.float32)
    except (TypeError, ValueError, binascii.Error):
        return "something that is no vector"
    return row if row.ndim == 1 else f"an array of shape {row.shape} where a vector should be"


def norms_of(vectors: Vectors) -> NDArray[np.float64]:
    """The norm of each row, in double precision: the squares of small float32 numbers vanish, and those of large ones overflow."""
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    return norms


def unfit(vectors: Vectors, norms: NDArray[np.float64], spec: VersionSpec) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Which rows cannot be stored as a version's vectors, and what they hold."""
    # One NaN or infinity makes the sum of squares one; finite float32 squares cannot overflow a double.
    yield np.logical_not(np.isfinite(norms)), "no finite numbers (NaN or infinity)"
    yield norms == 0, "zeros alone"
    if spec.precision == "halfvec" and not spec.normalize:
        large: NDArray[np.bool_] = np.abs(vectors).max(axis=1) > HALF_MAX
        yield large, f"a number above {HALF_MAX:.0f}, too large for halfvec"


def not_understood(body: str = "") -> Unusable:
    """The answer has not the form that the protocol gives it."""
    return Unusable("with something that is no answer of its protocol" + (f": {body}" if body else ""))
