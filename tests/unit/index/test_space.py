"""What belongs to a version is opened once, and only by the model that was registered."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from embed_pipeline.accounts.terms import Terms
from embed_pipeline.catalog.versions import Version
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.packaged import resolve
from embed_pipeline.errors import ConfigurationError, EmbedderError, WrongSpace
from embed_pipeline.index.space import Spaces, at_own_place
from embed_pipeline.spec import VersionSpec
from tests.harness.fakes import HashEmbedder
from tests.harness.real_models import SMALL

HASHED = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16}
FILES = {
    "provider": "onnx",
    "model_name": "m",
    "dimensions": 16,
    "max_tokens": 64,
    "model_path": "/a/m.onnx",
    "tokenizer_path": "/a/t.json",
}


def registered(declaration: dict[str, Any], fingerprint: str = "f" * 64, name: str = "v1") -> Version:
    declared = VersionSpec.model_validate(declaration)
    now = datetime(2026, 11, 30, tzinfo=timezone.utc)
    return Version(
        "docs", name, "active", now, fingerprint, "m", "1", declared.dimensions, "vector", "cosine", 1,
        declared.identity(), declared.settings(), None,
    )  # fmt: skip


def hashed(**options: Any) -> Version:
    with_options = HASHED | {"options": options}
    return registered(with_options, VersionEmbedder.open(VersionSpec.model_validate(with_options)).fingerprint)


def spaces(own: Callable[[Version], Version] = lambda version: version) -> Spaces:
    return Spaces("docs", "postgresql://127.0.0.1:9/nobody", lambda: Terms({}, {}, None), own)


def test_a_space_is_the_same_in_every_state() -> None:
    found, version = spaces(), hashed()
    space = found.of(replace(version, state="building"))
    embedder = space.embedder
    assert found.of(version) is space
    assert space.version.state == "active"
    assert space.embedder is embedder


def test_another_model_than_the_registered_one_is_refused_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its file can be exchanged under a process that runs."""
    closed = []
    monkeypatch.setattr(HashEmbedder, "close", lambda self: closed.append(self), raising=False)
    found, version = spaces(), hashed(salt="registered")
    with pytest.raises(WrongSpace, match=r"The model of docs.v1 on this machine is not the one that was registered"):
        found.of(replace(version, spec={**version.spec, "options": {"salt": "other"}})).embedder  # noqa: B018
    assert len(closed) == 1
    assert found.of(version).embedder.fingerprint == version.fingerprint


def test_whether_a_file_is_the_right_one_is_seen_without_opening_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for field, name in (("model_path", "m.onnx"), ("tokenizer_path", "t.json")):
        shutil.copy(resolve(SMALL[field]), tmp_path / name)
    declaration = SMALL | {"model_path": str(tmp_path / "m.onnx"), "tokenizer_path": str(tmp_path / "t.json")}
    with_model = VersionEmbedder.open(VersionSpec.model_validate(declaration))
    with_model.close()
    found, version = spaces(), registered(declaration, with_model.fingerprint)
    monkeypatch.setattr(VersionEmbedder, "open", lambda *_, **__: pytest.fail("was opened"))
    found.require_model(found.of(version))
    with (tmp_path / "m.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(WrongSpace, match="is not the one that was registered"):
        found.require_model(found.of(version))
    (tmp_path / "m.onnx").unlink()
    with pytest.raises(ConfigurationError, match="does not exist"):
        found.require_model(found.of(version))


def test_a_provider_without_a_key_is_a_model_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    found = spaces()
    space = found.of(registered({"provider": "openai", "model_name": "text-embedding-3-small", "dimensions": 16}))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="no key for openai"):
        found.require_model(space)
    monkeypatch.setenv("OPENAI_API_KEY", "a key of a test")
    found.require_model(space)


def test_a_model_that_is_being_opened_holds_up_nobody_who_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found, version = spaces(), hashed()
    ready = found.of(version).embedder
    opening, go_on = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> VersionEmbedder:
        opening.set()
        assert go_on.wait(60)
        raise EmbedderError("it cannot be opened")

    monkeypatch.setattr(VersionEmbedder, "open", slow)

    def open_another() -> None:
        with pytest.raises(EmbedderError):
            found.model("v2", VersionSpec.model_validate(HASHED))

    thread = threading.Thread(target=open_another)
    thread.start()
    assert opening.wait(60)
    assert found.of(version).embedder is ready
    go_on.set()
    thread.join()


def test_settings_of_here_count_over_those_of_the_catalog() -> None:
    found = spaces(lambda version: version.with_settings({"batch_size": 3}))
    assert found.of(hashed()).version.declared.batch_size == 3


def test_what_decides_a_vector_counts_over_a_setting_of_that_name() -> None:
    version = registered(HASHED)
    assert version.with_settings({"dimensions": 3, "model_name": "other"}).declared == version.declared


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("m.onnx", "other.onnx", "t.json"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_machines_own_place_of_a_model(folder: Path) -> None:
    version = registered(FILES)

    def paths(place: Any, of: Version = version) -> tuple[str | None, str | None]:
        found = at_own_place(of, place).declared
        return found.model_path, found.tokenizer_path

    here = (str(folder / "m.onnx"), str(folder / "t.json"))
    assert paths(folder) == here
    assert paths(str(folder / "m.onnx")) == here
    assert paths(folder / "other.onnx") == (str(folder / "other.onnx"), str(folder / "t.json"))
    assert paths({"model_path": folder / "m.onnx"}) == (str(folder / "m.onnx"), "/a/t.json")
    packaged = registered(FILES | {"tokenizer_path": "package://a/other.json"})
    assert paths(folder, packaged) == (str(folder / "m.onnx"), "package://a/other.json")


@pytest.mark.parametrize(
    ("declaration", "place", "sentence"),
    [
        (FILES, {"model": "/m"}, "names model, which is no path of a machine's own"),
        (HASHED, "/m", "a version of provider tests.harness.fakes:HashEmbedder has no model file"),
    ],
)
def test_a_place_that_no_version_has_is_refused(declaration: dict[str, Any], place: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        at_own_place(registered(declaration), place)
