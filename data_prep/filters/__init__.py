"""The rules of a corpus, one a file of this package: each keeps a file out or changes its text.

A rule is a function of a Document that returns the reason for dropping it, or the document with
another text (Document.with_content), or None where it stays as it is. To add one, write its file
and name it in rules_of. What is decided before a file is read is in data_prep.collect.
"""

from collections.abc import Callable, Iterable
from functools import cache, partial

from data_prep.document import Document
from data_prep.filters.alpha import alpha
from data_prep.filters.by_name import by_name
from data_prep.filters.data_lines import data_lines
from data_prep.filters.decode import decode
from data_prep.filters.empty import empty
from data_prep.filters.encoded_data import encoded_data
from data_prep.filters.generated import generated
from data_prep.filters.lfs_pointer import lfs_pointer
from data_prep.filters.line_length import line_length
from data_prep.filters.settings import RuleSettings
from data_prep.filters.visible_text import visible_text

Rule = Callable[[Document], Document | str | None]


@cache  # asked for with every file
def rules_of(settings: RuleSettings) -> tuple[Rule, ...]:
    """The rules of a run with their thresholds, in the order in which they see a file."""
    return (
        lfs_pointer,
        partial(by_name, settings=settings),
        decode,  # those after it may ask for the text; cheap ones come first
        empty,
        partial(line_length, settings=settings),
        partial(data_lines, settings=settings),
        generated,
        partial(alpha, settings=settings),
        partial(visible_text, settings=settings),
        partial(encoded_data, settings=settings),
    )


def apply_rules(document: Document, rules: Iterable[Rule]) -> Document | str:
    """The document as the rules leave it, or the reason of the first that drops it."""
    for rule in rules:
        outcome = rule(document)
        if isinstance(outcome, str):
            return outcome
        document = outcome or document
    return document
