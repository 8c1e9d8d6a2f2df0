"""Files that no person wrote line by line: data, minified code, logs."""

from data_prep.document import Document

MAX_LINES = 100_000
MAX_MEAN_LINE = 100  # characters
MAX_LINE = 1_000  # characters
MAX_PROSE_LINE = 100_000  # characters; prose and markup may hold a paragraph in one line
# StarCoder2's list, and reStructuredText for the reason Markdown is on it
PROSE = {"html", "json", "markdown", "restructuredtext", "roff", "tex", "text", "xml"}


def line_length(
    document: Document,
    max_lines: int = MAX_LINES,
    max_line: int = MAX_LINE,
    max_mean_line: float = MAX_MEAN_LINE,
    max_prose_line: int = MAX_PROSE_LINE,
) -> str | None:
    """`too_many_lines`, `long_line` or `long_lines_on_average`; lengths in characters."""
    lengths = [len(line) for line in document.lines]
    longest = max(lengths)
    if len(lengths) > max_lines:
        return "too_many_lines"
    if longest > (max_prose_line if document.language in PROSE else max_line):
        return "long_line"
    if document.language not in PROSE and sum(lengths) > max_mean_line * len(lengths):
        return "long_lines_on_average"
    return None
