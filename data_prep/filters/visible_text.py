"""HTML that shows hardly anything: templates' output, inlined scripts, tables of markup."""

import re

from data_prep.document import Document
from data_prep.filters.settings import RuleSettings

# What is not closed reaches to the end, so that no text is searched twice
UNSEEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)|<[!/?a-z][^>]*(?:>|\Z)",
    re.DOTALL | re.IGNORECASE,
)


def visible_text(document: Document, settings: RuleSettings) -> str | None:
    """`little_visible_text` for HTML with too few characters or too small a share outside of tags.

    Runs of white space count as one character.
    """
    if document.language != "html":
        return None
    seen = len(" ".join(UNSEEN.sub(" ", document.content).split()))
    least = max(settings.min_visible, settings.min_visible_share * len(document.content))
    return "little_visible_text" if seen < least else None
