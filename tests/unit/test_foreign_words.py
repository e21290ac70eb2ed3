"""What is left of words from elsewhere before they are kept or shown."""

from __future__ import annotations

import logging

import pytest

from embed_pipeline import foreign_words
from embed_pipeline.embedders.keys import Key
from embed_pipeline.errors import EmbedderError
from embed_pipeline.foreign_words import HIDDEN, MOST, is_text, masked, readable, whole

SECRET = "s3cret/0f+the=day"


@pytest.mark.parametrize("name", ["SOME_API_KEY", "HF_TOKEN", "client_secret", "PGPASSWORD", "KEYRING"])
def test_values_of_secret_variables_are_masked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SECRET)
    assert masked(f"no access with {SECRET}, nor with s3cret%2F0f%2Bthe%3Dday.") == f"no access with {HIDDEN}, nor with {HIDDEN}."
    error = EmbedderError(f"it said {SECRET}", next_step=f"Ask for {SECRET}")
    assert SECRET not in f"{error} {vars(error)} {error.args}"


def test_the_lines_of_a_private_key_and_the_longer_of_two_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "-----BEGIN KEY-----\nMIIEabcdefgh\nshort\n")
    monkeypatch.setenv("B_KEY", "MIIEabcdefghij")
    assert masked("MIIEabcdefgh MIIEabcdefghij short") == f"{HIDDEN} {HIDDEN} short"


def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallelism")
    monkeypatch.setenv("USE_KEYS", "true")
    said = 'true parallelism: duplicate key value violates unique constraint "a_key" DETAIL: Key (id)=(5); see https://host:5432/a?page=2'
    assert readable(said) == said


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("at https://u:p@ss/w@host/x failed", "at https://u:***@host/x failed"),
        ("GET https://h/v1?api_key=abc&page=2", "GET https://h/v1?api_key=***&page=2"),
        ("GET 'https://h/o?X-Amz-Signature=ab12&sig=cd%34' (401)", "GET 'https://h/o?X-Amz-Signature=***&sig=***' (401)"),
        ("https://h/?access_token=abc#top", "https://h/?access_token=***#top"),
        ("host=h password='a b' dbname=d", "host=h password=*** dbname=d"),
        ("{'Authorization': 'Bearer abc.def', 'Accept': '*'}", "{'Authorization': 'Bearer ***', 'Accept': '*'}"),
        ("sent x-api-key: abcdef", "sent x-api-key: ***"),
        ("Bearer 0123456789abcdef01 was refused", "Bearer *** was refused"),
    ],
)
def test_secrets_in_urls_and_headers_are_masked(said: str, shown: str) -> None:
    assert masked(said) == shown


def test_what_no_encoding_holds_is_escaped_once() -> None:
    said = "half \ud83d, NUL \x00, a bell\x07,\r\n\ttab and 😀"
    shown = "half \\ud83d, NUL \\x00, a bell\\x07,\\x0d\n\ttab and 😀"
    assert readable(said) == shown
    assert readable(shown) == shown
    assert not is_text("\ud83d")
    assert not is_text("\x00")
    assert is_text(shown)


def test_pages_are_cut_and_broken_exceptions_do_not_break_us() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise KeyError("no")

    assert len(readable("x" * 10_000)) == MOST
    assert readable("x" * 10_000).endswith("...")
    assert readable(Broken()) == "Broken (its words raise KeyError)"


def test_a_query_with_half_a_pair_is_made_whole() -> None:
    assert whole("a \ud83d b \U0001f600 \udc00") == "a � b 😀 �"
    assert whole("plain") == "plain"


def test_a_key_is_masked_whatever_its_variable_is_called(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(foreign_words, "_kept", set())
    foreign_words.keep_secret(SECRET)
    assert masked(SECRET) == HIDDEN
    Key("X", SECRET).keep_out_of("a.library")
    with caplog.at_level(logging.INFO):
        logging.getLogger("a.library").info("refused %s", SECRET)
    assert caplog.messages == [f"refused {HIDDEN}"]
