"""Conditions on the documents' columns in Qdrant's words: about the payload, which holds the columns as JSON has them.

A number is met by its value, whichever of JSON's forms it was stored in; a moment by its value too, since one moment has several texts.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from qdrant_client import models

from embed_pipeline.documents.filters import Condition
from embed_pipeline.stores.qdrant.points import as_path

# A filter that no point meets: no id is in an empty list.
NOTHING = models.HasIdCondition(has_id=[])


def payload_filter(conditions: tuple[Condition, ...]) -> models.Filter:
    """All of the conditions."""
    return models.Filter(must=[_payload_condition(each) for each in conditions])


def _payload_condition(condition: Condition) -> models.Condition:
    column, key = condition.column, as_path(condition.column.name)
    if condition.bounds is not None:
        return models.FieldCondition(key=key, range=_range(condition.bounds))
    either: list[models.Condition] = []
    exact = [each for value in condition.any_of if (each := _exact(value)) is not None]
    for of_type in (bool, int, str):
        # One request may hold one type of them only.
        values = [value for value in exact if type(value) is of_type]
        if of_type is bool:
            either += [models.FieldCondition(key=key, match=models.MatchValue(value=value)) for value in values]
        elif values:
            either.append(models.FieldCondition(key=key, match=models.MatchAny(any=values)))
    for value in condition.any_of:
        if isinstance(value, (float, Decimal, datetime)) and column.kind != "integer":
            either.append(models.FieldCondition(key=key, range=_range({"gte": value, "lte": value})))
    if condition.or_null:
        either.append(_null(condition, key))
    return models.Filter(should=either) if either else NOTHING


def _null(condition: Condition, key: str) -> models.Condition:
    field = models.PayloadField(key=key)
    if condition.column.kind == "json":
        # A key that is not there is NULL in SQL.
        return models.IsEmptyCondition(is_empty=field)
    is_null = models.IsNullCondition(is_null=field)
    if not condition.column.is_array:
        return is_null
    # An array in which some element is null is itself none.
    has_elements = models.FieldCondition(key=key, values_count=models.ValuesCount(gte=1))
    return models.Filter(must=[is_null], must_not=[has_elements])


def _exact(value: Any) -> bool | int | str | None:
    """The value as a match takes it; None where it is compared as a number or a moment."""
    if isinstance(value, (datetime, float, Decimal)):
        return None
    if isinstance(value, (bool, int, str)):
        return value
    return value.isoformat() if isinstance(value, date) else str(value)


def _range(bounds: Any) -> models.Range | models.DatetimeRange:
    if any(isinstance(value, date) for value in bounds.values()):
        return models.DatetimeRange(**bounds)
    return models.Range(**{operator: float(value) for operator, value in bounds.items()})
