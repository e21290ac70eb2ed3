"""A declaration that differs from what is registered: in a frozen fact (`spec/frozen.py`) named with both values and refused, else shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from embed_pipeline.accounts.terms import Terms
from embed_pipeline.catalog import indexes, versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import split_name
from embed_pipeline.errors import CatalogError
from embed_pipeline.spec import DocumentsSpec, IndexSpec, StoreSpec
from embed_pipeline.spec import frozen as fates

SHOWN = 80


@dataclass(frozen=True)
class Difference:
    """One fact, by its name in the declaration, with both values as text; of an embedder's own options only the name."""

    fact: str
    registered: str
    declared: str
    is_frozen: bool = True

    def __str__(self) -> str:
        if not (self.registered or self.declared):
            return f"{self.fact} is {'registered with' if self.is_frozen else 'set to'} another value"
        return (
            f"{self.fact} is {'registered as' if self.is_frozen else 'set to'} {self.registered} and declared as {self.declared}"
        )


@dataclass(frozen=True)
class Registered:
    """The declaration of an index as the catalog keeps it."""

    documents: DocumentsSpec
    store: StoreSpec
    versions: tuple[Version, ...]
    terms: Terms


def registered(conn: psycopg.Connection, index: str) -> Registered | None:
    """The index as it is registered; None where it is not. The catalog is there."""
    found = indexes.find(conn, index)
    if found is None:
        return None
    return Registered(found.documents, found.store, tuple(versions.list_versions(conn, index)), Terms.read(conn, index))


def differences(known: Registered, spec: IndexSpec) -> list[Difference]:
    """Every frozen fact in which the declaration is another one."""
    return [*of_documents(known, spec), *of_store(known, spec), *of_versions(known, spec)]


def not_yet_set(known: Registered, spec: IndexSpec) -> list[Difference]:
    """What may change and is declared otherwise than it was last: the next command that works on the index sets it."""
    if differences(known, spec):
        return []  # None of them would.
    found = _differing(
        "documents", fates.DOCUMENTS, known.documents.model_dump(mode="json"), spec.source().model_dump(mode="json"), "free"
    )
    found += _differing(
        "store", spec.store.fates, known.store.model_dump(mode="json"), spec.store.model_dump(mode="json"), "free"
    )
    for version in known.versions:
        if version.is_live and version.name in spec.versions:
            was, now = _flat(version.settings), _flat(spec.versions[version.name].settings())
            found += [
                Difference(f"versions.{version.name}.{field}", _shown(was.get(field)), _shown(value), is_frozen=False)
                for field, value in now.items()
                if was.get(field) != value
            ]
    now_terms = Terms.declared(spec)
    return found + [
        Difference(name, "", "", is_frozen=False)
        for name in ("accounts", "prices", "budget")
        if getattr(known.terms, name) != getattr(now_terms, name)
    ]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their names in the declaration: `hnsw.ef_search`."""
    inner = {
        f"{name}.{field}": each for name, value in settings.items() if isinstance(value, Mapping) for field, each in value.items()
    }
    return {name: value for name, value in settings.items() if not isinstance(value, Mapping)} | inner


def of_documents(known: Registered, spec: IndexSpec) -> list[Difference]:
    """Of the documents: table, key and text."""

    def facts(documents: DocumentsSpec) -> dict[str, Any]:
        return documents.model_dump(mode="json") | {"table": ".".join(split_name(documents.table))}

    return _differing("documents", fates.DOCUMENTS, facts(known.documents), facts(spec.source()))


def of_store(known: Registered, spec: IndexSpec) -> list[Difference]:
    """Of the store: its kind, and of one kind where its vectors are. An adopted collection may change when its version is retired."""
    was, now = known.store, spec.store
    if was.kind != now.kind:
        return [Difference("store.kind", was.kind, now.kind)]
    found = _differing("store", now.fates, was.facts(spec.name), now.facts(spec.name))
    before, after = was.adopted(), now.adopted()
    live = {version.name for version in known.versions if version.is_live}
    if any(before.get(name) != after.get(name) for name in live & {*before, *after}):
        found.append(Difference("store.adopt", _shown(was.model_dump().get("adopt")), _shown(now.model_dump().get("adopt"))))
    return found


def of_versions(known: Registered, spec: IndexSpec) -> list[Difference]:
    """Of the versions that are declared and live: what decides their vectors, and into how many partitions they were cut."""
    found: list[Difference] = []
    declared = [version for version in known.versions if version.is_live and version.name in spec.versions]
    cut = {version.partitions for version in declared} - {spec.partitions}
    if cut:
        found.append(Difference("partitions", " and ".join(map(str, sorted(cut))), str(spec.partitions)))
    for version in declared:
        was, now = version.declared.identity(), spec.versions[version.name].identity()
        name = f"versions.{version.name}"
        options, others = was.pop("options"), now.pop("options")
        found += _differing(name, fates.VERSION, was, now)
        # They are an embedder's own, and may hold anything: their values are not repeated.
        changed = sorted(each for each in {*options, *others} if options.get(each) != others.get(each))
        found += [Difference(f"{name}.options.{each}", "", "") for each in changed]
    return found


def refuse(index: str, found: Sequence[Difference]) -> None:
    """CatalogError with every difference, if there is any."""
    if found:
        raise CatalogError(
            f"The declaration of index {index!r} differs from what is registered in what never changes: {'; '.join(map(str, found))}.",
            next_step="Put the registered values back. Another model is a new version under another name; another table, key, text, store or "
            "number of partitions is a new index.",
        )


def as_registered(known: Registered, spec: IndexSpec) -> IndexSpec:
    """The declaration with the documents and the store that are registered, where it names others: for who shows what is there."""
    changed: dict[str, Any] = {}
    if of_documents(known, spec):
        changed["documents"] = known.documents
    if of_store(known, spec):
        changed["store"] = known.store
    return spec.model_copy(update=changed) if changed else spec


def _differing(
    name: str, table: Mapping[str, fates.Fate], was: Mapping[str, Any], now: Mapping[str, Any], fate: fates.Fate = "frozen"
) -> list[Difference]:
    fields = [field for field in now if table[field] == fate and was.get(field) != now[field]]
    return [Difference(f"{name}.{field}", _shown(was.get(field)), _shown(now[field]), fate == "frozen") for field in fields]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"({', '.join(map(str, value))})"
    text = "absent" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
