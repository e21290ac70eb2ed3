"""What every declared model shares: names, and that nothing unknown is taken."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# Index and version names become parts of table names, Dagster asset keys and job names; 24 + 24 leaves room in 63 bytes. Two underscores
# join them there, and so stand in none of them: else a__b of version c and a of version b__c would be one table.
NAME_PATTERN = r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$"
MOST_LETTERS = 24
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=MOST_LETTERS)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


# What may be written is told to the schema, by which `dg check yaml` and editors check a declaration.
Columns = Annotated[list[str], Field(min_length=1), BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
OptionalColumns = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
# A function of PostgreSQL takes at most 100 arguments, and a payload column is two of jsonb_build_object.
PayloadColumns = Annotated[
    list[str],
    Field(max_length=50),
    BeforeValidator(_as_list, json_schema_input_type=str | list[str | dict[Literal["column", "index"], str]]),
]
IndexKind = Literal["keyword", "integer", "float", "bool", "datetime", "uuid"]
"""A payload index of Qdrant, by what it is over."""


def plain_url(url: str, instead: str) -> str:
    """The URL without a slash at its end; ValueError when a secret could stand in it, with what to do `instead`."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    if "@" in url or "?" in url:
        raise ValueError(f"must hold no user, password or key: the catalog keeps it; {instead}")
    return url.rstrip("/")


class Declared(BaseModel):
    """Base of every declared model: unknown attributes are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def is_name(value: str) -> bool:
    """Whether `value` may name an index or a version."""
    return re.match(NAME_PATTERN, value) is not None and len(value) <= MOST_LETTERS
