"""Files that are mostly digits, punctuation or white space: tables, dumps, drawings."""

import re
import string

from data_prep.document import Document
from data_prep.filters.settings import RuleSettings

LETTERS = string.ascii_letters.encode()
ASCII_RUN = re.compile(r"[\x00-\x7f]+")


def alpha(document: Document, settings: RuleSettings) -> str | None:
    """`few_letters` when a smaller share than min_alphabetic of the characters is letters."""
    num_letters = document.size - len(document.data.translate(None, delete=LETTERS))
    if not document.content.isascii():
        num_letters += sum(map(str.isalpha, ASCII_RUN.sub("", document.content)))
    return "few_letters" if num_letters < settings.min_alphabetic * len(document.content) else None
