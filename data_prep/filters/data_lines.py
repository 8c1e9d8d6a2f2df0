"""Data files that go on and on: tables, word lists, recorded answers."""

from data_prep.document import Document

MAX_DATA_LINES = 512
DATA = {"json", "text", "yaml"}  # StarCoder2's list, as far as our languages have it


def data_lines(document: Document, max_data_lines: int = MAX_DATA_LINES) -> str | None:
    """`long_data` for JSON, YAML or text of more lines."""
    is_long = document.language in DATA and len(document.lines) > max_data_lines
    return "long_data" if is_long else None
