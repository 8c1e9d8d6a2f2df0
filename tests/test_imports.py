"""The arrows of the design: who may import whom, decided from the syntax trees of all files.

    scripts -> entry points and packages -> hugcoder -> fim -> third party

Also that light modules load no torch, and that no name shadows a package.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"data_prep", "tokenizer", "evaluation"}
ENTRY_POINTS = {path.stem for path in ROOT.glob("*.py")} - {"fim"}
OURS = ENTRY_POINTS | PACKAGES | {"hugcoder", "fim"}
PUBLISHED_NAMES = {"datasets", "tokenizers", "evaluate", "code", "profile", "types", "peft", "trl"}


def allowed_imports(owner: str) -> set[str]:
    """Our own names that files of `owner` may import."""
    if owner == "fim":
        return set()
    if owner == "hugcoder":
        return {"hugcoder", "fim"}
    return {owner, "hugcoder", "fim"} if owner in PACKAGES else {"hugcoder", "fim"}


def source_files() -> list[tuple[str, Path]]:
    """(owner, file) of everything that is shipped."""
    folders = sorted({"hugcoder"} | {name for name in PACKAGES if (ROOT / name).is_dir()})
    files = [(path.stem, path) for path in sorted(ROOT.glob("*.py"))]
    return files + [
        (name, path) for name in folders for path in sorted((ROOT / name).rglob("*.py"))
    ]


def imports_of(tree: ast.AST, package: str = "") -> set[tuple[str, int]]:
    """(top-level module, line) of every import, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name.split(".")[0], node.lineno) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = package if node.level else node.module
            found.add((module.split(".")[0], node.lineno))
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_follow_the_arrows():
    wrong = [
        f"{relative(path)}:{line} imports {module}"
        for owner, path in source_files()
        for module, line in sorted(imports_of(parse(path), owner))
        if module in OURS - allowed_imports(owner)
    ]
    assert not wrong


# floors of hugcoder/: a room imports rooms of lower floors and itself, "" is the ground
FLOORS = {
    "": 0,
    "engines": 1,
    "data": 1,
    "model": 2,
    "generation": 3,
    "run": 3,
    "pretraining": 4,
}
HOUSE = ROOT / "hugcoder"


def modules_of(tree: ast.AST) -> set[str]:
    """Full names of what is imported from hugcoder, for types too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if file_of(name) else node.module for name in full}
    return {name for name in found if name.partition(".")[0] == "hugcoder"}


def room_of(path: Path) -> str:
    parts = path.relative_to(HOUSE).parts
    return parts[0] if len(parts) > 1 else ""


def file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


HOUSE_IMPORTS = {
    path: sorted({file for name in modules_of(parse(path)) if (file := file_of(name))} - {path})
    for path in sorted(HOUSE.rglob("*.py"))
}


def test_every_room_stands_on_a_floor():
    assert {room_of(path) for path in HOUSE_IMPORTS} == set(FLOORS)


def test_rooms_import_only_what_stands_below_them():
    wrong = [
        f"{relative(path)} imports {relative(imported)}"
        for path, files in HOUSE_IMPORTS.items()
        for imported in files
        if (there := room_of(imported)) != (here := room_of(path)) and FLOORS[there] >= FLOORS[here]
    ]
    assert not wrong


def test_no_file_of_the_house_imports_itself_by_way_of_others():
    done: set[Path] = set()

    def follow(path: Path, way: list[Path]) -> None:
        assert path not in way, " -> ".join(relative(one) for one in [*way, path])
        if path not in done:
            for imported in HOUSE_IMPORTS[path]:
                follow(imported, [*way, path])
            done.add(path)

    for path in HOUSE_IMPORTS:
        follow(path, [])


def test_the_arrows_are_noticed_inside_functions_too():
    tree = ast.parse("def f():\n    from train import main\n    import evaluation.spans as s\n")
    assert imports_of(tree) == {("train", 2), ("evaluation", 3)}


@pytest.mark.parametrize("owner", ["fim", *sorted(name for name in PACKAGES - {"evaluation"})])
def test_light_packages_never_import_torch_or_training_arguments(owner):
    for file_owner, path in source_files():
        if file_owner != owner:
            continue
        tree = parse(path)
        assert "torch" not in {module for module, _ in imports_of(tree)}, relative(path)
        names = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert not names & {"TrainingArguments", "Trainer"}, relative(path)


@pytest.mark.parametrize(
    "module",
    [
        "fim",
        "data_prep",
        "data_prep.__main__",
        "data_prep.pipeline",
        "data_prep.tokenize_corpus",
        "tokenizer",
        "tokenizer.__main__",
        "hugcoder.recipe",
        "hugcoder.data.codec",
        "hugcoder.data.corpus",
        "hugcoder.data.packing",
        "hugcoder.data.token_store",
        "hugcoder.data.special_tokens",
        "hugcoder.run.checkpoint",
        "hugcoder.engines.collectives",
        "hugcoder.refusal",
    ],
)
def test_light_modules_load_nothing_heavy(module, loaded_modules):
    heavy = {"torch", "transformers.training_args", "pyarrow", "datasets", "matplotlib", "wandb"}
    assert not heavy & loaded_modules[module]


@pytest.fixture(scope="module")
def loaded_modules(request) -> dict[str, set[str]]:
    """Each light module -> what a fresh interpreter holds after importing it and those before."""
    marks = test_light_modules_load_nothing_heavy.pytestmark
    modules = next(mark for mark in marks if mark.name == "parametrize").args[1]
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    print(name, *sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: set(loaded) for name, *loaded in lines}


@pytest.mark.parametrize("name", sorted(ENTRY_POINTS))
def test_an_entry_point_is_imported_without_loading_a_model_library(name):
    program = f"import sys, {name}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "datasets", "deepspeed"} & set(done.stdout.split())


def test_no_name_of_ours_shadows_a_package_or_the_standard_library():
    tops = {path.stem for path in ROOT.glob("*.py")}
    tops |= {path.parent.name for path in ROOT.glob("*/__init__.py")}
    tops |= {path.parent.name for path in ROOT.glob("*/__main__.py")}
    installed = set(metadata.packages_distributions()) - OURS
    assert not tops & (set(sys.stdlib_module_names) | installed | PUBLISHED_NAMES)
    inside = {path.stem for owner, path in source_files() if owner in PACKAGES | {"hugcoder"}}
    assert not inside & {"datasets", "tokenizers", "evaluate", "code", "profile", "types", "utils"}


def statements_of(tree: ast.AST) -> Iterator[tuple[ast.stmt, bool]]:
    """(statement, whether it stands where a docstring may) of every body in a file."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, [])
            for place, statement in enumerate(body if isinstance(body, list) else []):
                yield statement, place == 0 and name == "body" and isinstance(node, documented)


def is_string(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.JoinedStr) or isinstance(getattr(value, "value", None), str)


def test_no_string_stands_alone_where_a_sentence_was_meant():
    """Symptom: a message broken over two lines lost its second half, which became a statement."""
    lone = [
        f"{relative(path)}:{statement.lineno}"
        for _, path in source_files()
        for statement, may_be_docstring in statements_of(parse(path))
        if is_string(statement) and not may_be_docstring
    ]
    assert not lone


def test_every_file_says_what_it_holds():
    trees = {relative(path): parse(path) for _, path in source_files()}
    assert not [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
