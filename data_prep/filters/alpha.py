"""Files that are mostly digits, punctuation or white space: tables, dumps, drawings."""

import re
import string

from data_prep.document import Document

MIN_ALPHABETIC = 0.25  # of the file's characters
LETTERS = string.ascii_letters.encode()
ASCII_RUN = re.compile(r"[\x00-\x7f]+")


def alpha(document: Document, min_alphabetic: float = MIN_ALPHABETIC) -> str | None:
    """`few_letters` when less than that share of the characters is alphabetic."""
    num_letters = document.size - len(document.data.translate(None, delete=LETTERS))
    if not document.content.isascii():
        num_letters += sum(map(str.isalpha, ASCII_RUN.sub("", document.content)))
    return "few_letters" if num_letters < min_alphabetic * len(document.content) else None
