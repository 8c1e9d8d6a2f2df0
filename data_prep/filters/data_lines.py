"""Data files that go on and on: tables, word lists, recorded answers."""

from data_prep.document import Document
from data_prep.filters.settings import RuleSettings

DATA = {"json", "text", "yaml"}  # StarCoder2's list, as far as our languages have it


def data_lines(document: Document, settings: RuleSettings) -> str | None:
    """`long_data` for more than max_data_lines of JSON, YAML or text."""
    is_long = document.language in DATA and len(document.lines) > settings.max_data_lines
    return "long_data" if is_long else None
