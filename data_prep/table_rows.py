"""Rows of a table as source files: which column is the content, the repository, the path.

The columns of The Stack, StarCoderData, our own corpora and the like are known; others are named by
the option `columns`, which maps our names to the table's: {"content": "text"}.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from data_prep import licenses
from data_prep.document import RawFile
from data_prep.languages import EXTENSIONS
from hugcoder.refusal import Refusal

KNOWN_COLUMNS: dict[str, tuple[str, ...]] = {
    "content": ("content", "text", "code"),
    "repo": ("repo", "repo_name", "max_stars_repo_name", "repository_name", "repository"),
    "path": ("path", "max_stars_repo_path", "file_path", "file_name", "filename"),
    "language": ("language", "lang", "programming_language"),
    "license": ("license", "licenses", "max_stars_repo_licenses", "detected_licenses"),
    "commit": ("commit", "commit_id", "revision_id", "max_stars_repo_head_hexsha"),
}


@dataclass(frozen=True)
class RowReader:
    """Turns rows (dictionaries) into files.

    columns: our name -> the table's; repo, language: what is used when the table has no such
    column.
    """

    columns: dict[str, str]
    repo: str = ""
    language: str = ""

    def raw_file(self, row: dict[str, Any], position: str) -> RawFile:
        """The file a row holds; `position` names it where the table has no path."""
        data, reason = _data(row.get(self.columns["content"]))
        repo = self.repo or self._text(row, "repo")
        return RawFile(
            repo=repo,
            path=self._text(row, "path") or position,
            size=len(data),
            load=lambda: data,
            license=self._text(row, "license") or licenses.UNKNOWN,
            commit=self._text(row, "commit"),
            language=self.language.lower() or self._language(row),
            reason=reason or ("" if repo else "no_repository"),
        )

    def _text(self, row: dict[str, Any], name: str) -> str:
        value = row.get(self.columns.get(name, ""))
        if isinstance(value, list):
            return ", ".join(map(_as_text, value))
        return "" if value is None else _as_text(value)

    def _language(self, row: dict[str, Any]) -> str:
        """The row's language where it is one of ours; else "", and the path tells it."""
        name = self._text(row, "language").strip().lower()
        return name if name in EXTENSIONS else ""


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):  # bytes that are no UTF-8 are found later, as in a file's name
        return value.decode("utf-8", "surrogateescape")
    return str(value)


def _data(value: Any) -> tuple[bytes, str]:
    """The bytes of a content and the reason why it is none."""
    if isinstance(value, bytes):
        return value, ""
    if isinstance(value, str):  # JSON may hold half a surrogate pair; the UTF-8 filter finds it
        return value.encode("utf-8", "surrogatepass"), ""
    return b"", "no_content"


def row_reader(available: Iterable[str], options: dict[str, Any], place: str) -> RowReader:
    """Find the columns of a table.

    Args: available: the table's columns; place: what the table is called in a refusal.
    Raises: Refusal when nothing holds the content, or nothing tells the repository or language.
    """
    available = list(available)
    given = options.get("columns", {})
    for ours, theirs in given.items():
        if theirs not in available:
            close = difflib.get_close_matches(theirs, available, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise Refusal(
                f"sources: columns takes {ours} from {theirs!r}, and {place} has the columns "
                f"{', '.join(map(repr, available))}.{hint}"
            )
    columns = {
        ours: next(name for name in names if name in available)
        for ours, names in KNOWN_COLUMNS.items()
        if any(name in available for name in names)
    }
    reader = RowReader(columns | given, options.get("repo", ""), options.get("language", ""))
    _check(reader, available, place)
    return reader


def _check(reader: RowReader, available: list[str], place: str) -> None:
    there = f"{place} has the columns {', '.join(map(repr, available))}"
    if "content" not in reader.columns:
        raise Refusal(
            f"sources: {there}, and none is known to hold a file; add "
            '"columns": {"content": ...}.'
        )
    if not reader.repo and "repo" not in reader.columns:
        raise Refusal(
            f"sources: {there}, and none is known to name the repository, by which the corpus is "
            'split; add "columns": {"repo": ...}, or "repo": "name" when all rows are of one.'
        )
    if not reader.language and not {"path", "language"} & set(reader.columns):
        raise Refusal(
            f"sources: {there}, and none is known to hold a path or language; add "
            '"columns": {"path": ...} or "language": "python".'
        )


def as_items(reader: RowReader) -> dict[str, Any]:
    """The reader as plain data for a chunk; RowReader(**items) is its inverse."""
    return dict(vars(reader))
