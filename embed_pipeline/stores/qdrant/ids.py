"""Document ids to point ids: the same document is the same point, in every process and for ever."""

from __future__ import annotations

import uuid

# Of this package alone, and never to change: every stored point of a text id hangs on it.
NAMESPACE = uuid.UUID("6f1d0f5e-8f0b-5a53-9f54-6c1d6f7a3b52")

MAX_INTEGER = 2**64 - 1


def point_id(doc_id: str) -> int | str:
    """The point of a document. Qdrant takes unsigned 64-bit integers and UUIDs.

    An id that is one of these in its canonical spelling is kept, so that an existing collection's points are the documents of its ids.
    Every other text becomes the UUID (version 5) of that text. "7" and "07" are two documents and two points.
    """
    if doc_id.isascii() and doc_id.isdigit() and str(int(doc_id)) == doc_id and int(doc_id) <= MAX_INTEGER:
        return int(doc_id)
    try:
        if str(uuid.UUID(doc_id)) == doc_id:
            return doc_id
    except ValueError:
        pass
    return str(uuid.uuid5(NAMESPACE, doc_id))
