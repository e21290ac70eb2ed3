"""When each version was last searched: `retire` refuses a version that is still read."""

from __future__ import annotations

import psycopg

from embed_pipeline.catalog.versions import Version, queries


def note(conn: psycopg.Connection, index: str, version: str) -> None:
    """The version was searched now. Writes nothing on a standby or in a read-only session."""
    conn.execute(queries("note_read"), {"index": index, "version": version})


def seconds_since(conn: psycopg.Connection, version: Version) -> float | None:
    """How long ago it was last searched, by the server's clock; None where that was never noted."""
    row = conn.execute(queries("last_read"), {"index": version.index, "version": version.name}).fetchone()
    return None if row is None or row[0] is None else float(row[1])


def none_in_the_future(conn: psycopg.Connection, version: Version) -> None:
    """Count a search from now on that was noted before the server's clock was set back."""
    conn.execute(queries("reads_of_the_future"), {"index": version.index, "version": version.name})


def forget(conn: psycopg.Connection, version: Version) -> None:
    """Remove what was noted of a version."""
    conn.execute(queries("forget_reads"), {"index": version.index, "version": version.name})


def standbys(conn: psycopg.Connection) -> tuple[int, str]:
    """How many standbys follow this server, where searches cannot be noted, and their names as far as this role may know them."""
    row = conn.execute(queries("standbys")).fetchone()
    return (0, "") if row is None else (int(row[0]), row[1] or "")
