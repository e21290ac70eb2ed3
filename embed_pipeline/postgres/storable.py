"""The one way in which foreign text is written into the database.

text and jsonb hold no NUL and no half of a surrogate pair, and a database in another encoding than UTF8 holds that encoding's characters
only. One such character in a reason must not stop the work that it is the reason for.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from embed_pipeline.foreign_words import MOST, readable

# Python's codecs for what a database may be encoded in, where both agree on every character. Of the others ASCII is sure.
_CODECS = {
    "UTF8": "utf-8",
    **{f"LATIN{n}": f"iso8859-{part}" for n, part in zip(range(1, 11), (1, 2, 3, 4, 9, 10, 13, 14, 15, 16), strict=True)},
    **{f"ISO_8859_{part}": f"iso8859-{part}" for part in (5, 6, 7, 8)},
    **{f"WIN{page}": f"cp{page}" for page in (866, 874, *range(1250, 1259))},
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
}


def storable(conn: psycopg.Connection[Any], words: object, most: int | None = MOST) -> str:
    """The words as this database can keep them: see `foreign_words.readable`; escaped as well is what its encoding lacks."""
    return _encodable(conn, readable(words, most))


def storable_json(conn: psycopg.Connection[Any], value: Any) -> Jsonb:
    """The same for a value that becomes jsonb, in all texts and names within it."""
    return Jsonb(_plain(conn, value))


def _plain(conn: psycopg.Connection[Any], value: Any) -> Any:
    if isinstance(value, str):
        return storable(conn, value)
    if isinstance(value, Mapping):
        return {storable(conn, name): _plain(conn, each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(conn, each) for each in value]
    return value


def _encodable(conn: psycopg.Connection[Any], text: str) -> str:
    codec = _CODECS.get(server_encoding(conn), "ascii")
    return codecs.decode(codecs.encode(text, codec, "backslashreplace"), codec)


def server_encoding(conn: psycopg.Connection[Any]) -> str:
    """How the database is encoded, by PostgreSQL's name for it. Said by the server at the beginning of the session."""
    return conn.info.parameter_status("server_encoding") or "UTF8"
