"""A document as everything that embeds and writes knows it: its id, its text, and the hash of that text."""

from __future__ import annotations

from typing import NamedTuple


class DocumentText(NamedTuple):
    """A document to embed. `text`: the text columns joined; `source_hash`: sha256 of it, which a stored vector is labelled with."""

    doc_id: str
    text: str
    source_hash: bytes


class Rejection(NamedTuple):
    """Why a document can have no vector as long as its text has this hash: what makes it a dead letter."""

    source_hash: bytes
    reason: str
