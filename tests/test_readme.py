"""Every command that the README and the docs show exists and parses."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from hugcoder.recipe import parse

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands_of(page: Path) -> list[str]:
    """Lines of bash blocks, with continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and line[0] != "#"]


COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})


def groups_and_words(words: list[str]) -> tuple[list[type], list[str], str]:
    """The argument groups of a command's program, its own words, its positional field."""
    from data_prep.arguments import CorpusArguments
    from data_prep.tokenize_corpus import TokenizeArguments
    from evaluation.arguments import EvaluationArguments
    from evaluation.report import ReportArguments
    from export import ExportArguments
    from generate import GenerateArguments
    from hugcoder.arguments import DataArguments, ModelArguments, PretrainArguments
    from tokenizer.arguments import MeasureArguments, TokenizerArguments

    programs = {
        "python -m data_prep tokenize": ([TokenizeArguments], ""),
        "python -m data_prep": ([CorpusArguments], ""),
        "python -m tokenizer measure": ([MeasureArguments], "tokenizer"),
        "python -m tokenizer": ([TokenizerArguments], ""),
        "python -m evaluation report": ([ReportArguments], "run"),
        "python -m evaluation": ([EvaluationArguments], "model"),
        "python generate.py": ([GenerateArguments], "model"),
        "python export.py": ([ExportArguments], "checkpoint"),
    }
    if "train.py" in words:
        at = words.index("train.py")
        return [ModelArguments, DataArguments, PretrainArguments], words[at + 1 :], ""
    for program, (groups, positional) in programs.items():
        size = len(program.split())
        if words[:size] == program.split():
            return groups, words[size:], positional
    raise AssertionError(f"no program is known for: {' '.join(words)}")


def test_the_readme_shows_the_two_commands_first():
    assert commands_of(ROOT / "README.md")[:2] == [
        "bash scripts/quickstart.sh",
        "bash scripts/test.sh",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_shown_command_parses(command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if words[0] == "bash" or words[0].startswith("scripts/"):
        script = next(word for word in words if word.startswith("scripts/"))
        assert (ROOT / script).is_file()
        return
    if words[0] == "python" and words[1].startswith("benchmarks/"):
        assert (ROOT / words[1]).is_file()
        return
    groups, rest, positional = groups_and_words(words)
    parse(groups, rest, description="", positional=positional)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_links_only_to_files_that_exist(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def docstrings_of(path: Path) -> list[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]


def test_every_result_that_is_named_is_there():
    """Pages that docstrings and the docs name without a link, as benchmarks/loader_cpu.md."""
    folders = ("hugcoder", "fim", "data_prep", "tokenizer", "evaluation", "tests", "benchmarks")
    sources = [*ROOT.glob("*.py"), *(p for name in folders for p in (ROOT / name).rglob("*.py"))]
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    texts |= {path: "\n".join(docstrings_of(path)) for path in sources}
    named = {
        (str(path.relative_to(ROOT)), result)
        for path, text in texts.items()
        for result in re.findall(r"benchmarks/\w+\.md", text)
    }
    assert len(named) > 3
    assert [pair for pair in sorted(named) if not (ROOT / pair[1]).is_file()] == []
