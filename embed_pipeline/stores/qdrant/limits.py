"""What a collection's strict mode allows, read from the collection's own configuration: requests are cut to it before they are sent.

What no cutting makes possible is refused when a version is registered, by the setting's name (`refuse`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from embed_pipeline.errors import ConfigurationError

# Ids in one read or write. Guards are one filter with a clause for each point; more cost time.
MOST_POINTS = 256
# Points of a page of a scroll that reads payloads, and of one that reads nothing but ids.
PAGE, IDS = 1_000, 10_000
# Our own filters have no more conditions: a vector, and ids or a field of ours.
OWN_CONDITIONS = 2
# A batch takes at most this part of what a rate limit gives in a minute: whoever is refused then waits for seconds.
PART_OF_A_MINUTE = 4


@dataclass(frozen=True)
class Limits:
    """The strict mode and the payload indexes of one collection. None limits nothing."""

    collection: str
    strict: models.StrictModeConfigOutput
    schema: Mapping[str, models.PayloadIndexInfo]
    held_back: bool = False
    """Whether the server keeps points that it has not optimized from scrolls and searches (`prevent_unoptimized`)."""

    @classmethod
    def of(cls, collection: str, info: models.CollectionInfo) -> Limits:
        declared = info.config.strict_mode_config
        strict = declared if declared is not None and declared.enabled else models.StrictModeConfigOutput()
        held_back = bool(getattr(info.config.optimizer_config, "prevent_unoptimized", None))
        return cls(collection, strict, info.payload_schema or {}, held_back)

    @property
    def reads_by_scroll(self) -> bool:
        """Whether points of known ids are read by a scroll: it counts as two reads, a retrieve as one for every id."""
        return self.strict.read_rate_limit is not None and not self.held_back

    @property
    def points_per_read(self) -> int:
        if self.reads_by_scroll:
            return _least(MOST_POINTS, self.strict.max_query_limit, self.strict.condition_max_size)
        return _least(MOST_POINTS, _part(self.strict.read_rate_limit))

    @property
    def points_per_write(self) -> int:
        return _least(MOST_POINTS, self.strict.upsert_max_batchsize, _part(self.strict.write_rate_limit))

    @property
    def ids_per_write(self) -> int | None:
        """Points that one request by a filter may touch; None: as many as there are."""
        if self.strict.write_rate_limit is None:
            return None
        return _least(PAGE, self.strict.condition_max_size, self.strict.max_query_limit, _part(self.strict.write_rate_limit))

    @property
    def ids_per_condition(self) -> int:
        return _least(PAGE, self.strict.condition_max_size, self.strict.max_query_limit)

    def page(self, most: int = PAGE) -> int:
        """Points of one page of a scroll."""
        return _least(most, self.strict.max_query_limit)

    def ef(self, wanted: int) -> int:
        return _least(wanted, self.strict.search_max_hnsw_ef)

    @property
    def allows_exact(self) -> bool:
        """Whether the server itself compares with everything, and counts exactly."""
        return self.strict.search_allow_exact is not False

    @property
    def filters_indexed_only(self) -> bool:
        return self.strict.unindexed_filtering_retrieve is False

    def serves(self, field: str, kinds: Sequence[str]) -> bool:
        """Whether the field has an index that can answer one of these kinds of question."""
        info = self.schema.get(field)
        return info is not None and bool(served(info) & set(kinds))


# How the server words the refusals of its strict mode, and the setting behind each.
SETTINGS = {
    '"upsert limit"': "upsert_max_batchsize",
    '"update limit"': "upsert_max_batchsize",
    '"search batch size"': "search_max_batchsize",
    '"timeout"': "max_timeout",
    '"hnsw_ef"': "search_max_hnsw_ef",
    '"oversampling"': "search_max_oversampling",
    '"limit"': "max_query_limit",
    "Exact search disabled": "search_allow_exact",
    "Index required but not found": "unindexed_filtering_retrieve, unindexed_filtering_update",
    "Filter condition limit": "filter_max_conditions",
    "Condition size limit": "condition_max_size",
    "maximum number of payload indices": "max_payload_index_count",
    "has a limit of": "multivector_config, sparse_config",
    "Max vector storage size": "max_collection_vector_size_bytes",
    "Max payload storage size": "max_collection_payload_size_bytes",
    "Max points count": "max_points_count",
    "Resident memory usage": "max_resident_memory_percent",
}


def setting_of(words: str) -> str | None:
    """The setting of strict mode by which a server refuses a request in these words; None where it is none."""
    return next((setting for said, setting in SETTINGS.items() if said in words), None)


def served(info: models.PayloadIndexInfo) -> set[str]:
    """What an index answers. An integer's may be made for matches or for ranges alone."""
    kind = info.data_type.value
    if kind != "integer":
        return {kind}
    return {
        part
        for part, asked in (("integer", "lookup"), ("integer range", "range"))
        if getattr(info.params, asked, None) is not False
    }


def refuse(limits: Limits, *, indexes: Sequence[str], documents: int, chunked: str | None, oversampling: float | None) -> None:
    """ConfigurationError where the collection's strict mode forbids what a version cannot do without.

    `indexes`: payload fields that must have one; `chunked`: the vector's name where a point holds many.
    """
    strict, name = limits.strict, limits.collection
    missing = [each for each in indexes if each not in limits.schema]
    most, there = strict.max_payload_index_count, len(limits.schema)
    if missing and most is not None and there + len(missing) > most:
        raise _cannot(
            name,
            "max_payload_index_count",
            most,
            f"it has {there} payload indexes, and these are needed as well: {', '.join(missing)}",
            "Raise it, or drop an index that nobody filters by.",
        )
    conditions = strict.filter_max_conditions
    if conditions is not None and conditions < OWN_CONDITIONS:
        why, mend = f"a comparison needs {OWN_CONDITIONS}", f"Raise it to {OWN_CONDITIONS} or more."
        raise _cannot(name, "filter_max_conditions", conditions, why, mend)
    if strict.max_points_count is not None and documents > strict.max_points_count:
        raise _cannot(name, "max_points_count", strict.max_points_count, f"there are {documents} documents", "Raise it.")
    if oversampling is not None and strict.search_max_oversampling is not None and oversampling > strict.search_max_oversampling:
        raise _cannot(
            name,
            "search_max_oversampling",
            strict.search_max_oversampling,
            f"store_config.search_params asks for an oversampling of {oversampling:g}",
            "Raise it, or declare less.",
        )
    rows = None if chunked is None else (strict.multivector_config or {}).get(chunked)
    if rows is not None and rows.max_vectors is not None:
        why = "a document of a version with a chunker may have more passages"
        raise _cannot(name, "multivector_config", rows.max_vectors, why, "Take max_vectors of this vector out.")


def _cannot(collection: str, setting: str, value: Any, why: str, next_step: str) -> ConfigurationError:
    return ConfigurationError(
        f"The strict mode of collection {collection} cannot be kept to: {setting} is {value}, and {why}.",
        next_step=f"{next_step} It is set by PATCH /collections/{collection} (strict_mode_config.{setting}).",
    )


def _part(a_minute: int | None) -> int | None:
    return None if a_minute is None else max(1, a_minute // PART_OF_A_MINUTE)


def _least(wanted: int, *limits: int | None) -> int:
    return max(1, min([wanted, *(each for each in limits if each is not None)]))
