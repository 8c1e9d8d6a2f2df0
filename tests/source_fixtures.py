"""Files that a source finds, repositories of git and tables; used by the tests of sources."""

import json
import subprocess
from pathlib import Path

from data_prep.collect import examine
from data_prep.document import Document, RawFile
from data_prep.filters import RuleSettings
from data_prep.sources import list_chunks, parse_sources, read_chunk

RULES = RuleSettings((), 1_000_000)
CODE = "def add(left, right):\n    return left + right\n"


def raw_files(source: dict) -> list[RawFile]:
    parsed = parse_sources([json.dumps(source)])[0]
    return [raw for chunk in list_chunks(parsed) for raw in read_chunk(chunk)]


def outcomes(source: dict, rules: RuleSettings = RULES) -> dict[str, str]:
    """Path -> content of what is kept, or the reason in angle brackets."""
    parsed = parse_sources([json.dumps(source)])[0]
    found = {}
    for chunk in list_chunks(parsed):
        for raw in read_chunk(chunk):
            outcome = examine(raw, parsed.name, rules)
            is_kept = isinstance(outcome, Document)
            found[raw.path] = outcome.content if is_kept else f"<{outcome[0]}>"
    return found


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


ROWS = [
    {"content": CODE, "repo_name": "a/one", "path": "x.py", "licenses": ["MIT"], "extra": 1},
    {"content": "let a = 1;\n", "repo_name": "a/two", "path": "y.js", "licenses": ["ISC"]},
    {"content": None, "repo_name": "a/two", "path": "z.py", "licenses": []},
    {"content": CODE, "repo_name": None, "path": "q.py", "licenses": None},
]
EXPECTED = {
    "x.py": CODE,
    "y.js": "let a = 1;\n",
    "z.py": "<no_content>",
    "q.py": "<no_repository>",
}


def write_parquet(path: Path, rows: list[dict], row_group_size: int = 2) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, path, row_group_size=row_group_size)
