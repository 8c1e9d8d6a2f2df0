"""Draws wrong values, recipes, files, words and environments for every entry point.

Case number `index` of a seed is always the same one; wrong_input_run.py runs and judges them.
"""

import dataclasses
import json
import random
import shlex
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path

from wrong_input_values import (
    DAMAGES,
    JSON_DAMAGES,
    LONE,
    NUMBERS,
    PLACES,
    RECIPES,
    SOURCES,
    WORDS,
    WORLD_FAULTS,
    YAML_VALUES,
)

ROOT = Path(__file__).resolve().parents[1]

# ---- the programs --------------------------------------------------------------------------------

PROGRAMS = {
    "train.py": (
        "hugcoder.pretraining.arguments",
        "ModelArguments DataArguments PretrainArguments",
    ),
    "generate.py": ("generate", "GenerateArguments"),
    "export.py": ("export", "ExportArguments"),
    "data_prep": ("data_prep.arguments", "CorpusArguments"),
    "data_prep tokenize": ("data_prep.tokenize_corpus", "TokenizeArguments"),
    "data_prep verify": ("data_prep.verify", "VerifyArguments"),
    "tokenizer": ("tokenizer.arguments", "TokenizerArguments"),
    "tokenizer measure": ("tokenizer.arguments", "MeasureArguments"),
    "evaluation": ("evaluation.heldout_arguments", "HeldoutArguments"),
    "evaluation report": ("evaluation.report", "ReportArguments"),
}
TRAIN = {
    "config_file": "in/model.json",
    "token_store": "in/store",
    "output_dir": "out",
    "max_seq_length": "256",
    "max_steps": "1",
    "per_device_train_batch_size": "2",
    "eval_strategy": "no",
    "held_out_rows": "0",
    "save_strategy": "no",
    "dataloader_num_workers": "0",
}
ADAPT = {"config_file": None, "model_name_or_path": "in/run/model"}
EVALUATE = {"model": "in/run", "corpus": "in/corpus", "output_dir": "out", "max_documents": "2"}
EVALUATE |= {"max_bytes": "3000", "num_spans": "2", "max_new_tokens": "2"}
CORPUS = {"output_dir": "out", "num_workers": "1"}
TOKENIZE = {"corpus": "in/corpus", "tokenizer": "in/tokenizer", "output_dir": "out"}
PREPARE = [
    ("data_prep", {"sources": f"type={kind},path=in/{name}"} | CORPUS, [f"in/{name}"])
    for kind, name in [
        ("folder", "repos"),
        ("git", "repos"),
        ("jsonl", "rows.jsonl"),
        ("jsonl", "rows.jsonl.gz"),
        ("parquet", "rows.parquet"),
    ]
]
# What works: program, its settings, and the files and folders that it reads
COMMANDS: list[tuple[str, dict[str, str | None], list[str]]] = [
    ("train.py", TRAIN, ["in/model.json", "in/store"]),
    ("train.py", TRAIN | {"output_dir": "in/begun", "max_steps": "2"}, ["in/begun"]),
    ("train.py", TRAIN | ADAPT, ["in/run"]),
    ("train.py", TRAIN | ADAPT | {"model_name_or_path": "in/foreign"}, ["in/foreign"]),
    *[
        ("generate.py", {"model": model, "prompt": "def ", "max_new_tokens": "2"}, [model])
        for model in ("in/foreign", "in/run")
    ],
    (
        "generate.py",
        {"model": "in/run/model", "infill": "in/hole.py", "max_new_tokens": "2"},
        ["in/run/model", "in/hole.py"],
    ),
    ("export.py", {"checkpoint": "in/run/checkpoint-1", "output_dir": "out"}, ["in/run"]),
    *PREPARE,
    ("data_prep", {"sources": "type=hub,dataset=in/rows.d"} | CORPUS, ["in/rows.d"]),
    ("data_prep tokenize", TOKENIZE, ["in/corpus", "in/corpus", "in/tokenizer"]),
    ("data_prep tokenize", TOKENIZE | {"tokenizer": "in/foreign"}, ["in/foreign"]),
    ("data_prep tokenize", TOKENIZE | {"output_dir": "in/half"}, ["in/half"]),
    *[
        ("data_prep verify", {"folder": f"in/{name}"}, [f"in/{name}"])
        for name in ("corpus", "store", "tokenizer", "run/model", "run/checkpoint-1")
    ],
    (
        "tokenizer",
        {"corpus": "in/corpus", "output_dir": "out", "vocab_size": "400"},
        ["in/corpus"],
    ),
    (
        "tokenizer",
        {"corpus": "in/corpus", "output_dir": "in/tokenizer", "vocab_size": "400"},
        ["in/tokenizer"],
    ),
    (
        "tokenizer measure",
        {"tokenizer": "in/tokenizer", "corpus": "in/corpus", "max_bytes": "3000"},
        ["in/tokenizer", "in/corpus"],
    ),
    (
        "tokenizer measure",
        {"tokenizer": "in/foreign", "corpus": "in/corpus", "max_bytes": "3000"},
        ["in/foreign"],
    ),
    ("evaluation", EVALUATE, ["in/run", "in/corpus"]),
    ("evaluation", EVALUATE | {"model": "in/foreign"}, ["in/foreign"]),
    (
        "evaluation report",
        {"run": "in/run", "output": "out.html"},
        ["in/run", "in/corpus", "in/store"],
    ),
]
POSITIONAL = {"generate.py": "model", "export.py": "checkpoint", "data_prep verify": "folder"}
POSITIONAL |= {
    "tokenizer measure": "tokenizer",
    "evaluation": "model",
    "evaluation report": "run",
}


@cache
def settings_of(program: str) -> dict[str, str]:
    """The names of all settings of a program, with the text of their types."""
    module, names = PROGRAMS[program]
    groups = [getattr(import_module(module), name) for name in names.split()]
    return {f.name: str(f.type) for group in groups for f in dataclasses.fields(group) if f.init}


def is_module(program: str) -> bool:
    return not program.split()[0].endswith(".py")


def words_before(program: str) -> list[str]:
    first, *rest = program.split()
    return ["-m", first, *rest] if is_module(program) else [str(ROOT / first), *rest]


# ---- cases ---------------------------------------------------------------------------------------


@dataclass
class Case:
    """One wrong thing done to one command that works.

    Args:
        files: what is done to files of the world first: name of a function here and its words.
        env: variables; None takes one away. limits: how the child is held back (see `hold_back`).
    """

    program: str
    argv: list[str]
    what: str
    files: list[list[str]] = field(default_factory=list)
    env: dict[str, str | None] = field(default_factory=dict)
    limits: list[str] = field(default_factory=list)
    is_seen_at_start: bool = False  # a forked child has read it already

    @property
    def shown(self) -> str:
        """The case as commands."""
        env = [f"{name}={value}" for name, value in self.env.items() if value is not None]
        unset = [word for name, value in self.env.items() if value is None for word in ("-u", name)]
        words = ["env", *unset, *env, "python", *words_before(self.program), *self.argv]
        lines = [f"# {self.what}", *(f"# {' '.join(map(repr, one))}" for one in self.files)]
        lines += [f"# child: {limit}" for limit in self.limits]
        return "\n".join([*lines, printable(shlex.join(words))])


def printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def draw(seed: int, index: int) -> Case:
    """The case of this number; each program and each kind of fault comes equally often."""
    rng = random.Random(f"{seed}/{index}")
    program = rng.choice(list(PROGRAMS))
    program, settings, inputs = rng.choice([c for c in COMMANDS if c[0] == program])
    kinds = [wrong_value, wrong_recipe, wrong_file]
    kind = rng.choice([*kinds, wrong_value, wrong_file, wrong_world, wrong_words])
    return kind(rng, program, dict(settings), inputs)


def flags(settings: dict[str, str | None]) -> list[str]:
    given = {name: value for name, value in settings.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", value)]


NO_NUMBERS = {"num_workers", "dataloader_num_workers", "dataloader_prefetch_factor"}
NO_NUMBERS |= {"num_train_epochs", "max_steps", "num_spans"}  # what would start processes, or last
SMALL_NUMBERS = [n for n in NUMBERS if n not in ("1e3", "1_000", "2147483648")]


def value_of(rng: random.Random, name: str, kind: str) -> str:
    """A value that most often is wrong for a setting of this name and type."""
    if name == "sources" and rng.random() < 0.7:
        return rng.choice(SOURCES)
    numbers = SMALL_NUMBERS if name in NO_NUMBERS else NUMBERS
    if ("int" in kind or "float" in kind) and rng.random() < 0.6:
        return rng.choice(numbers)
    if "str" in kind and rng.random() < 0.6:
        return rng.choice(PLACES)
    return rng.choice(WORDS)


def setting_of(rng: random.Random, program: str, settings: dict) -> str:
    """The name of a setting; those that the command gives come oftener than the others."""
    names = list(settings_of(program))
    return rng.choice([n for n in settings if n in names] if rng.random() < 0.4 else names)


def wrong_value(rng: random.Random, program: str, settings: dict, inputs: list[str]) -> Case:
    name = setting_of(rng, program, settings)
    value = value_of(rng, name, settings_of(program)[name])
    settings.pop(name, None)
    words = flags(settings)
    if name == POSITIONAL.get(program) and value[:1] not in ("", "-") and rng.random() < 0.5:
        return Case(program, [value, *words], f"a wrong first word {printable(value)[:60]!r}")
    words.append(f"--{name}={value}")
    if rng.random() < 0.15:
        words.append(rng.choice(WORDS[2:]))
    return Case(program, words, f"a wrong value of {name}")


def wrong_recipe(rng: random.Random, program: str, settings: dict, inputs: list[str]) -> Case:
    words = flags(settings)
    if rng.random() < 0.35:
        name = rng.choice(list(RECIPES))
        files = [["write", "wrong.yaml", name]]
        return Case(program, ["wrong.yaml", *words], f"a recipe: {name}", files)
    name = setting_of(rng, program, settings)
    value = rng.choice(YAML_VALUES)
    settings.pop(name, None)
    text = printable(f"{name}: {value}\n")
    if rng.random() < 0.3:  # all of the command in the recipe
        rest = "".join(f"{n}: {json.dumps(v)}\n" for n, v in settings.items() if v is not None)
        text, settings = rest + text, {}
    files = [["text", "wrong.yaml", text]]
    return Case(program, ["wrong.yaml", *flags(settings)], f"a recipe's value of {name}", files)


def wrong_file(rng: random.Random, program: str, settings: dict, inputs: list[str]) -> Case:
    """A file below one of the inputs, which the runner chooses by number, is damaged."""
    if program == "data_prep" and rng.random() < 0.6:
        kind = "names" if "repos" in inputs[0] else "rows"
        files = [["damage", inputs[0], str(rng.randrange(1 << 30)), "any", kind]]
        return Case(program, flags(settings), f"odd {kind} in {inputs[0]}", files)
    place = rng.choice(inputs)
    number = rng.randrange(1 << 30)
    kind = "json" if rng.random() < 0.5 else "any"
    damage = rng.choice(JSON_DAMAGES if kind == "json" else DAMAGES)
    files = [["damage", place, str(number), kind, damage]]
    return Case(program, flags(settings), f"{damage} of a file in {place}", files)


def wrong_world(rng: random.Random, program: str, settings: dict, inputs: list[str]) -> Case:
    what, env, limits, at_start = rng.choice(WORLD_FAULTS)
    return Case(program, flags(settings), what, [], dict(env), list(limits), at_start)


def wrong_words(rng: random.Random, program: str, settings: dict, inputs: list[str]) -> Case:
    """A word too many, one missing, or another order."""
    words = flags(settings)
    kind = rng.choice(["more", "more", "more", "fewer", "order", "twice", "none"])
    if kind == "more":
        place = rng.choice([0, 0, len(words), rng.randrange(len(words) + 1)])
        words.insert(place, rng.choice(LONE))
    elif kind == "fewer":
        del words[rng.randrange(len(words))]
    elif kind == "order":
        rng.shuffle(words)
    elif kind == "twice":
        words += words[:2]
    else:
        words = []
    return Case(program, words, f"{kind} of words")
