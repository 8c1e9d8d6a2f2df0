"""Files that no person wrote line by line: data, minified code, logs."""

from data_prep.document import Document

MAX_LINES = 100_000
MAX_MEAN_LINE = 100  # characters
MAX_LINE = 1_000  # characters
MAX_PROSE_LINE = 100_000  # characters; prose and markup may hold a paragraph in one line
# StarCoder2's list, and reStructuredText for the reason Markdown is on it
PROSE = {"html", "json", "markdown", "restructuredtext", "roff", "tex", "text", "xml"}


def line_length(document: Document) -> str | None:
    """`too_many_lines`, `long_line` or `long_lines_on_average`; lengths in characters."""
    lengths = [len(line) for line in document.lines]
    longest = max(lengths)
    if len(lengths) > MAX_LINES:
        return "too_many_lines"
    if longest > (MAX_PROSE_LINE if document.language in PROSE else MAX_LINE):
        return "long_line"
    if document.language not in PROSE and sum(lengths) > MAX_MEAN_LINE * len(lengths):
        return "long_lines_on_average"
    return None
