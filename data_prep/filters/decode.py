"""Files that are no UTF-8 text. A byte order mark stays: the corpus holds the bytes of the file."""

from data_prep.document import Document


def decode(document: Document) -> str | None:
    """`binary` for a NUL byte (UTF-16 has them too), `not_utf8` for bytes that do not decode."""
    if b"\0" in document.data:
        return "binary"
    try:
        _ = document.content
    except UnicodeDecodeError:
        return "not_utf8"
    return None
