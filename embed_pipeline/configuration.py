"""Reads the same `defs.yaml` that Dagster reads, for the command line and for programs without Dagster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.nativetypes import NativeEnvironment
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import ValidationError

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import IndexSpec, is_name

COMPONENT_TYPE = "embed_pipeline.EmbeddingIndex"
# As Dagster has them, and in its order: of two in one folder it reads the first.
FILE_NAMES = ("defs.yaml", "defs.yml", "component.yaml")
# What every version has, and nothing but an index has of each of its versions.
OF_A_VERSION = {"provider", "model_name", "dimensions"}


class _Environment:
    """`{{ env.NAME }}` and `{{ env("NAME", "default") }}`, as Dagster has them."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, name: str, default: str | None = None) -> str | None:
        return os.environ.get(name, default)

    def __getattr__(self, name: str) -> str:
        if name.startswith(("__", "jinja")) or name in ("unsafe_callable", "alters_data"):
            raise AttributeError(name)  # Python and jinja2 ask, not the template.
        try:
            return os.environ[name]
        except KeyError:
            raise ConfigurationError(
                f"The environment variable {name} is not set, and {self._file} asks for it.",
                next_step=f"Set {name}.",
            ) from None


class _Sandbox(ImmutableSandboxedEnvironment, NativeEnvironment):
    """Templates with native results, as Dagster renders them, that reach nothing but `env`.

    A declaration is data: whoever may edit one must not thereby run commands wherever `embed-pipeline status` is typed.
    """

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined)
        # lipsum, cycler and the like carry their modules along.
        self.globals.clear()
        del self.filters["attr"]


@dataclass(frozen=True)
class Declared:
    """What a place declares. `unreadable`: why a declaration is none; the others are none the worse for it."""

    indexes: Mapping[str, IndexSpec]
    unreadable: tuple[ConfigurationError, ...]


def read_indexes(path: Path) -> Declared:
    """All indexes declared in a defs.yaml or anywhere below a folder, by name, and what is wrong with the declarations that are none."""
    indexes: dict[str, IndexSpec] = {}
    unreadable = []
    for file in _files(path):
        for found in _each(file):
            try:
                spec = parse_index(_attributes(found), file)
                if spec.name in indexes:
                    raise _twice(spec.name, file)
            except ConfigurationError as problem:
                unreadable.append(problem)
            else:
                indexes[spec.name] = spec
    if not indexes and not unreadable:
        raise _nothing_declared(path)
    return Declared(indexes, tuple(unreadable))


def read_each(folder: Path) -> Iterator[tuple[Path, Declared]]:
    """The same for each file by itself, without those that declare something else than indexes."""
    for file in _files(folder):
        try:
            yield file, read_indexes(file)
        except ConfigurationError as problem:
            if not any(isinstance(each, dict) and "type" in each for each in _documents(file)):
                yield file, Declared({}, (problem,))


def load_indexes(path: Path) -> dict[str, IndexSpec]:
    """All indexes declared there, by name. ConfigurationError says which file is wrong and how."""
    declared = read_indexes(path)
    for problem in declared.unreadable:
        raise problem
    return dict(declared.indexes)


def load_index(path: Path, name: str) -> IndexSpec:
    """The index of that name. What is wrong with the declaration of another one is no matter, nor is a variable that it asks for."""
    wanted: list[tuple[Mapping[str, Any], Path]] = []
    others: list[str] = []
    unreadable = []
    for file in _files(path):
        for found in _each(file):
            try:
                attributes = _attributes(found)
                called = _render(attributes.get("name"), file)
                if called == name:
                    wanted.append((attributes, file))
                else:
                    others.append(called if isinstance(called, str) and is_name(called) else parse_index(attributes, file).name)
            except ConfigurationError as problem:
                unreadable.append(problem)
    if len(wanted) > 1:
        raise _twice(name, wanted[1][1])
    if wanted:
        return parse_index(*wanted[0])
    if not others:
        raise unreadable[0] if unreadable else _nothing_declared(path)
    more = f"; one cannot be read: {unreadable[0]}" if unreadable else "."
    raise ConfigurationError(
        f"No index {name!r} is declared in {path}; there is {', '.join(sorted(others))}{more}",
        next_step="Name one of these, or another file with --config.",
    )


def _nothing_declared(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"No index is declared in {path}.",
        next_step=f"Write a defs.yaml with `type: {COMPONENT_TYPE}` there, or name its folder with --config.",
    )


def _twice(name: str, file: Path) -> ConfigurationError:
    return ConfigurationError(f"Index {name!r} is declared twice, the second time in {file}.", next_step="Rename one.")


def _each(file: Path) -> list[Mapping[str, Any] | ConfigurationError]:
    """The declarations of a file; of one that is no YAML, what is wrong with it."""
    try:
        return list(_declarations(file))
    except ConfigurationError as problem:
        return [problem]


def _attributes(found: Mapping[str, Any] | ConfigurationError) -> Mapping[str, Any]:
    if isinstance(found, ConfigurationError):
        raise found
    return found


def parse_index(attributes: Mapping[str, Any], file: Path) -> IndexSpec:
    """One declaration, checked; paths in it are relative to its file."""
    try:
        spec = IndexSpec.model_validate(_render(attributes, file))
    except ValidationError as problem:
        raise ConfigurationError(f"{file}: {_first_problem(problem)}.", next_step="Correct this attribute.") from None
    return anchored(spec, file.parent)


def anchored(spec: IndexSpec, folder: Path) -> IndexSpec:
    """The declaration with its relative paths made absolute from `folder`."""
    versions = {
        name: version.model_copy(
            update={each: _absolute(getattr(version, each), folder) for each in ("model_path", "tokenizer_path")}
        )
        for name, version in spec.versions.items()
    }
    holdout = None if spec.holdout is None else spec.holdout.model_copy(update={"path": (folder / spec.holdout.path).resolve()})
    return spec.model_copy(update={"versions": versions, "holdout": holdout, "store": spec.store.anchored(folder)})


def _absolute(path: str | None, folder: Path) -> str | None:
    return path if path is None or "://" in path else str((folder / path).resolve())


def file_of(place: Path) -> Path:
    """The declarations of a folder; of what is no folder, itself."""
    if not place.is_dir():
        return place
    return next((place / name for name in FILE_NAMES if (place / name).is_file()), place / FILE_NAMES[0])


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from sorted(file for name in FILE_NAMES for file in path.rglob(name) if file == file_of(file.parent))
    else:
        raise ConfigurationError(f"There is no file or folder {path}.", next_step="Name a defs.yaml or its folder with --config.")


def _documents(file: Path) -> list[Any]:
    try:
        return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        line = getattr(getattr(problem, "problem_mark", None), "line", None)
        where = f"{file}, line {line + 1}" if line is not None else str(file)
        raise ConfigurationError(f"{where} is not valid YAML.", next_step="Correct it.") from None


def _declarations(file: Path) -> Iterator[Mapping[str, Any]]:
    for document in _documents(file):
        if isinstance(document, dict) and _is_index(document):
            attributes = document.get("attributes")
            if not isinstance(attributes, dict):
                raise ConfigurationError(f"{file} declares an index without attributes.", next_step="Add `attributes:`.")
            yield attributes


def _is_index(document: Mapping[str, Any]) -> bool:
    """Also of a type of the user's own, a subclass of ours: by what it declares, since to import the type would run the user's code and Dagster
    wherever `embed-pipeline status` is typed."""
    if document.get("type") == COMPONENT_TYPE:
        return True
    attributes = document.get("attributes")
    versions = attributes.get("versions") if isinstance(document.get("type"), str) and isinstance(attributes, dict) else None
    return (
        isinstance(versions, dict)
        and bool(versions)
        and all(isinstance(each, dict) and each.keys() >= OF_A_VERSION for each in versions.values())
    )


def _render(value: Any, file: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _render(each, file) for key, each in value.items()}
    if isinstance(value, list):
        return [_render(each, file) for each in value]
    if isinstance(value, str) and "{{" in value:
        try:
            found = _Sandbox().from_string(value).render(env=_Environment(file))
            return _plain(found)
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as problem:
            said = str(problem).rstrip(".")
            raise ConfigurationError(
                f"{file}: cannot resolve a template: {said}.",
                next_step='Use {{ env.NAME }} or {{ env("NAME", "default") }}: templates reach nothing else.',
            ) from None
    return value


def _plain(found: Any) -> Any:
    """What a template gave, if it is data. A template that is one expression gives the thing itself, whatever it is."""
    if isinstance(found, jinja2.Undefined):
        str(found)  # Raises what it stands for.
    if isinstance(found, Mapping):
        return {_plain(name): _plain(each) for name, each in found.items()}
    if isinstance(found, (list, tuple, set)):
        return [_plain(each) for each in found]
    if found is None or isinstance(found, (str, int, float)):
        return found
    raise TypeError(f"it gives a {type(found).__name__}, which is no text, number or list of them")


def _first_problem(problem: ValidationError) -> str:
    """The first problem as `attribute: what is wrong`; never the value, which may be a secret."""
    errors = problem.errors(include_url=False, include_input=False, include_context=False)
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"]) or "attributes"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{where}: {first['msg'].removeprefix('Value error, ')}{more}"
