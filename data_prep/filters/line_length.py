"""Files that no person wrote line by line: data, minified code, logs."""

from data_prep.document import Document
from data_prep.filters.settings import RuleSettings

# StarCoder2's list, and reStructuredText for the reason Markdown is on it
PROSE = {"html", "json", "markdown", "restructuredtext", "roff", "tex", "text", "xml"}


def line_length(document: Document, settings: RuleSettings) -> str | None:
    """`too_many_lines`, `long_line` or `long_lines_on_average`; lengths in characters."""
    is_prose = document.language in PROSE
    lengths = [len(line) for line in document.lines]
    longest = max(lengths)
    if len(lengths) > settings.max_lines:
        return "too_many_lines"
    if longest > (settings.max_prose_line if is_prose else settings.max_line):
        return "long_line"
    if not is_prose and sum(lengths) > settings.max_mean_line * len(lengths):
        return "long_lines_on_average"
    return None
