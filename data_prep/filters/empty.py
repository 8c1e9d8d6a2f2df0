"""Files that say nothing: only white space, or a byte order mark and white space."""

from data_prep.document import Document


def empty(document: Document) -> str | None:
    """`empty` when no character but white space is left."""
    return None if document.content.removeprefix("\ufeff").strip() else "empty"
