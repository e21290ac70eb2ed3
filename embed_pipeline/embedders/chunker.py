"""From a document's text to the passages that are embedded, each with its exact place in the text.

The splitting is langchain-text-splitters' (RecursiveCharacterTextSplitter): at blank lines, else at line ends, else at spaces,
else anywhere. It gives the chunks and not where they were, and looking for a chunk in the text finds the wrong place when a text
repeats itself. It decides by where blank lines, line ends and spaces are, and by lengths; so the same split is made of a shadow of
the text, in which every other character is a mark of its own, and a mark has one place only.
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple, Protocol

from embed_pipeline.errors import EmbedderError
from embed_pipeline.extras import needed_for
from embed_pipeline.spec import ChunkerSpec

# The characters that the splitter looks at.
SEPARATORS = "\n "
# The code points above the basic plane: so many marks, and the spec's largest chunk is far below it.
FIRST_MARK, MARKS = 0x10000, 0x100000

# Paragraphs, lines, words, a word longer than any chunk, text that repeats itself, spaces in a row.
PROBE = "\n\n".join(
    [
        "Vectors of two models live in two spaces.\nOne query ranks them against each other.",
        "to be or not to be or not to be or not to be or not to be or not to be",
        "x" * 97 + " " + "one two  three   four    five " * 30,
        "\n".join(f"line {number} of a list" for number in range(40)),
    ]
)


class Passage(NamedTuple):
    """`text[start:end]` of a document, in characters (code points), without white space at its ends."""

    start: int
    end: int


class _Splitter(Protocol):
    def split_text(self, text: str) -> list[str]: ...


class Chunker:
    """Splits texts as a version declares it. Thread-safe."""

    def __init__(self, spec: ChunkerSpec) -> None:
        self._whole = spec.kind == "too_long"
        # Imported here: it takes a second, and only versions with a chunker need it.
        with needed_for("A chunker"):
            from langchain_text_splitters import RecursiveCharacterTextSplitter

        self._splitter: _Splitter = RecursiveCharacterTextSplitter(
            chunk_size=spec.size, chunk_overlap=spec.overlap, strip_whitespace=False
        )

    def passages(self, text: str) -> list[Passage]:
        """The passages of `text`, in order; none for a blank text. Nothing but white space is outside all of them.

        Raises EmbedderError when the splitter's chunks are not where they seem to be: then no offset could be trusted.
        """
        if self._whole:
            passage = _stripped(text, Passage(0, len(text)))
            return [passage] if passage.start < passage.end else []
        chunks = self._splitter.split_text(text)
        places = _places(text, self._splitter)
        if len(chunks) != len(places):
            raise _unplaced(text)
        found = []
        for chunk, place in zip(chunks, places, strict=True):
            if place is None and not chunk.strip(SEPARATORS):
                continue
            if place is None or text[place.start : place.end] != chunk:
                raise _unplaced(text)
            passage = _stripped(text, place)
            if passage.start < passage.end:
                found.append(passage)
        return found

    def identity(self) -> str:
        """sha256 (hex) of the passages of a fixed text: another splitting under the same name is another space."""
        return hashlib.sha256(json.dumps(self.passages(PROBE)).encode()).hexdigest()


def _places(text: str, splitter: _Splitter) -> list[Passage | None]:
    """Where each of the splitter's chunks is, by the marks in the chunks of the shadow; None for one of separators alone."""
    marked = [position for position, character in enumerate(text) if character not in SEPARATORS]
    shadow = list(text)
    for number, position in enumerate(marked):
        shadow[position] = chr(FIRST_MARK + number % MARKS)
    places: list[Passage | None] = []
    first = 0
    for chunk in splitter.split_text("".join(shadow)):
        lead = len(chunk) - len(chunk.lstrip(SEPARATORS))
        if lead == len(chunk):
            places.append(None)
            continue
        # Marks repeat after a million characters; a chunk begins less than that after the one before.
        first += (ord(chunk[lead]) - FIRST_MARK - first) % MARKS
        if first >= len(marked):
            raise _unplaced(text)
        start = marked[first] - lead
        places.append(Passage(start, start + len(chunk)))
    return places


def _stripped(text: str, place: Passage) -> Passage:
    chunk = text[place.start : place.end]
    start = place.start + len(chunk) - len(chunk.lstrip())
    return Passage(start, max(start, place.start + len(chunk.rstrip())))


def _unplaced(text: str) -> EmbedderError:
    return EmbedderError(
        f"The chunks of a text of {len(text):,} characters are not where they stand in the text: the installed "
        "langchain-text-splitters splits in a way that this package does not know.",
        next_step="Nothing was stored. Install the version of langchain-text-splitters that constraints.txt names.",
    )
