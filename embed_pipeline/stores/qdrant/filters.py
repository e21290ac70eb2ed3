"""Conditions on the documents' columns in Qdrant's words: about the payload, which holds the columns as JSON has them.

A number is met by its value, whichever of JSON's forms it was stored in; a moment by its value too, since one moment has several texts.
A condition that a collection's strict mode would refuse is refused here, in a sentence that names the index to make.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from qdrant_client import models

from embed_pipeline.documents.filters import Condition
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.stores.qdrant.limits import Limits
from embed_pipeline.stores.qdrant.points import as_path

# A filter that no point meets: no id is in an empty list.
NOTHING = models.HasIdCondition(has_id=[])
# Whether a field is there at all, an index of any kind tells.
ANY = ["keyword", "integer", "integer range", "float", "bool", "datetime", "uuid", "text", "geo"]
# The kind to declare for a column, whatever is asked of it.
OF_KIND = {
    "boolean": "bool",
    "integer": "integer",
    "number": "float",
    "text": "keyword",
    "enum": "keyword",
    "uuid": "keyword",
    "date": "datetime",
    "timestamp": "datetime",
    "timestamptz": "datetime",
}


def payload_filter(conditions: tuple[Condition, ...], limits: Limits) -> models.Filter:
    """All of the conditions. ConfigurationError where the collection refuses one."""
    found = []
    for each in conditions:
        said = _payload_condition(each, limits)
        if limits.filters_indexed_only:
            for key, kinds in _needed(said):
                if not limits.serves(key, kinds):
                    raise _unindexed(each, limits, kinds)
        found.append(said)
    most, asked = limits.strict.filter_max_conditions, sum(map(_count, found))
    if most is not None and asked > most:
        raise ConfigurationError(
            f"where comes to {asked} conditions, and collection {limits.collection} takes {most} (filter_max_conditions).",
            next_step="Ask for fewer columns or values, or raise it in the collection's strict mode.",
        )
    return models.Filter(must=found)


def _payload_condition(condition: Condition, limits: Limits) -> models.Condition:
    column, key = condition.column, as_path(condition.column.name)
    if condition.bounds is not None:
        return models.FieldCondition(key=key, range=_range(condition.bounds))
    either: list[models.Condition] = []
    exact = [each for value in condition.any_of if (each := _exact(value)) is not None]
    if column.kind == "date" and limits.serves(key, ["datetime"]):
        # Its index is by moments: a date is the moment at which it begins.
        exact = []
        either += [models.FieldCondition(key=key, range=_range({"gte": value, "lte": value})) for value in condition.any_of]
    for of_type in (bool, int, str):
        # One request may hold one type of them only.
        values = [value for value in exact if type(value) is of_type]
        if of_type is bool:
            either += [models.FieldCondition(key=key, match=models.MatchValue(value=value)) for value in values]
        elif values:
            most = limits.strict.condition_max_size or len(values)
            for start in range(0, len(values), most):
                either.append(models.FieldCondition(key=key, match=models.MatchAny(any=values[start : start + most])))
    for value in condition.any_of:
        if isinstance(value, (float, Decimal, datetime)) and column.kind != "integer":
            either.append(models.FieldCondition(key=key, range=_range({"gte": value, "lte": value})))
    if condition.or_null:
        either.append(_null(condition, key))
    return models.Filter(should=either) if either else NOTHING


def _needed(said: models.Condition) -> Iterator[tuple[str, list[str]]]:
    """Every field of a condition, with the kinds of index of which it must have one."""
    match said:
        case models.Filter():
            for part in _parts(said):
                yield from _needed(part)
        case models.IsEmptyCondition(is_empty=field) | models.IsNullCondition(is_null=field):
            yield field.key, ANY
        case models.FieldCondition(key=key, match=models.MatchValue(value=bool())):
            yield key, ["bool"]
        case models.FieldCondition(key=key, match=models.MatchAny(any=values)):
            yield key, ["integer"] if isinstance(values[0], int) else _of_texts(values)
        case models.FieldCondition(key=key, range=models.DatetimeRange()):
            yield key, ["datetime"]
        case models.FieldCondition(key=key, range=models.Range()):
            yield key, ["float", "integer range"]
        case models.FieldCondition(key=key):
            yield key, ANY


def _of_texts(values: Sequence[Any]) -> list[str]:
    return ["keyword", "uuid"] if all(map(_is_uuid, values)) else ["keyword"]


def _is_uuid(value: Any) -> bool:
    try:
        UUID(value)
    except ValueError:
        return False
    return True


def _count(said: models.Condition) -> int:
    return sum(map(_count, _parts(said))) if isinstance(said, models.Filter) else 1


def _parts(said: models.Filter) -> list[models.Condition]:
    return [each for part in (said.must, said.should, said.must_not) if isinstance(part, list) for each in part]


def _unindexed(condition: Condition, limits: Limits, kinds: Sequence[str]) -> ConfigurationError:
    name, kind = condition.column.name, OF_KIND.get(condition.column.kind, kinds[0].split()[0])
    in_yaml = (
        f"documents.payload_indexes: {{{name}: {kind}}}"
        if condition.column.kind == "json"
        else f"documents.payload: [{{column: {name}, index: {kind}}}]"
    )
    there = limits.schema.get(as_path(name))
    lacks = "no payload index" if there is None else f"a payload index of kind {there.data_type.value}, which does not serve this"
    return ConfigurationError(
        f"where[{name!r}]: field {name!r} of collection {limits.collection} has {lacks}, and its strict mode refuses such a filter "
        "(unindexed_filtering_retrieve).",
        next_step=f"Declare {in_yaml} in the index's defs.yaml; the next command that works on the index makes it.",
    )


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
