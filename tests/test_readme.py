"""Every command that the README and the docs show exists and parses, and every link leads to what
it says.
"""

import ast
import re
import shlex
from pathlib import Path

import pytest

from hugcoder.recipe import parse

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


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
    from data_prep.verify import VerifyArguments
    from evaluation.heldout_arguments import HeldoutArguments
    from evaluation.report import ReportArguments
    from export import ExportArguments
    from generate import GenerateArguments
    from hugcoder.pretraining.arguments import DataArguments, ModelArguments, PretrainArguments
    from tokenizer.arguments import MeasureArguments, TokenizerArguments

    programs = {
        "python -m data_prep tokenize": ([TokenizeArguments], ""),
        "python -m data_prep verify": ([VerifyArguments], "folder"),
        "python -m data_prep": ([CorpusArguments], ""),
        "python -m tokenizer measure": ([MeasureArguments], "tokenizer"),
        "python -m tokenizer": ([TokenizerArguments], ""),
        "python -m evaluation report": ([ReportArguments], "run"),
        "python -m evaluation": ([HeldoutArguments], "model"),
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


def test_the_readme_infills_in_the_order_of_the_quickstart():
    quickstart = (ROOT / "scripts" / "quickstart.sh").read_text().replace("\\\n", " ").splitlines()
    for commands in (commands_of(ROOT / "README.md"), quickstart):
        infilling = [
            line for line in commands if re.search(r"--infill|-m evaluation.*/model", line)
        ]
        assert [re.findall(r"--mode \w+", line) for line in infilling] == [["--mode spm"]] * 2


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
    if words[:3] == ["python", "-m", "pytest"]:
        assert [word for word in words[3:] if not (ROOT / word).exists()] == []
        return
    groups, rest, positional = groups_and_words(words)
    parse(groups, rest, description="", positional=positional)


CORPUS_PAGE = (ROOT / "docs" / "corpus.md").read_text(encoding="utf-8")


def test_the_sources_that_the_docs_and_the_starting_point_show_are_sources(tmp_path):
    """Each line of YAML, and each that stands behind a comment sign, as an edit would leave it."""
    from data_prep.arguments import CorpusArguments
    from data_prep.sources import OPTIONS, parse_sources

    (shown,) = re.findall(r"```yaml\n(.*?)```", CORPUS_PAGE, re.DOTALL)
    start = (ROOT / "configs/corpora/my_repositories.yaml").read_text(encoding="utf-8")
    edited = re.sub(r"^( *)# (?=- \{|\w+: [\[\w]+[^ ]*(?:, \w+\]?)*$)", r"\1", start, flags=re.M)
    assert edited.count("\n# ") < start.count("\n# ")
    for text in (shown, start, edited):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(text)
        parsed = parse([CorpusArguments], [str(recipe), "--output_dir", "x"], description="")
        sources = parse_sources(parsed.sources)
        assert text != shown or {source.type for source in sources} == set(OPTIONS)
    assert parsed.held_out == ["trio", "zod"]
    assert parsed.held_out_by == "folder"


def test_the_page_of_the_corpus_names_every_option_role_and_reason():
    from data_prep import filters
    from data_prep.sources import OPTIONS
    from data_prep.table_rows import KNOWN_COLUMNS

    words = {option for options in OPTIONS.values() for option in options if option}
    words |= {*KNOWN_COLUMNS, *(name for names in KNOWN_COLUMNS.values() for name in names)}
    for file in Path(filters.__file__).parent.glob("*.py"):
        words |= set(re.findall(r'(?:return|else|reason =) "(\w+)"', file.read_text()))
        words |= set(re.findall(r'return "(\w+)" if', file.read_text()))
    collect = (ROOT / "data_prep" / "collect.py").read_text()
    words |= set(re.findall(r'return "(\w+)"', collect))
    assert len(words) > 40
    assert sorted(word for word in words if f"`{word}`" not in CORPUS_PAGE) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_links_only_to_files_that_exist(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def names_in(path: Path) -> set[str]:
    """Functions, classes, their methods and constants of a file, as `name` and `Class.name`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [child for child in node.body if isinstance(child, ast.FunctionDef)]
            found |= {f"{node.name}.{child.name}" for child in inner}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_name_that_is_a_link_is_defined_in_the_file_it_leads_to(page):
    """As in [`rotate`](../hugcoder/run/checkpoint.py); line numbers would lead elsewhere soon."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"\]\([^)]*#L\d+", text) == []
    links = re.findall(r"\[`([\w.]+)`\]\(([^)#]+\.py)\)", text)
    assert [link for link in links if link[0] not in names_in(page.parent / link[1])] == []


def test_every_test_that_the_table_of_guarantees_names_is_there():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"\| (\w+) \|$", page.partition("| tests/test_... |")[2], re.MULTILINE)
    assert len(names) > 10
    assert [name for name in names if not (ROOT / f"tests/test_{name}.py").is_file()] == []


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
