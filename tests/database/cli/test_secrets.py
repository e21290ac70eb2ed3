"""Keys come from the environment and are found nowhere else: a whole run against providers that repeat them in their refusals."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from psycopg import sql

from embed_pipeline.configuration import load_indexes
from embed_pipeline.dagster_layer.component import build_definitions
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.migrate import backfill
from embed_pipeline.migrate.opening import opened
from tests.database.cli.conftest import Place, Ran
from tests.harness.providers.keys import KEYS, VARIABLES
from tests.harness.providers.loopback import Provider

Run = Callable[..., Ran]
# Each holds the word by which it is looked for, so that a part of it is found as well.
WORD = "5ecret0f"
SECRETS = {name: f"{KEYS[name][:8]}{WORD}{WORD}{name}" for name in KEYS}
MODELS = {"openai": "text-embedding-3-small", "voyage": "voyage-3.5", "cohere": "embed-v4.0"}


@pytest.fixture
def texts(caplog: pytest.LogCaptureFixture) -> Iterator[dict[str, str]]:
    """Where a key may turn up -> what was found there. The test fills it; the logs of every library are added."""
    found: dict[str, str] = {}
    with caplog.at_level(logging.DEBUG):
        yield found


@pytest.fixture
def declared(place: Place, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A version of each provider; their servers take only our secrets, and repeat what they were given in every refusal."""
    provider.set(echoes_key=True)
    for name, secret in SECRETS.items():
        monkeypatch.setenv(VARIABLES[name], secret)
        provider.keys(name, [secret])
    versions = {
        name: {"provider": name, "model_name": model, "dimensions": 256, "base_url": provider.base_url(name)}
        for name, model in MODELS.items()
    }
    place.declare(versions=versions, partitions=1, gate={"min_queries": 2, "margin": 0.2, "max_dead_letters": 5})
    return place


def database(conn: psycopg.Connection[Any]) -> str:
    """Every row of every table."""
    tables = conn.execute(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
    ).fetchall()
    dumped = [conn.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(*table))).fetchall() for table in tables]
    assert len(tables) > 15
    return str(dumped)


def shown(problem: BaseException) -> str:
    """All that a tool for crashes would show of it, except for the values of variables."""
    seen, words = problem, []
    while seen is not None:
        words.append(f"{seen!r} {seen} {vars(seen)}")
        seen = seen.__cause__ or seen.__context__  # type: ignore[assignment]
    return " ".join([*traceback.format_exception(problem), *words])


def refusals(provider: Provider, name: str, secret: str) -> Iterator[str]:
    """Set one up after another: what a provider may say to everything, with the key in it."""
    for kind, rule in (
        ("refuse", {"status": 401, "words": f"Incorrect API key provided: {secret}"}),
        ("refuse", {"status": 403, "words": f"The key {secret} may not use this model"}),
        ("quota", {}),
        ("not_json", {}),
    ):
        number = provider.fail(kind, provider=name, **rule)
        yield f"{name} {kind} {rule.get('status', '')}"
        provider.lift(number)


@pytest.mark.soak
def test_no_key_is_found_anywhere(
    declared: Place,
    run: Run,
    provider: Provider,
    conn: psycopg.Connection[Any],
    texts: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    def said(*arguments: str, code: int = 0) -> Any:
        ran = run(*arguments)
        assert ran.code == code, ran
        texts[" ".join(arguments)] = ran.out + ran.err
        return ran

    provider.fail("poison", holds="poison")
    said("load", "docs", declared.write_documents({"id": "p", "text": "poison"}))
    for verb in ("plan", "backfill", "gate", "cutover"):
        said(verb, "docs", "openai")
    said("search", "docs", "amber")
    said("check-model", "docs", code=0)
    (letters,) = said("dead-letters", "docs", "openai", "--json").value["versions"]
    assert letters["shown"][0]["reason"].endswith("(key ***)"), "the provider's words are kept, and did repeat the key"
    for where in refusals(provider, "voyage", SECRETS["voyage"]):
        texts[where] = said("backfill", "docs", "voyage", code=1).err
    said("backfill", "docs", "voyage")

    spec = load_indexes(declared.config)["docs"]
    texts["declaration"] = spec.model_dump_json() + repr(spec) + str(spec.model_json_schema())
    docs = build_definitions(spec)
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        whole = {"dagster/asset_partition_range_start": "00", "dagster/asset_partition_range_end": "00"}
        for _ in refusals(provider, "cohere", SECRETS["cohere"]):
            job = docs.resolve_job_def("docs__cohere_backfill")
            assert not job.execute_in_process(instance=instance, tags=whole, raise_on_error=False).success
        for name in ("docs__cohere_backfill", "docs__cohere_gate", "docs_dual_write", "docs_model_check"):
            tags = whole if name.endswith("_backfill") else None
            result = docs.resolve_job_def(name).execute_in_process(instance=instance, tags=tags, raise_on_error=False)
            assert result.success, [event.message for event in result.all_events if event.is_failure]
    files = [file for file in home.rglob("*") if file.is_file()]
    assert files
    for file in files:
        texts[str(file)] = file.read_bytes().decode("latin-1")

    conn.execute("UPDATE docs SET text = 'changed' WHERE id = '7'")
    with opened(spec) as index:
        for where in refusals(provider, "openai", SECRETS["openai"]):
            with pytest.raises(EmbedPipelineError) as raised:
                index.embedder("openai").embed_query("amber")
            texts[f"exception: {where}"] = shown(raised.value)
            texts[f"sync: {where}"] = said("sync", "docs", code=1).err
        with pytest.raises(EmbedPipelineError):
            backfill.fill_partition(index, "openai", "9")
        texts["handle"] = repr(index) + repr(vars(index.embedder("openai"))) + repr(spec.accounts)

    said("status", "docs", "--json")
    texts["database"] = database(conn)
    texts["logs"] = caplog.text + str([vars(record) for record in caplog.records])
    leaks = {where: text[max(0, text.find(WORD) - 200) :][:400] for where, text in texts.items() if WORD in text}
    assert not leaks, "\n".join(f"{where}: {text}" for where, text in leaks.items())
    assert sum("***" in text for text in texts.values()) > 5, "the refusals did repeat the key"
