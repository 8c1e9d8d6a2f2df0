"""The words of an HTML page: escaped elements, tables, and numbers with their units.

A plain str is always escaped; only what these functions made is markup. The page they make needs no
network and no script, and its policy forbids both. Holds nothing about runs.
"""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("report.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
NO_VALUE = "\N{EN DASH}"
# Source code may hold characters that a page cannot show, or that reorder the text around them.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


class Html(str):
    """Markup that is already safe to put on the page."""


def safe(value: Any) -> Html:
    """A value as markup: plain text is escaped, and what cannot be seen is written as \\uXXXX."""
    if isinstance(value, Html):
        return value
    shown = str(value).replace("\r\n", "\n")
    for unseen in (_UNSEEN, _SURROGATES):
        shown = unseen.sub(lambda match: f"\\u{ord(match.group()):04x}", shown)
    return Html(html.escape(shown))


def tag(name: str, *children: Any, **attributes: str) -> Html:
    """An element; `class_` stands for class. Children that are no markup are escaped."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{safe(value)}"'
        for key, value in attributes.items()
        if value
    )
    return Html(f"<{name}{words}>{join(children)}</{name}>")


def join(children: Iterable[Any], between: str = "") -> Html:
    """Children one after the other, with safe text between them."""
    return Html(safe(between).join(safe(child) for child in children))


def section(title: str, *children: Any) -> Html:
    return tag("section", tag("h2", title), *children)


def note(*children: Any) -> Html:
    """A caption: what to look for."""
    return tag("p", *children, class_="note")


def warning(*children: Any) -> Html:
    """A line that says what is wrong with the numbers around it."""
    return tag("p", *children, class_="warning")


def missing(what: str, command: str) -> Html:
    """The line that stands where a part would be."""
    return tag("p", f"Not here: {what}. ", tag("code", command), " makes it.", class_="missing")


def figure(drawing: Html, *caption: Any, title: str = "", class_: str = "") -> Html:
    return tag(
        "figure",
        tag("h3", title) if title else "",
        tag("div", drawing, class_="scroll"),
        tag("figcaption", *caption),
        class_=class_,
    )


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]], *, words: int = 1) -> Html:
    """A table whose first `words` columns hold words; numbers stand to the right."""
    classes = ["" if place < words else "number" for place in range(len(head))]
    top = join(tag("th", cell, class_=name) for cell, name in zip(head, classes, strict=True))
    body = join(
        tag("tr", *(tag("td", c, class_=n) for c, n in zip(row, classes, strict=True)))
        for row in rows
    )
    made = tag("table", tag("thead", tag("tr", top)), tag("tbody", body))
    return tag("div", made, class_="scroll")


def bar(share: float) -> Html:
    """A horizontal bar for a table cell, as long as its share of the whole (0 to 1)."""
    inner = tag("span", style=f"width:{100 * min(max(share, 0), 1):.2f}%")
    return tag("span", inner, class_="bar", aria_hidden="true")


def fold(title: str, *children: Any) -> Html:
    """A part that opens on a click."""
    return tag("details", tag("summary", title), *children)


def document(title: str, *children: Any) -> str:
    """The whole page."""
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", title),
            tag("style", Html(STYLE.read_text(encoding="utf-8"))),
        ]
    )
    body = tag("body", tag("main", *children))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>{body}</html>\n'


# ---- numbers -----------------------------------------------------------------------------------


def count(number: float) -> str:
    return f"{number:,.0f}"


def short(number: float, unit: str = "") -> str:
    """Three digits and a letter: 3.15M, or 50.9 MB with the unit B."""
    letters = ("k", "M", "G" if unit else "B", "T")
    power = min(max((len(str(int(number))) - 1) // 3, 0), len(letters))
    scaled = number / 1000**power
    letter = letters[power - 1] if power else ""
    digits = 0 if not power else max(3 - len(str(int(scaled))), 0)
    return f"{scaled:.{digits}f}" + (f" {letter}{unit}" if unit else letter)


def percent(share: float, digits: int = 1) -> str:
    """A share of 1 in per cent."""
    least = 10.0**-digits
    if 0 < 100 * share < least / 2:
        return f"<{least:.{digits}f} %"
    return f"{100 * share:.{digits}f} %"


def duration(seconds: float) -> str:
    """Two units at most: 48 s, 12 min 30 s, 3 h 05 min, 2 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def interval(estimate: dict[str, Any], factor: float = 1.0, digits: int = 3) -> str:
    """The 95 % interval of an estimate; empty when there is none."""
    if estimate["low"] is None:
        return ""
    low, high = (f"{estimate[key] * factor:.{digits}f}" for key in ("low", "high"))
    return f"{low} to {high}"


def score(estimate: dict[str, Any] | None, factor: float = 1.0, digits: int = 3) -> Html:
    """An estimate with its 95 % interval under it; a dash when it was not measured."""
    if estimate is None or estimate["value"] is None:
        return safe(NO_VALUE)
    value = f"{estimate['value'] * factor:.{digits}f}"
    return join([value, tag("span", interval(estimate, factor, digits), class_="interval")])
