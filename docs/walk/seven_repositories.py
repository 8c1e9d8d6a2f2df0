"""Seven small repositories in five formats, made of code that requirements.txt has installed.

    python docs/walk/seven_repositories.py FOLDER

FOLDER/git/click, httpx, aio    git work trees: Python, Python, C++
FOLDER/folders/f2py, web        plain folders: Fortran and Python, JavaScript
FOLDER/jinja.parquet            a table of files: Python
FOLDER/csrc.jsonl               lines of files: C++ and CUDA
FOLDER/hub/pyarrow/train.jsonl  a data set as the Hugging Face hub has them: Cython
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

SUFFIXES = {".py", ".c", ".h", ".cpp", ".cu", ".cuh", ".f", ".f90", ".js", ".css", ".html", ".pyx"}
SUFFIXES |= {".pxi", ".pxd", ".md"}
IDENTITY = ("-c", "user.name=walk", "-c", "user.email=walk@example.org")


def main() -> None:
    target = Path(sys.argv[1])
    for name, place in (
        ("click", package("click")),
        ("httpx", package("httpx")),
        ("aio", package("deepspeed") / "ops/csrc/aio"),
    ):
        copy(place, target / "git" / name)
        for words in (["init", "-q"], ["add", "-A"], [*IDENTITY, "commit", "-qm", "as installed"]):
            subprocess.run(["git", "-C", target / "git" / name, *words], check=True)
    copy(package("numpy") / "f2py", target / "folders/f2py")
    copy(package("matplotlib") / "backends/web_backend", target / "folders/web")
    write_parquet(target / "jinja.parquet", rows(package("jinja2"), "pallets/jinja"))
    write_lines(target / "csrc.jsonl", rows(package("deepspeed") / "ops/csrc/transformer", "csrc"))
    cython = rows(package("pyarrow"), "pyarrow", ".pyx .pxi")
    write_lines(target / "hub/pyarrow/train.jsonl", cython)


def package(name: str) -> Path:
    """The folder of an installed package."""
    return Path(importlib.util.find_spec(name).origin).parent


def source_files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.suffix in SUFFIXES)


def copy(place: Path, target: Path) -> None:
    for path in source_files(place):
        there = target / path.relative_to(place)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, there)


def rows(place: Path, repo: str, suffixes: str = "") -> list[dict[str, str]]:
    """Files as rows of a data set."""
    return [
        {
            "repo": repo,
            "path": path.relative_to(place).as_posix(),
            "content": path.read_text(encoding="utf-8"),
        }
        for path in source_files(place)
        if not suffixes or path.suffix in suffixes.split()
    ]


def write_parquet(path: Path, files: list[dict[str, str]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(files), path)


def write_lines(path: Path, files: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in files), encoding="utf-8")


if __name__ == "__main__":
    main()
