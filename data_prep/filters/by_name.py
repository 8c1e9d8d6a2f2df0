"""Files whose name says that they are data, or made by a program.

Lock files and minified files are what StarCoder2 dropped as generated (go-enry's is_generated, of
linguist's names). For drawings (svg) its paper has no rule: leaving them out is ours, as snapshots
of tests can outweigh the code. Its rule that a `.txt` must have one of a few names is not taken:
in repositories of one's own they are documentation, and long ones go by `data_lines`.
"""

from data_prep.document import Document
from data_prep.filters.settings import RuleSettings

# those that end in .lock or .sum are in no language and dropped as such
LOCK_FILES = {"package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml"}
MINIFIED = (".min.js", ".min.mjs", ".min.cjs", ".min.css")


def by_name(document: Document, settings: RuleSettings) -> str | None:
    """`lock_file`, `minified`, or `drawing` where `languages` does not name svg."""
    name = document.path.rsplit("/", 1)[-1].lower()
    if name in LOCK_FILES:
        return "lock_file"
    if name.endswith(MINIFIED):
        return "minified"
    if document.language == "svg" and "svg" not in settings.languages:
        return "drawing"
    return None
