"""Files that their name gives away as data or as made by a program.

Lock files and minified files are what StarCoder2 dropped as generated (go-enry's is_generated, of
linguist's names); the names that a text file must have are StarCoder2's. For drawings (svg) its
paper has no rule: leaving them out is ours, as snapshots of tests can outweigh the code.
"""

# those that end in .lock or .sum are in no language and dropped as such
LOCK_FILES = {"package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml"}
MINIFIED = (".min.js", ".min.mjs", ".min.cjs", ".min.css")
TEXT_NAMES = {"readme", "notes", "todo", "description", "cmakelists"}  # without the extension


def by_name(path: str, language: str, languages: tuple[str, ...]) -> str | None:
    """`lock_file`, `minified`, or `drawing` and `other_text` where `languages` names neither."""
    name = path.rsplit("/", 1)[-1].lower()
    if name in LOCK_FILES:
        return "lock_file"
    if name.endswith(MINIFIED):
        return "minified"
    if language in languages:
        return None
    if language == "svg":
        return "drawing"
    if language == "text" and "requirement" not in name and name.split(".")[0] not in TEXT_NAMES:
        return "other_text"
    return None
