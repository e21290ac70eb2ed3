"""What a search may ask of the documents' columns: the same answers from every store, and the same refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.search import Searcher
from tests.harness.articles import DOCUMENTS, fill, serve
from tests.harness.postgres.as_built import make_extensions, make_loose_collation

Open = Callable[..., OpenIndex]

COLUMNS = {
    "lang": "text",
    "code": "char(3)",
    "nick": "varchar(20)",
    "small": "smallint",
    "big": "bigint",
    "price": "numeric",
    "cents": "numeric(12, 2)",
    "ratio": "real",
    "weight": "double precision",
    "public": "boolean",
    "day": "date",
    "at": "timestamptz",
    "clock": "timestamp",
    "ref": "uuid",
    "mood": "mood",
    "level": "level",
    "tags": "text[]",
    "sizes": "integer[]",
    "nicks": "nick",
    "moods": "mood[]",
    "refs": "uuid[]",
    "days": "date[]",
    "costs": "numeric[]",
    "flags": "boolean[]",
    "moody": "moody",
}
# The payload index of each, where a store's strict mode asks for one.
KINDS = {
    "smallint": "integer", "bigint": "integer", "level": "integer", "integer[]": "integer", "numeric": "float", "numeric(12, 2)": "float",
    "numeric[]": "float", "real": "float", "double precision": "float", "boolean": "bool", "boolean[]": "bool", "date": "datetime",
    "date[]": "datetime", "timestamptz": "datetime", "timestamp": "datetime",
}  # fmt: skip
VIEWS = {"column": "views", "index": "integer"}
# What no search can filter by: what is equal there is so by other rules than a store outside PostgreSQL has.
OTHERS = {
    "wait": ("interval", "'1 day'"),
    "cased": ("citext", "'Ab'"),
    "object": ("jsonb", "'{}'"),
    "plain": ("json", "'{}'"),
    "host": ("inet", "'10.0.0.1'"),
    "raw": ("bytea", "'x'"),
    "cash": ("money", "1"),
    "span": ("int4range", "'[1,2)'"),
    "bits": ("bit varying", "B'1'"),
    "hours": ("time without time zone", "'12:00'"),
    "pairs": ("hstore", "'a=>1'"),
    "objects": ("jsonb[]", "'{}'"),
    "levels": ("level[]", "'{}'"),
}
# Of document n. A third of the documents has none of it.
FILLED = """UPDATE articles SET views = id % 3, lang = CASE id % 2 WHEN 0 THEN 'en' ELSE '' END, code = 'a' || id % 2, nick = 'O''Brien %s',
    small = id % 5, big = 9007199254740993 + id % 2, price = id / 10.0, cents = id % 4 + 0.10, ratio = 0.1 * (id % 3),
    weight = CASE id WHEN 4 THEN 'NaN' WHEN 5 THEN 'Infinity' ELSE (id % 4) / 4.0 END, public = id % 2 = 0, day = '2026-01-01'::date + id::int % 4,
    at = '2026-01-01 12:00:00.5+00'::timestamptz + (id % 4) * interval '1 day', clock = '2026-01-01 12:00'::timestamp + (id % 4) * interval '1 day',
    ref = ('00000000-0000-0000-0000-00000000000' || id % 4)::uuid, mood = (ARRAY['sad', 'glad'])[id % 2 + 1]::mood, level = id % 4,
    nicks = ARRAY['x' || id % 2], moods = ARRAY['glad']::mood[], refs = ARRAY[('00000000-0000-0000-0000-00000000000' || id % 4)::uuid],
    days = ARRAY['2026-01-01'::date + id::int % 4], costs = ARRAY[id % 4 + 0.10], flags = ARRAY[id % 2 = 0], moody = 'sad',
    tags = CASE id % 4 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY['a', NULL] ELSE ARRAY['a', 'b'] END, sizes = ARRAY[id % 4, 10]
    WHERE id % 3 <> 0"""


class Language(Enum):
    ENGLISH = "en"


NOON = datetime(2026, 1, 2, 12, 0, 0, 500_000, tzinfo=timezone.utc)
ASKED: list[tuple[dict[str, Any], str]] = [
    ({"lang": "en"}, "lang = 'en'"),
    ({"lang": ""}, "lang = ''"),
    ({"lang": Language.ENGLISH, "views": 1}, "lang = 'en' AND views = 1"),
    ({"lang": None}, "lang IS NULL"),
    ({"lang": ["en", "de"]}, "lang IN ('en', 'de')"),
    ({"lang": ("en", None)}, "lang = 'en' OR lang IS NULL"),
    ({"lang": []}, "false"),
    ({"lang": "en' OR true --"}, "false"),
    ({"nick": "O'Brien %s"}, "nick IS NOT NULL"),
    ({"code": "a1"}, "code = 'a1'"),
    ({"code": {"a1 ", "x"}}, "code = 'a1'"),
    ({"views": 1}, "views = 1"),
    ({"views": 1.0}, "views = 1"),
    ({"views": "1"}, "views = 1"),
    ({"views": Decimal("1.0")}, "views = 1"),
    ({"views": np.int64(1)}, "views = 1"),
    ({"views": 1.5}, "false"),
    ({"views": 3_000_000_000}, "false"),
    ({"views": [10**30, 2]}, "views = 2"),
    ({"views": {"gte": 0.5, "lt": 10**30}}, "views >= 1"),
    ({"small": {"gt": 1, "lte": 3}}, "small IN (2, 3)"),
    ({"small": {"lt": 100_000}}, "small IS NOT NULL"),
    ({"big": 9007199254740993}, "big = 9007199254740993"),
    ({"price": 1.1}, "price = 1.1"),
    ({"price": Decimal("0.7")}, "price = 0.7"),
    ({"price": 1}, "price = 1"),
    ({"price": [0.4, 0.5, None]}, "price IN (0.4, 0.5) OR price IS NULL"),
    ({"cents": 1.1}, "cents = 1.1"),
    ({"ratio": 0.1}, "ratio = 0.1::real"),
    ({"weight": 0.25}, "weight = 0.25"),
    ({"weight": {"gte": 0.5}}, "weight IN (0.5, 0.75)"),
    ({"weight": {"lt": 0.5}}, "weight IN (0, 0.25)"),
    ({"public": True}, "public"),
    ({"public": [False, None]}, "public IS NOT TRUE"),
    ({"public": "false"}, "NOT public"),
    ({"day": date(2026, 1, 2)}, "day = '2026-01-02'"),
    ({"day": "2026-01-02"}, "day = '2026-01-02'"),
    ({"day": {"gte": date(2026, 1, 2), "lt": "2026-01-04"}}, "day IN ('2026-01-02', '2026-01-03')"),
    ({"at": NOON}, "at = '2026-01-02 12:00:00.5+00'"),
    ({"at": NOON.astimezone(timezone(timedelta(hours=5)))}, "at = '2026-01-02 12:00:00.5+00'"),
    ({"at": {"gte": date(2026, 1, 2), "lt": "2026-01-03T00:00:00Z"}}, "at = '2026-01-02 12:00:00.5+00'"),
    ({"at": {"gt": NOON}}, "at > '2026-01-02 12:00:00.5+00'"),
    ({"at": None}, "at IS NULL"),
    ({"clock": datetime(2026, 1, 2, 12)}, "clock = '2026-01-02 12:00'"),
    ({"clock": {"lte": "2026-01-02T12:00"}}, "clock <= '2026-01-02 12:00'"),
    ({"ref": UUID(int=1)}, "ref = '00000000-0000-0000-0000-000000000001'"),
    ({"ref": ["00000000-0000-0000-0000-000000000001"]}, "ref = '00000000-0000-0000-0000-000000000001'"),
    ({"mood": "glad"}, "mood = 'glad'"),
    ({"mood": ["glad", "sad"]}, "mood IS NOT NULL"),
    ({"level": 2}, "level = 2"),
    ({"level": {"gte": 2}}, "level >= 2"),
    ({"tags": "b"}, "'b' = ANY (tags)"),
    ({"tags": ["a", "b"]}, "tags && ARRAY['a', 'b']"),
    ({"tags": None}, "tags IS NULL"),
    ({"sizes": 2}, "2 = ANY (sizes)"),
    ({"nicks": ["x1", "y"]}, "'x1' = ANY (nicks)"),
    ({"moods": "glad"}, "moods IS NOT NULL"),
    ({"refs": UUID(int=1)}, "refs[1] = '00000000-0000-0000-0000-000000000001'"),
    ({"days": date(2026, 1, 2)}, "days[1] = '2026-01-02'"),
    ({"costs": 1.1}, "costs[1] = 1.1"),
    ({"flags": True}, "flags[1]"),
    ({"moody": ["sad", None]}, "true"),
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"nonsense": 1}, "has no column 'nonsense' to filter by"),
    ({7: 1}, "has no column 7 to filter by"),
    ({"views": "many"}, r"where\['views'\] \(int4\) cannot be 'many'. It takes a finite number, None, or a list of these"),
    ({"views": True}, "cannot be True"),
    ({"views": float("nan")}, "cannot be nan"),
    ({"price": float("inf")}, "cannot be inf"),
    ({"price": "NaN"}, "cannot be 'NaN'"),
    ({"weight": 10**400}, "cannot be 1000"),
    ({"lang": 1}, r"where\['lang'\] \(text\) cannot be 1. It takes a text without NUL"),
    ({"lang": b"en"}, "cannot be b'en'"),
    ({"lang": "e\0n"}, "cannot be"),
    ({"lang": "e\ud800n"}, "cannot be"),
    ({"lang": [["en"]]}, "cannot be"),
    ({"lang": {"gte": "a"}}, "takes no range. Ranges are for columns of numbers, dates and timestamps"),
    ({"tags": {"gte": "a"}}, "takes no range"),
    ({"public": 1}, "cannot be 1. It takes True or False"),
    ({"day": datetime(2026, 1, 1)}, "It takes a date"),
    ({"day": "soon"}, "cannot be 'soon'"),
    ({"clock": NOON}, r"where\['clock'\] \(timestamp\) cannot be"),
    ({"ref": "7"}, "It takes a UUID"),
    ({"mood": "happy"}, "cannot be 'happy'. It takes one of 'sad', 'glad'"),
    ({"views": {"near": 1}}, "takes no 'near'. A range is one or more of gt, gte, lt, lte"),
    ({"views": {}}, "takes no empty range"),
    ({"views": {"gte": None}}, "cannot be None"),
    ({"views": {"gte": {"lt": 1}}}, "cannot be"),
]


def made(app: psycopg.Connection) -> list[tuple[dict[str, Any], str]]:
    """Returns what is refused because of the column's type."""
    app.execute("CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN level AS smallint CHECK (VALUE < 10)")
    app.execute("CREATE DOMAIN nick AS text[]; CREATE DOMAIN moody AS mood")
    app.execute("ALTER TABLE articles " + ", ".join(f"ADD COLUMN {name} {type_}" for name, type_ in COLUMNS.items()))  # type: ignore[arg-type]
    missing = make_extensions(app, "citext", "hstore")
    others = {name: (type_, value) for name, (type_, value) in OTHERS.items() if type_ not in missing}
    added = (f"ADD COLUMN {name} {type_} DEFAULT {value}" for name, (type_, value) in others.items())
    app.execute("ALTER TABLE articles " + ", ".join(added))  # type: ignore[arg-type]
    app.execute(FILLED)
    words = r"Column '{}' of public.articles is (public\.)?{}, and no search can filter by that"
    return [({name: None}, words.format(name, re.escape(type_))) for name, (type_, _) in others.items()]


def test_filters(app: psycopg.Connection, open_stored: Open, database_url: str) -> None:
    """Every kind of column and of value: the documents that PostgreSQL names by a condition written by hand."""
    of_others = made(app)
    indexed = [{"column": name, "index": KINDS.get(type_, "keyword")} for name, type_ in COLUMNS.items()]
    payload = [VIEWS, *(name for where, _ in of_others for name in where), *indexed]
    index = open_stored("v1", documents={"table": "articles", "key": "id", "text": ["title", "body"], "payload": payload})
    serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        wrong = []
        for where, by_hand in ASKED:
            rows = app.execute(f"SELECT id::text FROM articles WHERE {by_hand}").fetchall()  # type: ignore[arg-type]
            expected = {doc_id for (doc_id,) in rows}
            found = {hit.doc_id for hit in searcher.search("title 5\n\nbody 5", DOCUMENTS, where=where).hits}
            if found != expected:
                wrong.append((where, len(found), len(expected)))
        assert wrong == []
        for where, words in (*REFUSED, *of_others):
            with pytest.raises(ConfigurationError, match=words):
                searcher.search("title 5\n\nbody 5", 3, where=where)
        with pytest.raises(ConfigurationError, match="where is list"):
            searcher.search("title 5", 3, where=[("lang", "en")])  # type: ignore[arg-type]


def test_a_column_under_a_collation_by_which_other_texts_are_equal(
    app: psycopg.Connection, open_stored: Open, database_url: str
) -> None:
    make_loose_collation(app)
    app.execute(
        "CREATE DOMAIN loosely AS text COLLATE loose; ALTER TABLE articles ADD COLUMN a text COLLATE loose, ADD b loosely[]"
    )
    app.execute("ALTER TABLE articles ADD COLUMN c loosely, ADD COLUMN d varchar(9)[] COLLATE loose")
    payload = ["a", "b", "c", "d"]
    index = open_stored("v1", documents={"table": "articles", "key": "id", "text": ["title", "body"], "payload": payload})
    serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        for name, words in (
            ("a", "text with the collation loose, by which"),
            ("b", "loosely"),
            ("c", "text with"),
            ("d", "with the"),
        ):
            with pytest.raises(
                ConfigurationError, match=rf"Column '{name}' of public.articles is .*{words}.*no search can filter"
            ):
                searcher.search("title 5", 3, where={name: "x"})


def test_how_many(open_stored: Open, app: psycopg.Connection, database_url: str) -> None:
    """As many as there are, more than a graph is asked for at once, and nothing that is no number of documents."""
    app.execute(
        "INSERT INTO articles (id, title, body) SELECT n, 'title ' || n, 'body ' || n FROM generate_series(61, 1600) AS n"
    )
    index = open_stored("v1")
    fill(index, "v1")
    with Searcher("docs", database_url) as searcher:
        for k, expected in ((1500, 1500), (np.int64(3), 3), (100_000, 1600)):
            assert len({hit.doc_id for hit in searcher.search("title 5", k, version="v1").hits}) == expected
        assert len(searcher.search("title 5", 1200, version="v1", visible_only=True).hits) == 1200
        for k in (0, -1, True, 100_001, 2**63, 2.0, "10", None):
            with pytest.raises(ConfigurationError, match="a search gives from 1 to 100,000 documents"):
                searcher.search("title 5", k, version="v1")  # type: ignore[arg-type]


def test_documents_beside_the_hits(app: psycopg.Connection, open_stored: Open, database_url: str) -> None:
    """Text and columns as they are now; of a document that has just gone neither it nor its hit, and the next one instead."""
    declared = {"table": "articles", "key": "id", "text": ["title", "body"], "payload": [VIEWS]}
    index = open_stored("v1", documents=declared)
    serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        nearest = [hit.doc_id for hit in searcher.search("title 5\n\nbody 5", 12).hits]
        hit = searcher.search("title 5\n\nbody 5", 1, with_documents=True).hits[0]
        assert hit.document is not None
        assert hit.document.text == "title 5\n\nbody 5"
        assert hit.document.columns == {"id": 5, "title": "title 5", "body": "body 5", "views": 0}
        hits = searcher.search("title 5\n\nbody 5", 3, with_documents=["views", "title"], where={"views": 0}).hits
        assert [hit.document.columns for hit in hits if hit.document] == [
            {"views": 0, "title": f"title {hit.doc_id}"} for hit in hits
        ]
        assert [hit.document for hit in searcher.search("title 5", 3).hits] == [None] * 3
        # Neither announced nor captured: nothing but the look at the documents themselves can tell.
        app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
        app.execute("DELETE FROM articles WHERE id::text = ANY (%s)", (nearest[1:4],))
        hits = searcher.search("title 5\n\nbody 5", 5, with_documents=()).hits
        assert [hit.doc_id for hit in hits] == [nearest[0], *nearest[4:8]]
        assert [hit.doc_id for hit in searcher.search("title 5\n\nbody 5", 5, visible_only=True).hits] == [
            nearest[0],
            *nearest[4:8],
        ]
        app.execute("ALTER TABLE articles ENABLE TRIGGER USER")
        with pytest.raises(ConfigurationError, match="no such column: column d.nonsense does not exist"):
            searcher.search("title 5", 1, with_documents=["nonsense"])
        with pytest.raises(ConfigurationError, match="takes True, False or a list of columns"):
            searcher.search("title 5", 1, with_documents="title")


def test_row_security_of_the_documents(
    app: psycopg.Connection, open_stored: Open, database_url: str, reader_url: Callable[[], str]
) -> None:
    """A reader who sees every fourth document finds k of these, nearest first, with and without their texts and a filter."""
    declared = {"table": "articles", "key": "id", "text": ["title", "body"], "payload": [VIEWS]}
    index = open_stored("v1", documents=declared)
    serve(index, "v1")
    app.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY")
    app.execute("CREATE POLICY of_the_reader ON articles USING (id % 4 = 0)")
    url = reader_url()
    with Searcher("docs", url) as searcher:
        everything = [hit.doc_id for hit in searcher.search("title 5\n\nbody 5", DOCUMENTS).hits]
        assert len(everything) == DOCUMENTS
        with pytest.raises(ConfigurationError, match="permission denied for table articles"):
            searcher.search("title 5", 1, visible_only=True)
        app.execute(f"GRANT SELECT ON articles TO {psycopg.conninfo.conninfo_to_dict(url)['user']}")  # type: ignore[arg-type]
        visible = [doc_id for doc_id in everything if int(doc_id) % 4 == 0]
        for options in ({"visible_only": True}, {"with_documents": ["title"]}, {"where": {"views": 0}, "visible_only": True}):
            hits = searcher.search("title 5\n\nbody 5", 9, **options).hits  # type: ignore[arg-type]
            assert [hit.doc_id for hit in hits] == visible[:9], options
        assert len(searcher.search("title 5", DOCUMENTS, visible_only=True).hits) == len(visible)
