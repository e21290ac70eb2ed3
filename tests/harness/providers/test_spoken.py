"""The loopback provider answers the real SDKs as the real services do, as far as it can be seen without one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request, urlopen

import cohere
import numpy as np
import openai
import pytest
import voyageai
from cohere.errors import BadRequestError, TooManyRequestsError, UnauthorizedError
from voyageai.error import AuthenticationError, InvalidRequestError, RateLimitError

from embed_pipeline.embedders import models
from tests.harness.providers.keys import KEYS
from tests.harness.providers.loopback import Provider
from tests.harness.providers.served import DEFAULTS

TEXTS = ["one text", "another, somewhat longer text"]


def openai_client(provider: Provider, key: str = KEYS["openai"]) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=provider.base_url("openai"), max_retries=0)


def voyage_client(provider: Provider, key: str = KEYS["voyage"]) -> voyageai.Client:
    return voyageai.Client(api_key=key, base_url=provider.base_url("voyage"), max_retries=1)


def cohere_client(provider: Provider, key: str = KEYS["cohere"]) -> cohere.ClientV2:
    return cohere.ClientV2(api_key=key, base_url=provider.base_url("cohere"))


def cohere_embed(client: cohere.ClientV2, texts: list[str], **fields: object) -> cohere.EmbedByTypeResponse:
    # The SDK would try a 429 again by itself.
    return client.embed(
        request_options={"max_retries": 0},
        **{"model": "embed-v4.0", "input_type": "search_document", "embedding_types": ["float"], "texts": texts} | fields,
    )


def test_openai_answers_in_both_encodings_at_the_dimensions_asked_for(provider: Provider) -> None:
    client = openai_client(provider)
    floats = client.embeddings.create(model="text-embedding-3-small", input=TEXTS, encoding_format="float", dimensions=256)
    packed = client.embeddings.create(model="text-embedding-3-small", input=TEXTS, dimensions=256)
    assert np.allclose([item.embedding for item in floats.data], [item.embedding for item in packed.data])
    assert [len(item.embedding) for item in floats.data] == [256, 256]
    assert floats.usage.total_tokens == sum(entry["tokens"] for entry in provider.billed()[:2]) > 0
    assert set(provider.paid("text-embedding-3-small").values()) == {2}


def test_a_wrong_key_and_an_unknown_model_are_told(provider: Provider) -> None:
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided: sk-n"):
        openai_client(provider, "sk-no").embeddings.create(model="text-embedding-3-small", input=TEXTS)
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        openai_client(provider).embeddings.create(model="no-such", input=TEXTS)
    with pytest.raises(UnauthorizedError, match="invalid api token"):
        cohere_embed(cohere_client(provider, "no"), TEXTS)
    with pytest.raises(AuthenticationError, match="API key is invalid"):
        voyage_client(provider, "no").embed(TEXTS, model="voyage-3.5")
    with pytest.raises(InvalidRequestError, match="not supported"):
        voyage_client(provider).embed(TEXTS, model="no-such")
    assert provider.billed() == []


def test_limits_of_a_sliding_minute_are_kept_and_told(provider: Provider) -> None:
    for name in KEYS:
        provider.limit(name, requests_per_minute=1, tokens_per_minute=1000)
    embeddings = openai_client(provider).embeddings.with_raw_response
    answer = embeddings.create(model="text-embedding-3-small", input=TEXTS)
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError, match="requests per min") as refused:
        embeddings.create(model="text-embedding-3-small", input=TEXTS)
    assert 50 < float(refused.value.response.headers["retry-after"]) <= 60
    cohere_embed(cohere_client(provider), TEXTS)
    with pytest.raises(TooManyRequestsError, match="limited to 1 API calls"):
        cohere_embed(cohere_client(provider), TEXTS)
    voyage_client(provider).embed(TEXTS, model="voyage-3.5")
    with pytest.raises(RateLimitError, match="rate limit"):
        voyage_client(provider).embed(TEXTS, model="voyage-3.5")
    assert provider.most_in_a_minute("openai")[0] == 2
    assert len(provider.billed()) == 6


def test_input_types_move_a_vector_and_are_on_the_bill(provider: Provider) -> None:
    client = voyage_client(provider)
    document, query = (
        client.embed(["same"], model="voyage-3.5", input_type=kind).embeddings[0] for kind in ("document", "query")
    )
    assert 0.9 < np.dot(document, query) < 0.999
    assert [entry["input_type"] for entry in provider.billed()] == ["document", "query"]
    assert len(client.embed(["same"], model="voyage-3.5", output_dimension=2048).embeddings[0]) == 2048


def test_a_text_that_is_too_long_is_cut_or_refused(provider: Provider) -> None:
    provider.serve("cohere", "small-window", native=8, max_tokens=4)
    client = cohere_client(provider)
    with pytest.raises(BadRequestError, match="received 8"):
        cohere_embed(client, ["x" * 32], model="small-window", truncate="NONE")
    answer = cohere_embed(client, ["x" * 32], model="small-window", truncate="END")
    assert answer.meta is not None
    assert answer.meta.billed_units is not None
    assert answer.meta.billed_units.input_tokens == 4


def test_faults_strike_whom_they_are_meant_for(provider: Provider) -> None:
    provider.fail("poison", holds="kill")
    provider.fail("reordered", provider="voyage")
    client = openai_client(provider)
    with pytest.raises(openai.BadRequestError, match="safety system"):
        client.embeddings.create(model="text-embedding-3-small", input=["fine", "kill"])
    client.embeddings.create(model="text-embedding-3-small", input=["fine"])
    response = voyageai.Embedding.create(
        input=TEXTS, model="voyage-3.5", api_key=KEYS["voyage"], base_url=provider.base_url("voyage")
    )
    assert [item.index for item in response.data] == [1, 0]
    assert [entry["begins"] for entry in provider.billed("text-embedding-3-small")] == ["fine"]


@pytest.mark.parametrize("name", ["vllm", "tei", "ollama", "gemini"])
def test_compatible_servers_answer_the_same_sdk(provider: Provider, name: str) -> None:
    provider.serve("openai", "own", native=8, max_tokens=4)
    provider.keys("openai", None)
    client = openai.OpenAI(api_key="none", base_url=provider.base_url(name), max_retries=0)
    answer = client.embeddings.create(model="own", input=["a text", "b"], encoding_format="float")
    assert [len(item.embedding) for item in answer.data] == [8, 8]
    if name == "gemini":
        client.embeddings.create(model="own", input=["x" * 32], encoding_format="float")
        assert provider.billed()[-1]["tokens"] == 4, "it cuts, and says nothing"
        return
    with pytest.raises(openai.APIStatusError, match="input") as refused:
        client.embeddings.create(model="own", input=["x" * 32])
    assert refused.value.status_code == (413 if name == "tei" else 400)


def test_two_hundred_requests_are_held_at_once(provider: Provider) -> None:
    rule = provider.fail("stuck", provider="openai")
    body = json.dumps({"model": "text-embedding-3-small", "input": TEXTS, "dimensions": 8}).encode()
    headers = {"authorization": f"Bearer {KEYS['openai']}", "content-type": "application/json"}
    request = Request(f"{provider.base_url('openai')}/embeddings", body, headers)
    with ThreadPoolExecutor(200) as pool:
        answers = [pool.submit(lambda: urlopen(request, timeout=60).status) for _ in range(200)]
        provider.wait_struck(rule, 200)
        assert provider.summary()["in_flight"] == 200
        provider.release(rule)
        assert {answer.result() for answer in answers} == {200}
    assert provider.summary()["most_in_flight"] == 200


def test_the_models_served_are_as_the_packaged_list_has_them() -> None:
    for served in DEFAULTS:
        model = models.known(served.provider, served.name)
        assert model is not None
        assert (model.dimensions, model.limits.max_tokens) == (served.native, served.max_tokens), served.name
        assert model.limits.texts == served.request_texts
        assert served.request_tokens in (None, model.limits.tokens)
        assert all(model.answers(each) == served.takes(each) for each in (8, 256, 512, 1024, 1536, 2048, 3072)), served.name
