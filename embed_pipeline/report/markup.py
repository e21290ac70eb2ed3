"""HTML pages that load nothing, run nothing and can be printed: their head, and text that cannot become markup."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence


class Html(str):
    """Markup; any other text is escaped when it becomes part of it."""


# Nothing may be loaded or run, whatever an application's text may hold: the browser holds to that too.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ccc; } h3 { font-size: 1rem; margin-bottom: .2rem; }
.outcome { color: #fff; padding: .1rem .6rem; border-radius: .3rem; }
.pass { background: #00664f; } .fail, .error { background: #a13a00; } .undecided, .note { background: #555; } .warning { background: #7a5200; }
table { border-collapse: collapse; margin: .6rem 0; } caption { text-align: left; color: #444; padding-bottom: .2rem; }
th, td { border: 1px solid #ccc; padding: .2rem .6rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
td.relevant { background: #e2f2ea; font-weight: 600; }
figure { margin: 1rem 0; } img { max-width: 100%; } p.small { color: #444; font-size: .9rem; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } table, figure, section { break-inside: avoid; }
h2, h3 { break-after: avoid; } .outcome, td.relevant { print-color-adjust: exact; } }
"""


def document(title: str, body: Sequence[Html]) -> str:
    """The whole page."""
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<meta name="viewport" content="width=device-width">'),
        tag("title", title),
        Html(f"<style>{_STYLE}</style>"),
    ]
    whole = tag("html", tag("head", *head), tag("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def section(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> list[Html]:
    """A heading and a table whose first `texts` columns are words; nothing without rows."""
    if not rows:
        return []

    def line(kind: str, cells: Sequence[str]) -> Html:
        return tag("tr", *(tag(kind, words(each), class_="" if at < texts else "number") for at, each in enumerate(cells)))

    body = tag("tbody", *(line("td", row) for row in rows))
    return [tag("section", tag("h2", title), tag("table", tag("thead", line("th", header)), body))]


def words(text: str) -> Html:
    """A text from the application, which may run from right to left and change nothing around it by that."""
    plain = "".join("\ufffd" if unicodedata.category(each) in ("Cc", "Cs") and each not in "\n\t" else each for each in text)
    return Html(f"<bdi>{html.escape(plain)}</bdi>")


def tag(name: str, *children: str, class_: str = "", lang: str = "") -> Html:
    attributes = "".join(f' {key}="{html.escape(value)}"' for key, value in (("class", class_), ("lang", lang)) if value)
    content = "".join(each if isinstance(each, Html) else html.escape(each) for each in children)
    return Html(f"<{name}{attributes}>{content}</{name}>")
