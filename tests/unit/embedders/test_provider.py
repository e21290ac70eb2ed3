"""To add a provider: one file, and one line in PROVIDERS. Forgetting either is an error in a sentence, and never another provider."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.provider import Provider, provider_of
from embed_pipeline.embedders.registry import open_batch_service, open_embedder
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import PROVIDERS, AccountSpec, VersionSpec
from tests.harness.providers import letters

PLACE = "tests.harness.providers.letters"


def declared(provider: str = "letters") -> VersionSpec:
    return VersionSpec(provider=provider, model_name="abc", dimensions=3)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROVIDERS, "letters", PLACE)
    monkeypatch.setenv("LETTERS_KEY", "of-letters")


@pytest.mark.usefixtures("added")
def test_one_file_and_one_line() -> None:
    """With an account, packing, limits and the checks of every embedder."""
    assert len(Path(letters.__file__).read_text().splitlines()) <= 40
    spec = declared()
    assert spec.is_remote
    assert spec.account_name == "letters"
    embedder = VersionEmbedder.open(spec)
    answer = embedder.embed_documents(["aaab", "", "b", "c", "abc"])
    assert answer.rejected == {1: "empty text"}
    assert answer.tokens == 9
    np.testing.assert_allclose(answer.vectors[0], np.asarray([4, 2, 1]) / np.sqrt(21), rtol=1e-6)
    assert np.isfinite(answer.vectors).all()


@pytest.mark.usefixtures("added")
def test_it_has_its_own_key_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LETTERS_KEY")
    monkeypatch.setenv("VOYAGE_API_KEY", "of-voyage")
    with pytest.raises(ConfigurationError, match="There is no key for letters: the environment variable LETTERS_KEY is not set"):
        open_embedder(declared())


@pytest.mark.usefixtures("added")
def test_it_has_no_batch_interface() -> None:
    with pytest.raises(ConfigurationError, match="The library of letters has no batch interface"):
        open_batch_service(declared(), AccountSpec())


def test_without_its_line() -> None:
    with pytest.raises(ValidationError, match="unknown provider 'letters': use openai, cohere, voyage, onnx, or package"):
        declared()


@pytest.mark.usefixtures("added")
def test_without_its_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(letters, "PROVIDER")
    with pytest.raises(ConfigurationError, match=f"The module {PLACE} of the provider 'letters' declares no PROVIDER"):
        open_embedder(declared())


@pytest.mark.usefixtures("added")
def test_a_line_that_was_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = declared()
    monkeypatch.delitem(PROVIDERS, "letters")
    for use in (provider_of, open_embedder):
        with pytest.raises(ConfigurationError, match="There is no provider 'letters'"):
            use(spec)


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_those_that_are_there(name: str) -> None:
    found = provider_of(declared(name))
    assert isinstance(found, Provider)
    assert found.key_variables
