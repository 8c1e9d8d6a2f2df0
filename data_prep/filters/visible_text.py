"""HTML that shows hardly anything: templates' output, inlined scripts, tables of markup."""

import re

from data_prep.document import Document

MIN_VISIBLE = 100  # characters
MIN_VISIBLE_SHARE = 0.2  # of the file's characters
# What is not closed reaches to the end, so that no text is searched twice
UNSEEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)|<[!/?a-z][^>]*(?:>|\Z)",
    re.DOTALL | re.IGNORECASE,
)


def visible_text(
    document: Document,
    min_visible: int = MIN_VISIBLE,
    min_visible_share: float = MIN_VISIBLE_SHARE,
) -> str | None:
    """`little_visible_text` for HTML with less characters, or a smaller share, outside of tags.

    Runs of white space count as one character.
    """
    if document.language != "html":
        return None
    seen = len(" ".join(UNSEEN.sub(" ", document.content).split()))
    is_little = seen < min_visible or seen < min_visible_share * len(document.content)
    return "little_visible_text" if is_little else None
