"""What is sent to the providers, and what is made of their answers, by their own libraries against the loopback provider."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embed_pipeline.embedders import failures, models
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.metering import Unmetered
from embed_pipeline.embedders.protocol import Embedded
from embed_pipeline.embedders.provider import find_key
from embed_pipeline.embedders.registry import open_embedder
from embed_pipeline.embedders.rows import in_order
from embed_pipeline.errors import ConfigurationError, EmbedderError, EmbedPipelineError, ProviderRefused, WrongAnswer
from embed_pipeline.spec import AccountSpec, VersionSpec
from tests.harness.providers.loopback import Provider

NAMES = ("openai", "cohere", "voyage")
MODEL = {"openai": "text-embedding-3-small", "cohere": "embed-v4.0", "voyage": "voyage-3.5"}


def declared(provider: Provider, name: str, server: str = "", **fields: Any) -> VersionSpec:
    base = {"provider": name, "model_name": MODEL[name], "dimensions": 256, "base_url": provider.base_url(server or name)}
    return VersionSpec.model_validate(base | fields)


def embed(spec: VersionSpec, texts: list[str], **account: Any) -> Embedded:
    embedder = VersionEmbedder.open(spec, name="v2", account=AccountSpec(**({"max_tries": 1} | account)))
    try:
        return embedder.embed_documents(texts)
    finally:
        embedder.close()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", ["too_few", "too_many", "wrong_dimension", "nan", "infinite", "zeros", "not_json"])
def test_a_wrong_answer_to_everything_is_an_error_and_is_not_asked_for_twice(provider: Provider, name: str, fault: str) -> None:
    rule = provider.fail(fault)
    with pytest.raises(WrongAnswer, match=rf"{MODEL[name]}, answered a harmless text too, with"):
        embed(declared(provider, name), ["one", "two"], max_tries=3)
    assert provider.struck(rule) == 2


@pytest.mark.parametrize("name", ["openai", "voyage"])
def test_vectors_go_where_their_index_says(provider: Provider, name: str) -> None:
    texts = ["one", "two", "three"]
    straight = embed(declared(provider, name), texts).vectors
    provider.fail("reordered", times=1)
    np.testing.assert_array_equal(embed(declared(provider, name), texts).vectors, straight)
    rule = provider.fail("same_index")
    np.testing.assert_array_equal(embed(declared(provider, name), texts).vectors, straight)
    assert provider.struck(rule) == 6, "all, a harmless text, and halves until each is alone: index 0 of one text is no riddle"


def test_rows_of_a_server_without_indexes_or_with_numbers_instead_of_base64() -> None:
    rows = in_order([[1.0, 2.0], "AACAPwAAAEA="], [None, None], 2, 2)
    np.testing.assert_array_equal(rows.vectors, np.array([[1, 2], [1, 2]], dtype=np.float32))
    assert rows.spoiled == {}


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (None, "null where a vector should be"),
        ([], "a vector of 0 dimensions, not the declared 2"),
        ([1.0], "a vector of 1 dimensions, not the declared 2"),
        ("!", "something that is no vector"),
        ("AACA", "something that is no vector"),
        ({}, "something that is no vector"),
        (["a", "b"], "something that is no vector"),
        (1.0, r"an array of shape () where a vector should be"),
        ([[1.0, 2.0]], r"an array of shape (1, 2) where a vector should be"),
    ],
)
def test_a_row_that_is_no_vector_is_told_from_the_others(sent: object, told: str) -> None:
    rows = in_order([[3.0, 4.0], sent, [5.0, 6.0]], [2, 0, 1], 3, 2)
    assert rows.spoiled == {0: told}
    np.testing.assert_array_equal(rows.vectors, np.array([[0, 0], [5, 6], [3, 4]], dtype=np.float32))


def test_rows_go_by_their_order_where_nothing_else_can_be_meant() -> None:
    rows = [[1.0], [2.0], [3.0]]
    gemini = in_order(rows, [None, 1, 2], 3, 1)
    np.testing.assert_array_equal(gemini.vectors, rows)
    left_over = in_order(rows, [2, None, 0], 3, 1)
    np.testing.assert_array_equal(left_over.vectors, [[3.0], [2.0], [1.0]])
    for indexes in ([None, None, 2], [None, 1, 1], [None, 2, 3], [0, 0, 0], [0, 1, 3], [-1, 0, 1], ["0", 1, 2], [True, False, 2]):
        with pytest.raises(failures.Unusable, match="not one for each of 3 texts"):
            in_order(rows, indexes, 3, 1)
    for count in (2, 4):
        with pytest.raises(failures.Unusable, match=f"with 3 vectors for {count} texts"):
            in_order(rows, [0, 1, 2], count, 1)


@pytest.mark.parametrize("name", ["cohere", "voyage"])
def test_documents_and_queries_are_told_apart_and_the_words_are_part_of_the_space(provider: Provider, name: str) -> None:
    usual = open_embedder(declared(provider, name))
    document, query = (usual.embed(["a text"], role).vectors[0] for role in ("document", "query"))
    assert float(document @ query) < 0.999
    swapped = "query" if name == "voyage" else "search_query"
    other = open_embedder(declared(provider, name, document_input_type=swapped))
    np.testing.assert_array_equal(other.embed(["a text"], "document").vectors[0], query)
    assert usual.identity() != other.identity()


@pytest.mark.parametrize(
    ("name", "fields", "sent"),
    [
        ("openai", {}, 256),
        ("openai", {"dimensions": 1536}, None),
        ("openai", {"dimensions": 1536, "send_dimensions": True}, 1536),
        ("cohere", {"dimensions": 1536}, None),
        ("voyage", {"dimensions": 1024}, None),
        ("voyage", {"dimensions": 512}, 512),
    ],
)  # fmt: skip
def test_dimensions_are_asked_for_where_the_model_has_others(
    provider: Provider, name: str, fields: dict[str, Any], sent: int | None
) -> None:
    spec = declared(provider, name, **fields)
    service = open_embedder(spec)._service  # type: ignore[union-attr]
    assert next((value for key, value in service._fields.items() if "dimension" in key), None) == sent  # type: ignore[attr-defined]
    assert embed(spec, ["a text"]).vectors.shape == (1, spec.dimensions)


def test_dimensions_that_a_model_has_not_are_refused_before_anything_is_asked(provider: Provider) -> None:
    with pytest.raises(ConfigurationError, match=r"vectors of 256, 512, 1024, 1536 dimensions, not 300"):
        open_embedder(declared(provider, "cohere", dimensions=300))
    with pytest.raises(ConfigurationError, match=r"has vectors of 1536 dimensions, not 256"):
        open_embedder(declared(provider, "openai", model_name="text-embedding-ada-002"))
    with pytest.raises(ConfigurationError, match=r"3072 or fewer dimensions, not 4000"):
        open_embedder(declared(provider, "openai", model_name="text-embedding-3-large", dimensions=4000))


@pytest.mark.parametrize("server", ["vllm", "tei", "ollama", "gemini", "llamacpp", "azure"])
def test_servers_that_speak_openais_protocol_with_an_accent(
    provider: Provider, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key, numbers instead of base64, errors in other places, no tokens counted, fewer texts in a request."""
    provider.keys("openai", None)
    monkeypatch.delenv("OPENAI_API_KEY")
    provider.serve("openai", "own", native=8, max_tokens=40, request_texts=3)
    provider.fail("poison", holds="poison")
    azure = {"api_version": "2024-10-21"} if server == "azure" else {}
    spec = declared(provider, "openai", server, model_name="own", dimensions=8, **azure)
    answer = embed(spec, ["one", "two", "poison", "four", "five"])
    assert {2} == set(answer.rejected)
    assert "safety system" in answer.rejected[2]
    assert answer.tokens > 0
    if server != "gemini":  # it cuts, and says nothing
        ((position, reason),) = embed(spec, ["short", "long " * 60]).rejected.items()
        assert position == 1
        assert "context length" in reason if server == "ollama" else reason == "75 tokens, the limit is 40"


def test_a_rate_limit_that_is_worded_as_a_quota_is_waited_for(provider: Provider) -> None:
    words = "You exceeded your current quota, please check your plan and billing details. Please retry in 0.01s."
    rule = provider.fail("refuse", status=429, words=words, code="429", times=2)
    spec = declared(provider, "openai", "gemini", model_name="text-embedding-3-small", dimensions=1536)
    assert embed(spec, ["a text"]).rejected == {}
    assert provider.struck(rule) == 2


def test_a_text_that_a_provider_would_cut_without_a_word_is_not_sent(provider: Provider) -> None:
    provider.serve("openai", "gemini-embedding-001", native=3072, max_tokens=2048, request_texts=100)
    spec = declared(provider, "openai", "gemini", model_name="gemini-embedding-001", dimensions=3072)
    answer = embed(spec, ["short", "x" * 5_000])
    assert set(answer.rejected) == {1}
    assert "up to 2503 tokens, the limit is 2048" in answer.rejected[1]
    assert [entry["begins"] for entry in provider.billed()] == ["short"]


@pytest.mark.parametrize("name", NAMES)
def test_a_request_that_stands_still_ends_with_its_time(provider: Provider, name: str) -> None:
    rule = provider.fail("stuck")
    with pytest.raises(EmbedderError, match=r"did not answer, 1 times in a row: .*[Tt]ime"):
        embed(declared(provider, name), ["a text"], timeout_seconds=0.2)
    provider.release(rule)


@pytest.mark.parametrize("name", NAMES)
def test_an_endpoint_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "a-key-of-no-account")
    spec = VersionSpec(provider=name, model_name=MODEL[name], dimensions=256, base_url="http://127.0.0.1:9/v1")
    meter = Unmetered()
    embedder = open_embedder(spec, AccountSpec(api_key_env="KEY", max_tries=1), meter)
    with pytest.raises(EmbedderError, match=r"did not answer, 1 times in a row: .*[Cc]onnect.*refused"):
        embedder.embed(["a text"], "document").whole()
    assert meter.spent().tokens == 0, "what was not sent is not billed"


@pytest.mark.parametrize("name", NAMES)
def test_the_key_is_in_no_exception_no_log_and_no_identity(
    provider: Provider,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The server repeats the key in every refusal."""
    secret = "sk-secret-0123456789abcdefghijklmnop"
    monkeypatch.setenv("MY_KEY", secret)
    provider.set(echoes_key=True)
    caplog.set_level("DEBUG")
    account = AccountSpec(api_key_env="MY_KEY", max_tries=1)
    embedder = VersionEmbedder.open(declared(provider, name), account=account)
    seen: list[object] = [repr(account), repr(embedder.fingerprint), repr(find_key(declared(provider, name), account))]
    provider.keys(name, [secret])
    rules = [{"kind": "refuse", "status": status} for status in (400, 403, 404, 422, 429, 500)]
    rules += [{"kind": "quota"}, {"kind": "reset"}, {"kind": "not_json"}]
    for rule in rules:
        number = provider.fail(**rule, words=f"refused {secret}", retry_after=10_000)  # type: ignore[arg-type]
        with pytest.raises(EmbedPipelineError) as failed:
            embedder.embed_documents(["a text"])
        provider.lift(number)
        error: BaseException | None = failed.value
        while error is not None:
            # Also what no traceback shows: a library's exception holds the request.
            assert type(error).__module__.startswith("embed_pipeline."), (rule, error)
            seen += [str(error), repr(error), repr(vars(error))]
            error = error.__cause__ or error.__context__
    provider.keys(name, [])
    with pytest.raises(EmbedPipelineError, match="MY_KEY"):
        embedder.embed_documents(["a text"])
    out, err = capfd.readouterr()
    text = "\n".join(map(str, [*seen, caplog.text, out, err]))
    assert "refused ***" in text
    assert secret not in text


@pytest.mark.parametrize(
    ("name", "variable"), [("openai", "OPENAI_API_KEY"), ("cohere", "CO_API_KEY"), ("voyage", "VOYAGE_API_KEY")]
)
def test_without_a_key_one_sentence_says_which_variable(name: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (variable, "COHERE_API_KEY"):
        monkeypatch.delenv(each, raising=False)
    spec = VersionSpec(provider=name, model_name=MODEL[name], dimensions=256)
    with pytest.raises(ConfigurationError, match=f"{variable} is not set. Set {variable}, or .* accounts.{name}.api_key_env"):
        open_embedder(spec)
    with pytest.raises(ConfigurationError, match="MINE is not set"):
        open_embedder(spec, AccountSpec(api_key_env="MINE"))
    monkeypatch.setenv("MINE", "kéy")
    with pytest.raises(ConfigurationError, match="MINE holds no key") as refused:
        open_embedder(spec, AccountSpec(api_key_env="MINE"))
    assert "kéy" not in str(refused.value)


def test_the_libraries_are_imported_by_versions_of_their_provider_only() -> None:
    code = (
        "import sys; import embed_pipeline.embedders.checked, embed_pipeline.embedders.registry; "
        "print([name for name in ('openai', 'cohere', 'voyageai', 'tokenizers', 'langchain_text_splitters') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_every_known_model_has_limits_a_price_and_dimensions_that_it_answers() -> None:
    for model in models.all_models():
        assert model.answers(model.dimensions), model.name
        assert model.limits.max_tokens is not None
        assert model.limits.max_tokens <= model.limits.tokens
        assert model.usd_per_million_tokens is not None
        assert (model.batch_usd_per_million_tokens or 0) < model.usd_per_million_tokens
    assert models.known("openai", "no-such-model") is None
    assert models.limits("cohere", "no-such-model") == models.Limits(96, 128_000, None)


def test_the_page_of_the_models_is_the_packaged_list() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/models.md").read_text(encoding="utf-8")
    assert f"on {models.checked()}." in page
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    shown = [(cells[0], cells[1], *(int(cell.replace(",", "")) for cell in cells[2:5]), cells[6], cells[7]) for cells in rows]
    prices = [
        ["" if usd is None else f"{usd:g}" for usd in (model.usd_per_million_tokens, model.batch_usd_per_million_tokens)]
        for model in models.all_models()
    ]
    assert shown == [
        (model.provider, model.name, model.limits.max_tokens, model.limits.texts, model.limits.tokens, *usd)
        for model, usd in zip(models.all_models(), prices, strict=True)
    ]


@pytest.mark.parametrize(
    ("server", "path", "fields", "told"),
    [
        ("ollama", "/v1", {}, 'model "no-such" not found, try pulling it first. Run: ollama pull no-such.'),
        ("vllm", "/v1", {}, "The model `no-such` does not exist. See which models it serves, and correct model_name: curl {url}/models."),
        ("ollama", "", {}, "Set base_url to {url}/v1."),
        ("vllm", "/", {}, "Set base_url to {root}/v1."),
        ("azure", "", {"api_version": "2024-10-21"}, "Set model_name to the name of a deployment of {url}."),
    ],
)  # fmt: skip
def test_what_the_owner_of_a_server_meets_first_names_the_next_command(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, server: str, path: str, fields: dict[str, Any], told: str
) -> None:
    """A model that is not there, and a base_url without its version; no key is needed to be told so."""
    provider.keys("openai", None)
    monkeypatch.delenv("OPENAI_API_KEY")
    root = provider.base_url(server).removesuffix("/v1")
    url = root + path
    spec = declared(provider, "openai", server, model_name="no-such", dimensions=8, **fields | {"base_url": url})
    with pytest.raises(ProviderRefused) as refused:
        embed(spec, ["a text"])
    assert told.format(url=url, root=root) in str(refused.value)


def test_a_server_that_is_not_running_or_speaks_another_protocol_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = VersionSpec(provider="openai", model_name="own", dimensions=8, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(
        EmbedderError, match=r"Start the server at http://127\.0\.0\.1:9/v1, or correct base_url\. What was written"
    ):
        embed(spec, ["a text"])


def test_a_gateways_200_is_read_as_what_stands_in_it(provider: Provider) -> None:
    provider.serve("openai", "own", native=8)
    spec = declared(provider, "openai", model_name="own", dimensions=8)
    loading = provider.fail("error_body", status=503, words="model is loading", times=2)
    assert embed(spec, ["a text"], max_tries=3).rejected == {}
    assert provider.struck(loading) == 2
    provider.fail("error_body", status=400, words="this one not", holds="poison")
    assert embed(spec, ["a text", "poison"]).rejected == {1: "refused by openai: this one not"}
    provider.fail("error_body", status=401, words="who are you")
    with pytest.raises(ProviderRefused, match="who are you"):
        embed(spec, ["a text"])


def test_azures_endpoint_has_the_deployment_in_its_path_and_the_key_in_a_header_of_its_own(provider: Provider) -> None:
    provider.serve("openai", "my-deployment", native=8)
    azure = {"model_name": "my-deployment", "dimensions": 8, "api_version": "2024-10-21"}
    embed(declared(provider, "openai", "azure", **azure), ["a text"])
    assert [entry["model"] for entry in provider.billed()] == ["my-deployment"]
    with pytest.raises(ValueError, match="api_version is Azure's: declare it with provider openai and base_url"):
        VersionSpec(provider="openai", **azure)
