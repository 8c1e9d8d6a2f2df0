"""The rules of a corpus, one a file of this package: each keeps a file out or changes its text.

A rule is a function of a Document that returns the reason for dropping it, or the document with
another text (Document.with_content), or None where it stays as it is. To add one, write its file
and name it in rules_of. Thresholds are StarCoder2's (arXiv 2402.19173, section 2.1) unless the
rule says otherwise. What is decided before a file is read is in data_prep.collect.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial

from data_prep.document import Document
from data_prep.filters.alpha import MIN_ALPHABETIC, alpha
from data_prep.filters.by_name import by_name
from data_prep.filters.data_lines import MAX_DATA_LINES, data_lines
from data_prep.filters.decode import decode
from data_prep.filters.empty import empty
from data_prep.filters.encoded_data import MAX_ENCODED_RUN, MAX_ENCODED_SHARE, encoded_data
from data_prep.filters.generated import generated
from data_prep.filters.lfs_pointer import lfs_pointer
from data_prep.filters.line_length import (
    MAX_LINE,
    MAX_LINES,
    MAX_MEAN_LINE,
    MAX_PROSE_LINE,
    line_length,
)
from data_prep.filters.visible_text import MIN_VISIBLE, MIN_VISIBLE_SHARE, visible_text

Rule = Callable[[Document], Document | str | None]


@dataclass(frozen=True)
class RuleSettings:
    """The settings that decide on a file by itself; each threshold is explained where its rule is.

    No languages means all.
    """

    languages: tuple[str, ...]
    max_file_bytes: int
    max_lines: int = MAX_LINES
    max_line: int = MAX_LINE
    max_mean_line: float = MAX_MEAN_LINE
    max_prose_line: int = MAX_PROSE_LINE
    max_data_lines: int = MAX_DATA_LINES
    min_alphabetic: float = MIN_ALPHABETIC
    min_visible: int = MIN_VISIBLE
    min_visible_share: float = MIN_VISIBLE_SHARE
    max_encoded_run: int = MAX_ENCODED_RUN
    max_encoded_share: float = MAX_ENCODED_SHARE


@cache  # asked for with every file
def rules_of(settings: RuleSettings) -> tuple[Rule, ...]:
    """The rules of a run with their thresholds, in the order in which they see a file."""
    return (
        lfs_pointer,
        partial(by_name, languages=settings.languages),
        decode,  # those after it may ask for the text; cheap ones come first
        empty,
        partial(
            line_length,
            max_lines=settings.max_lines,
            max_line=settings.max_line,
            max_mean_line=settings.max_mean_line,
            max_prose_line=settings.max_prose_line,
        ),
        partial(data_lines, max_data_lines=settings.max_data_lines),
        generated,
        partial(alpha, min_alphabetic=settings.min_alphabetic),
        partial(
            visible_text,
            min_visible=settings.min_visible,
            min_visible_share=settings.min_visible_share,
        ),
        partial(
            encoded_data,
            max_run=settings.max_encoded_run,
            max_share=settings.max_encoded_share,
        ),
    )


def apply_rules(document: Document, rules: Iterable[Rule]) -> Document | str:
    """The document as the rules leave it, or the reason of the first that drops it."""
    for rule in rules:
        outcome = rule(document)
        if isinstance(outcome, str):
            return outcome
        document = outcome or document
    return document
