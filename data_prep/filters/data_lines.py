"""Data files that go on and on: tables, word lists, recorded answers."""

from data_prep.document import Document

MAX_DATA_LINES = 512
DATA = {"json", "text", "yaml"}  # StarCoder2's list, as far as our languages have it


def data_lines(document: Document) -> str | None:
    """`long_data` for more than 512 lines of JSON, YAML or text."""
    is_long = document.language in DATA and len(document.lines) > MAX_DATA_LINES
    return "long_data" if is_long else None
