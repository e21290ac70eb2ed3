from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.custom import CustomEmbedder, load_custom, require_module
from embed_pipeline.embedders.protocol import Embedded
from embed_pipeline.embedders.registry import open_embedder
from embed_pipeline.errors import ConfigurationError, EmbedderError, WrongAnswer
from embed_pipeline.spec import VersionSpec

HOW_TO = Path(__file__).parents[3] / "docs/how-to/own-embedder.md"
Write = Callable[[str], VersionSpec]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a user's module and gives the declaration that names class `Own` of it."""
    module = "users_module_for_a_test"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, module, raising=False)

    def write(code: str, **declared: Any) -> VersionSpec:
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        monkeypatch.delitem(sys.modules, module, raising=False)
        fields = {"provider": f"{module}:Own", "model_name": "mine", "dimensions": 3, **declared}
        return VersionSpec(**fields)

    return write


def test_plain_rows_are_enough(own: Any) -> None:
    spec = own(
        """
        class Own:
            def __init__(self, *, dimensions, model_name, scale=1):
                self.row = [scale] * dimensions
                self.model_name = model_name
            def embed(self, texts, role):
                assert self.model_name == "mine" and role == "query"
                return [self.row for _ in texts]
        """,
        options={"scale": 2},
    )
    embedder = load_custom(spec)
    answer = embedder.embed(["a", "b"], "query")
    assert answer.vectors.tolist() == [[2, 2, 2], [2, 2, 2]]
    assert embedder.identity() == {}
    embedder.close()


def test_embedded_identity_and_close_are_passed_on() -> None:
    class Own:
        closed = 0

        def embed(self, texts: list[str], role: str) -> Embedded:
            return Embedded(np.ones((1, 3), dtype=np.float32), {0: "no"}, frozenset())

        def identity(self) -> dict[str, str]:
            return {"weights": "abc"}

        def close(self) -> None:
            self.closed += 1

    inner = Own()
    embedder = CustomEmbedder(inner, VersionSpec(provider="a:Own", model_name="m", dimensions=3))
    assert embedder.embed(["a"], "document").rejected == {0: "no"}
    assert embedder.identity() == {"weights": "abc"}
    embedder.close()
    assert inner.closed == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [("return [[1, 2, 3], [1]]", "list"), ("return None", "NoneType"), ("return ['a', 'b']", "list")],
)
def test_what_is_no_table_of_numbers_is_a_wrong_answer(own: Any, body: str, kind: str) -> None:
    embedder = load_custom(own(f"class Own:\n    def __init__(self, **_): pass\n    def embed(self, texts, role): {body}\n"))
    if body == "return None":  # numpy makes NaN of None: the checks after this one refuse it
        assert np.isnan(embedder.embed(["a", "b"], "document").vectors).all()
        return
    with pytest.raises(WrongAnswer, match=rf"answered 2 texts with a {kind} that is not one row of numbers"):
        embedder.embed(["a", "b"], "document")


def test_an_async_embed_is_a_wrong_answer(own: Any) -> None:
    embedder = load_custom(
        own("class Own:\n    def __init__(self, **_): pass\n    async def embed(self, texts, role): return []\n")
    )
    with pytest.raises(WrongAnswer, match="with a coroutine"):
        embedder.embed(["a"], "document")


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ("no_such_module_xyz:Own", "there is no module no_such_module_xyz.*PYTHONPATH"),
        ("no_such_package_xyz.deep:Own", "there is no module no_such_package_xyz"),
        ("tests_xyz.fakes:Own", "needs the module tests_xyz.fakes, and there is no module tests_xyz"),
        ("json:NoSuchClass", "module json has no class 'NoSuchClass'"),
        ("json:dumps", "module json has no class 'dumps'"),
        ("json:", "has no class ''"),
        (":Own", "cannot be imported"),
    ],
)
def test_a_provider_that_is_not_there_is_said(provider: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        open_embedder(VersionSpec(provider=provider, model_name="m", dimensions=3))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_library_xyz", "needs no_such_library_xyz, which is not installed.*pip install no_such"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("class Own:\n    pass", "cannot be built with the arguments dimensions, model_name: .*argument"),
        ("class Own:\n    def __init__(self, **_): pass", r"has no method embed\(texts, role\)"),
    ],
)
def test_a_class_that_does_not_fit_is_said(own: Any, code: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load_custom(own(code))


def test_an_unknown_option_is_named_and_its_value_is_not(own: Any) -> None:
    spec = own("class Own:\n    def __init__(self, *, dimensions, model_name): pass", options={"pin": "hunter2"})
    with pytest.raises(ConfigurationError, match="pin") as caught:
        load_custom(spec)
    assert "hunter2" not in str(caught.value)


def test_an_option_must_not_shadow_the_declaration(own: Any) -> None:
    with pytest.raises(ConfigurationError, match="hold dimensions, which the version itself declares"):
        load_custom(own("class Own:\n    def __init__(self, **_): pass", options={"dimensions": 4}))


def test_a_constructor_that_raises_is_no_configuration_error_and_hides_secrets(own: Any) -> None:
    code = """
        class Own:
            def __init__(self, *, dimensions, model_name, api_key):
                raise TypeError(f"no access with {api_key}")
        """
    with pytest.raises(EmbedderError, match=r"cannot be opened: TypeError: no access with \*\*\*") as caught:
        load_custom(own(code, options={"api_key": "hunter2"}))
    assert "hunter2" not in str(caught.value)


def test_identity_must_be_texts(own: Any) -> None:
    code = """
        class Own:
            def __init__(self, **_): pass
            def embed(self, texts, role): return []
            def identity(self): return {"weights": 3}
        """
    with pytest.raises(ConfigurationError, match="must answer with a mapping of names to texts"):
        VersionEmbedder.open(own(code))


def code_blocks(language: str) -> list[str]:
    return [part.partition("```")[0] for part in HOW_TO.read_text().split(f"```{language}\n")[1:]]


def test_the_classes_of_the_how_to_work(own: Any) -> None:
    plain, careful, identity = code_blocks("python")
    embedder = VersionEmbedder.open(
        own(plain + "\n" + identity + "\nOwn = LetterEmbedder", dimensions=16, options={"alphabet": "aeiou"})
    )
    answer = embedder.embed_documents(["a tree", "zzz"])
    assert answer.vectors.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(answer.vectors, axis=1), 1, atol=1e-6)
    assert not np.allclose(answer.vectors[0], answer.vectors[1])
    assert embedder.embed_query("a tree").tolist() == answer.vectors[0].tolist()
    rejecting = VersionEmbedder.open(own(careful + "\nOwn = CarefulEmbedder"))
    assert rejecting.embed_documents(["fine", "forbidden"]).rejected == {1: "refused by the content filter"}


def test_a_module_is_looked_for_without_running_it(own: Any, tmp_path: Path) -> None:
    spec = own("raise RuntimeError('was run')")
    require_module(spec.provider)
    (tmp_path / "users_package_for_a_test").mkdir()
    (tmp_path / "users_package_for_a_test" / "__init__.py").write_text("raise RuntimeError('of the user')")
    for provider, words in (
        ("no_such_module_of_a_test:Own", "needs the module no_such_module_of_a_test, and there is none"),
        ("no_such_package_of_a_test.module:Own", "it cannot be looked for: ModuleNotFoundError"),
        ("users_package_for_a_test.module:Own", "it cannot be looked for: RuntimeError: of the user"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            require_module(provider)
    require_module("__main__:Own")
