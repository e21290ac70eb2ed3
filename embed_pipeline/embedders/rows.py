"""From what a provider sent to one row of float32 for each text, in the order of the texts; or WrongAnswer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np

from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import WrongAnswer


def in_order(sent: Sequence[Any], indexes: Sequence[Any], count: int, who: str) -> Vectors:
    """The vectors `sent`, each to its `index`; all indexes None: they come in the order of the texts.

    A vector is a list of numbers, or little-endian float32 in base64. Raises WrongAnswer, which names `who`, when there is not
    exactly one vector for each of `count` texts, or their lengths differ.
    """
    if len(sent) != count:
        raise _wrong(who, f"{count} texts with {len(sent)} vectors")
    order = list(range(count)) if all(index is None for index in indexes) else list(indexes)
    if any(type(index) is not int for index in order) or sorted(order) != list(range(count)):
        raise _wrong(who, f"{count} texts with vectors for the positions {str(order)[:100]}: not one for each text")
    rows = [_row(one, who) for one in sent]
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise _wrong(who, f"{count} texts with vectors of different lengths: {', '.join(map(str, sorted(lengths)))}")
    vectors = np.empty((count, lengths.pop() if lengths else 0), dtype=np.float32)
    for index, row in zip(order, rows, strict=True):
        vectors[index] = row
    return vectors


def _row(one: Any, who: str) -> Vectors:
    try:
        if isinstance(one, str):
            return np.frombuffer(base64.b64decode(one, validate=True), dtype="<f4")
        with np.errstate(over="ignore"):
            row: Vectors = np.asarray(one, dtype=np.float32)
    except (TypeError, ValueError, binascii.Error) as exc:
        raise _wrong(who, "something that is no vector") from exc
    if row.ndim != 1:
        raise _wrong(who, f"an array of shape {row.shape} where a vector should be")
    return row


def not_understood(who: str) -> WrongAnswer:
    """The answer has not the form that the protocol gives it."""
    return _wrong(who, "something that is no answer of its protocol")


def _wrong(who: str, what: str) -> WrongAnswer:
    return WrongAnswer(
        f"{who} answered {what}.",
        next_step="Nothing of this answer was stored. See whether the version's base_url and model_name are right.",
    )
