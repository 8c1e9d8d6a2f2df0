"""HTML that shows hardly anything: templates' output, inlined scripts, tables of markup."""

import re

from data_prep.document import Document

MIN_CHARACTERS = 100
MIN_SHARE = 0.2  # of the file's characters
# What is not closed goes on to the end, so that no text is gone through twice
UNSEEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)|<[!/?a-z][^>]*(?:>|\Z)",
    re.DOTALL | re.IGNORECASE,
)


def visible_text(document: Document) -> str | None:
    """`little_visible_text` for HTML with less than 100 characters, or 20 %, outside of tags.

    Runs of white space count as one character.
    """
    if document.language != "html":
        return None
    seen = len(" ".join(UNSEEN.sub(" ", document.content).split()))
    is_little = seen < MIN_CHARACTERS or seen < MIN_SHARE * len(document.content)
    return "little_visible_text" if is_little else None
