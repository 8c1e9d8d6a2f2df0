"""Draws wrong values, files and environments for every entry point, and judges how programs end.

Case number `index` of a seed is always the same one. A case runs in a copy of a small world (`in/`:
a corpus, a tokenizer, a store, runs) in a child of the rank server, through the program's own
`if __name__ == "__main__"`, or as a real command. By hand, to draw many:

    python tests/wrong_input.py --seed 5 --count 1000
    python tests/wrong_input.py --seed 5 --first 17 --count 1 --as_command    (one, shown)
"""

import argparse
import contextlib
import dataclasses
import gzip
import json
import os
import random
import re
import resource
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path

import processes
from ranks import Ranks

ROOT = Path(__file__).resolve().parents[1]
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
SECONDS = 60
MOST_MEMORY = 16 << 30  # of addresses: a size that cannot be had is to fail at once

# ---- the programs --------------------------------------------------------------------------------

PROGRAMS = {
    "train.py": ("hugcoder.arguments", "ModelArguments DataArguments PretrainArguments"),
    "generate.py": ("generate", "GenerateArguments"),
    "export.py": ("export", "ExportArguments"),
    "data_prep": ("data_prep.arguments", "CorpusArguments"),
    "data_prep tokenize": ("data_prep.tokenize_corpus", "TokenizeArguments"),
    "data_prep verify": ("data_prep.verify", "VerifyArguments"),
    "tokenizer": ("tokenizer.arguments", "TokenizerArguments"),
    "tokenizer measure": ("tokenizer.arguments", "MeasureArguments"),
    "evaluation": ("evaluation.arguments", "EvaluationArguments"),
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
    ("generate.py", {"model": "in/foreign", "prompt": "def ", "max_new_tokens": "2"}, ["in/foreign"]),
    ("generate.py", {"model": "in/run", "prompt": "def ", "max_new_tokens": "2"}, ["in/run"]),
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
    kinds = [wrong_value, wrong_value, wrong_recipe, wrong_file, wrong_file, wrong_world, wrong_words]
    return rng.choice(kinds)(rng, program, dict(settings), inputs)


def flags(settings: dict[str, str | None]) -> list[str]:
    given = {name: value for name, value in settings.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", value)]


NUMBERS = ["nan", "inf", "-inf", "-1", "0", "1e400", "0x10", "1_000", "1e3", "-0", "1.5", "2147483648"]
NUMBERS += ["99999999999999999999", "1" * 5000, "\u0663", "1,5", " 7", "1e-400", "-3.5e-7"]
WORDS = ["", " ", "none", "null", "true", "False", "many", "\u6f22\u00e9", "caf\udce9", "a\nb", "%s %d"]
WORDS += ["{}", "[]", "[1, 2]", '{"a": 1}', '{"a": ', "a=1", "=", "a=1=", "-", "x" * 300, "\U0001f600"]
WORDS += ["%(default)s", "\x1b[31m", "$HOME", "~", "~nobody_here", "*", "in/*", "hub:a/b", "a/b", "a/b/c"]
PLACES = ["in", "in/hole.py", "in/nowhere", "odd/empty", "odd/text.txt", "odd/broken", "odd/loop"]
PLACES += ["odd/fifo", "odd/closed", "odd/closed.txt", "odd/binary", "in/hole.py/x", "/dev/null"]
PLACES += ["/dev/full", "/proc/self/mem", "/nowhere/at/all", "odd/" + "n" * 300, ".", "..", "/", "odd"]
PLACES += ["in/model.json", "in/store", "in/corpus", "in/tokenizer", "in/run", "in/run/checkpoint-1"]
PLACES += ["in/run/model", "in/rows.jsonl", "in/rows.parquet", "odd/caf\udce9", "odd/empty.json"]
SOURCES = ["type=folder", "type=hub", "type=x,path=in", "path=in/repos", "type=folder,path=in/repos,x=1"]
SOURCES += [
    '{"type": "folder", "path": 3}',
    '{"type": "folder", "path": ["in/repos"]}',
    '{"type": "folder", "path": null}',
    '{"type": ["folder"], "path": "in/repos"}',
    '{"type": {"a": 1}}',
    '{"type": "folder", "path": "in/repos", "repo": {"a": 1}}',
    '{"type": "jsonl", "path": "in/rows.jsonl", "columns": "text"}',
    '{"type": "jsonl", "path": "in/rows.jsonl", "columns": {"content": 3}}',
    '{"type": "jsonl", "path": "in/rows.jsonl", "columns": {"content": "nothing"}}',
    '{"type": "jsonl", "path": "in/rows.jsonl", "columns": ["content"]}',
    '{"type": "jsonl", "path": "in/rows.jsonl", "language": 3}',
    '{"type": "jsonl", "path": "in/rows.jsonl", "name": {"a": [1]}}',
    '{"type": "parquet", "path": "in/rows.parquet", "columns": {"content": "repo", "x": "y"}}',
    '{"type": "parquet", "path": "in/rows.jsonl"}',
    '{"type": "jsonl", "path": "in/rows.parquet"}',
    '{"type": "jsonl", "path": "in/**/["}',
    '{"type": "git", "path": "in/hole.py"}',
    '{"type": "python", "distributions": "nothing_here"}',
    '{"type": "python", "distributions": 7}',
    '{"type": "python", "distributions": {"a": 1}}',
    '{"type": "python", "distributions": ["yaml", 3]}',
    '{"type": "python", "distributions": "yaml", "stdlib": "perhaps"}',
    '{"type": "hub", "dataset": 3}',
    '{"type": "hub", "dataset": ["a"]}',
    '{"type": "hub", "dataset": "in/rows.d", "split": 7}',
    '{"type": "hub", "dataset": "in/rows.d", "split": "train[:x]"}',
    '{"type": "hub", "dataset": "in/rows.d", "config": "x"}',
    '{"type": "hub", "dataset": "in/rows.d", "config": {"a": 1}}',
    '{"type": "hub", "dataset": "in/rows.d", "max_rows": -1}',
    '{"type": "hub", "dataset": "in/rows.d", "max_rows": [1]}',
    '{"type": "hub", "dataset": "in/rows.d", "max_rows": "\u00b2"}',
    '{"type": "hub", "dataset": "in/rows.d", "revision": 1.5}',
    '{"type": "hub", "dataset": "a/b/c"}',
    '{"type": "hub", "dataset": "someone/something"}',
    '{"type": "hub", "dataset": "in/repos"}',
    '{"type": "hub", "dataset": "odd/empty"}',
    "[" * 3000,
    '{"a":' * 3000,
    '["type"]',
    "3",
    '{"type": "folder", "path": "\\ud83d"}',
    '{"type": "folder", "path": "in/\\u0000"}',
    '{"type": "folder", "path": "in/repos", "repo": "\\ud83d"}',
    '{"type": "jsonl", "path": "in/rows.jsonl", "repo": "\\ud83d"}',
]
NO_NUMBERS = {"num_workers", "dataloader_num_workers", "dataloader_prefetch_factor"}
NO_NUMBERS |= {"num_train_epochs", "max_steps"}  # what would start processes, or last
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


YAML_VALUES = [
    "[a, b]", "[]", "{}", "{a: 1}", "{a: {b: [c, {d: e}]}}", "[[a], [b]]", "[{a: 1}]", "[1, 2]",
    "null", "~", "[null]", "{a: null}", "2024-01-01", "2024-01-01T10:00:00Z", "[2024-01-01]",
    "{2024-01-01: 1}", "2024-13-45", "[2024-13-45]", "{a: 2024-13-45}", "true", "yes", "[true]",
    "!!int x", "[!!int x]", "!!float [a]", "[!!float x]", "!!python/object:os.system {}",
    "[!!python/name:os.system ]", "!!python/object/apply:os.system [ls]", "{a: !!python/tuple [1]}",
    "!mine x", "[!mine x]", "!!binary QQ==", "[!!binary QQ==]", "[!!binary é]", "{a: !!binary x}",
    "!!set {a, b}", "{a: !!set {b}}", "!!omap [a: 1]", "!!timestamp x", "[!!timestamp x]",
    "[!!bool x]", "[!!null x]", "!!str [a]", "[!!map x]", "[!!seq x]", "{[a]: 1}", "{{a: b}: 1}",
    "{? [a] : 1, ? [a] : 2}", "{1: 2}", "{null: 1}", "{: 1}", "&x [*x]", "&x {a: *x}", "*nowhere",
    "[&a 1, *a]", "{<<: {a: 1}}", "{<<: [{a: 1}, {b: 2}]}", "{<<: x}", "{a: 1, a: 2}", "|\n  a\n  b",
    ">\n  a\n\n  b", "'a\n\n  b'", '"\\ud83d"', '"\\x00"', '["\\x00"]', '"\\uD83D\\uDE00"', "0x1F",
    "0o17", "017", "1_000", "1:30", "[1:30]", ".inf", "[.inf]", ".nan", "-.inf", "1e5000", "[1e5000]",
    "{a: .nan}", "1" * 5000, "[" + "1" * 5000 + "]", "99999999999999999999", '"', "'", "@x", "`x`",
    "%x", "a: b", "- a", "a\n\tb", "# nothing", "é漢", "😀", "[" * 900, "[" * 5000 + "]" * 5000,
    "{a: " * 2000 + "1" + "}" * 2000, "[a, b", "{a: 1", "? a", "=", "[=]", "<<", "[<<]", "-", "- -",
]  # fmt: skip
RECIPES: dict[str, bytes] = {
    "empty": b"",
    "comments only": b"# nothing\n\n",
    "BOM": b"\xef\xbb\xbfseed: 1\n",
    "UTF-16": "seed: 1\n".encode("utf-16"),
    "UTF-16 without BOM": "seed: 1\n".encode("utf-16-le"),
    "UTF-32": "seed: 1\n".encode("utf-32"),
    "Latin-1": "seed: 1 # caf\u00e9\n".encode("latin-1"),
    "NUL bytes": b"seed: \x00\n",
    "control characters": b"seed: \x07\n",
    "binary": bytes(range(256)) * 4,
    "gzip": gzip.compress(b"seed: 1\n", mtime=0),
    "lfs pointer": LFS_POINTER,
    "JSON list": b"[1, 2]",
    "number": b"3",
    "null": b"null",
    "word": b"seed",
    "two documents": b"seed: 1\n---\nseed: 2\n",
    "ended document": b"seed: 1\n...\nseed: 2\n",
    "tabs": b"seed:\t1\n\tseed: 2\n",
    "indented": b"  seed: 1\n seed: 2\n",
    "CRLF": b"seed: 1\r\nseed: 2\r\n",
    "CR": b"seed: 1\rseed: 2",
    "list key": b"[a, b]: 1\n",
    "mapping key": b"{a: b}: 1\n",
    "question key": b"? seed\n: 1\n",
    "number key": b"1: 1\n",
    "null key": b"null: 1\n",
    "empty key": b": 1\n",
    "merge": b"a: &a {seed: 1}\n<<: *a\n",
    "merge only": b"<<: {seed: 1}\n",
    "merge of a word": b"<<: seed\n",
    "merge of itself": b"&a\n<<: *a\n",
    "key anchor": b"&a seed: 1\n*a : 2\n",
    "anchor twice": b"seed: &a 1\ndevice: &a 2\n",
    "tagged root": b"!!python/object:os.system\nseed: 1\n",
    "root set": b"!!set {seed}\n",
    "root omap": b"!!omap [seed: 1]\n",
    "deep list": b"seed: " + b"[" * 100_000,
    "deep mapping": b"seed: " + b"{a: " * 100_000,
    "deep lines": b"".join(b" " * n + b"- \n" for n in range(1500)),
    "long line": b"seed: " + b"1" * 1_000_000 + b"\n",
    "laughs": b"a: &a [x, x]\n" + b"".join(b"b%d: &a [*a, *a]\n" % n for n in range(40)),
    "duplicate": b"seed: 1\nseed: 2\n",
    "percent": b"%YAML 9.9\n---\nseed: 1\n",
    "directive": b"%TAG ! x\n---\nseed: !a 1\n",
    "no space": b"seed:1\n",
    "flag": b"--seed: 1\n",
    "flags": b"--seed 1\n",
    "separators": "seed: 1\u2028device: cpu\u2028\n".encode(),
    "surrogates": b"seed: \xed\xa0\x80\n",
}


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


DAMAGES = ["cut", "cut_one_byte", "empty", "folder", "flip", "flip", "lfs_pointer", "lost", "longer"]
DAMAGES += ["closed", "broken_link", "loop", "zeros", "fifo", "text_in_place"]
JSON_DAMAGES = ["json_list", "json_word", "json_null", "json_number", "json_empty", "json_deep"]
JSON_DAMAGES += ["json_latin", "json_nan", *["json_inside"] * 14]


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


WORLD_FAULTS: list[tuple[str, dict, list[str], bool]] = [
    *(
        (f"{name}={value}", {name: value}, [], False)
        for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_PROCID")
        for value in ("x", "", "-1", "0", "2", "1.5")
    ),
    *(
        (f"{name}={value}", {name: value}, [], False)
        for name, value in [
            ("ACCELERATE_MIXED_PRECISION", "fp99"),
            ("ACCELERATE_USE_FSDP", "true"),
            ("ACCELERATE_USE_FSDP", "perhaps"),
            ("ACCELERATE_USE_DEEPSPEED", "true"),
            ("ACCELERATE_USE_CPU", "perhaps"),
            ("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
            ("PARALLELISM_CONFIG_TP_SIZE", "x"),
            ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "x"),
            ("FSDP_VERSION", "three"),
            ("MASTER_PORT", "x"),
            ("MASTER_ADDR", "nowhere.invalid"),
            ("CUDA_VISIBLE_DEVICES", "x"),
            ("TMPDIR", "/nowhere"),
            ("TMPDIR", "odd/closed"),
            ("HOME", "/nowhere"),
            ("HOME", ""),
            ("COLUMNS", "x"),
            ("COLUMNS", "1"),
            ("LANG", "xx_YY"),
            ("PYTHONHASHSEED", "0"),
            ("WANDB_MODE", "perhaps"),
            ("LOGNAME", ""),
        ]
    ),
    ("no HOME", {"HOME": None, "USER": None, "LOGNAME": None}, [], False),
    ("no PATH", {"PATH": None}, [], False),
    *(
        (f"{name}={value}", {name: value}, [], True)
        for name, value in [
            ("OMP_NUM_THREADS", "abc"),
            ("OMP_NUM_THREADS", "0"),
            ("OMP_NUM_THREADS", "-3"),
            ("HF_HUB_OFFLINE", "perhaps"),
            ("HF_HOME", "/nowhere"),
            ("HF_HOME", "odd/text.txt"),
            ("HF_DATASETS_CACHE", "odd/text.txt"),
            ("TRANSFORMERS_VERBOSITY", "perhaps"),
            ("TOKENIZERS_PARALLELISM", "perhaps"),
            ("RAYON_NUM_THREADS", "abc"),
            ("PYTHONIOENCODING", "ascii"),
            ("PYTHONIOENCODING", "latin-1"),
            ("LC_ALL", "C"),
            ("LC_ALL", "xx_YY"),
            ("TORCH_LOGS", "perhaps"),
            ("TORCH_DEVICE_BACKEND_AUTOLOAD", "perhaps"),
            ("DS_ACCELERATOR", "perhaps"),
            ("PYTHONUNBUFFERED", "1"),
        ]
    ),
    *(
        (limit, {}, [limit], False)
        for limit in (
            *("stdin closed", "stdout closed", "stdout full", "stdout ascii", "stdout pipe"),
            *("files of 1000 bytes", "files of 5000 bytes", "files of 70000 bytes", "umask 777"),
            *("memory of 1 byte more", "files open: 3 more", "an ordinary user", "stack of 64 kB"),
            *("inputs read-only", "stdin and stdout closed", "stderr full", "ignored signals"),
        )
    ),
]


def wrong_world(rng: random.Random, program: str, settings: dict, inputs: list[str]) -> Case:
    what, env, limits, at_start = rng.choice(WORLD_FAULTS)
    return Case(program, flags(settings), what, [], dict(env), list(limits), at_start)


LONE = ["--", "-", "-h1", "--=", "---", "--=x", "nowhere.yaml", "odd/dir.yaml", "odd/loop.yml", "report"]
LONE += ["odd/fifo.yaml", "odd/closed.yaml", "odd/broken.yaml", "tokenize", "verify", "measure", "-vv"]
LONE += ["\udce9", "\udce9.yaml", "--caf\udce9", "@in/hole.py", "", ".yaml", "--seed", "--no_seed"]
LONE += ["--output_dir", "--help=x", "--help-all", "--version", "--no_output_dir=1", "--__init__", "3"]
LONE += ["--output-dir=", "--self", "--sources", "--model", "x" * 5000, "--" + "x" * 5000, "a\nb.yaml"]
LONE += ["--a=" + "y" * 50_000, "/dev/null", "/dev/stdin", "/dev/full.yaml", "~/x.yaml", "%s.yaml", "-1"]


def wrong_words(rng: random.Random, program: str, settings: dict, inputs: list[str]) -> Case:
    """A word too many, one missing, or another order."""
    words = flags(settings)
    kind = rng.choice(["more", "more", "more", "fewer", "order", "twice", "none"])
    if kind == "more":
        words.insert(rng.choice([0, 0, len(words), rng.randrange(len(words) + 1)]), rng.choice(LONE))
    elif kind == "fewer":
        del words[rng.randrange(len(words))]
    elif kind == "order":
        rng.shuffle(words)
    elif kind == "twice":
        words += words[:2]
    else:
        words = []
    return Case(program, words, f"{kind} of words")


# ---- what is done to files -----------------------------------------------------------------------


def prepare(case: Case, world: Path, folder: Path) -> None:
    """A copy of the world, with odd places beside it and the case's faults in it."""
    folder.mkdir(parents=True)
    shutil.copytree(world, folder / "in", symlinks=True)
    odd = folder / "odd"
    (odd / "empty").mkdir(parents=True)
    (odd / "dir.yaml").mkdir()
    (odd / "closed").mkdir(mode=0)
    (odd / "text.txt").write_text("some words\n")
    (odd / "empty.json").write_text("")
    (odd / "binary").write_bytes(bytes(range(256)) * 8)
    (odd / "caf\udce9").write_bytes(b"x")
    for name in ("closed.txt", "closed.yaml"):
        (odd / name).write_text("seed: 1\n")
        (odd / name).chmod(0)
    for name in ("fifo", "fifo.yaml"):
        os.mkfifo(odd / name)
    for name in ("broken", "broken.yaml"):
        (odd / name).symlink_to("nowhere")
    for name in ("loop", "loop.yml"):
        (odd / name).symlink_to(name)
    for what, place, *words in case.files:
        if what == "write":
            (folder / place).write_bytes(RECIPES[words[0]])
        elif what == "text":
            (folder / place).write_text(words[0])
        else:
            damage(folder / place, int(words[0]), words[1], words[2])


def damage(place: Path, number: int, kind: str, how: str) -> Path:
    """Damage the file that `number` chooses below a place; JSON only, where there is any."""
    rng = random.Random(number)
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    files = [file for file in files if ".git" not in file.parts or rng.random() < 0.2] or files
    as_json = [file for file in files if file.suffix == ".json"]
    if kind == "json" and not as_json:
        how = rng.choice(DAMAGES)
    file = rng.choice(as_json or files) if kind == "json" else rng.choice(files)
    if how == "names":
        return odd_names(place, rng)
    if how == "rows":
        return odd_rows(file, rng)
    content = file.read_bytes()
    if how == "json_inside":
        content_damaged = json_inside(content, rng)
    else:
        content_damaged = {
            "cut": lambda: content[: rng.randrange(len(content) + 1)],
            "cut_one_byte": lambda: content[:-1],
            "empty": lambda: b"",
            "flip": lambda: flipped(content, rng),
            "lfs_pointer": lambda: LFS_POINTER,
            "longer": lambda: content + b"\0\0",
            "zeros": lambda: bytes(len(content)),
            "text_in_place": lambda: b"no such thing\n",
            "json_list": lambda: b"[1, 2]",
            "json_word": lambda: b'"word"',
            "json_null": lambda: b"null",
            "json_number": lambda: b"3",
            "json_empty": lambda: b"{}",
            "json_deep": lambda: b"[" * 200_000,
            "json_latin": lambda: b'{"a": "\xe9"}',
            "json_nan": lambda: b'{"a": NaN}',
        }.get(how, lambda: None)()
    if content_damaged is not None:
        file.write_bytes(content_damaged)
        return file
    if how == "closed":
        file.chmod(0)
        return file
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "broken_link":
        file.symlink_to("nowhere")
    elif how == "loop":
        file.symlink_to(file.name)
    elif how == "fifo":
        os.mkfifo(file)
    return file


ODD_VALUES = [None, 3, 1.5, True, [], ["a"], {"a": 1}, "", " ", "\ud83d", "a\0b", "../../x.py", "/etc/x.py"]
ODD_VALUES += ["x" * 5000, "a\nb.py", "caf\u00e9.py", ".", "..", "a//b.py", "\ufeff", "C:\\x.py", 10**30]
ODD_COLUMNS = ["repo", "path", "content", "license", "language", "size", "max_stars_repo_name"]


def odd_rows(file: Path, rng: random.Random) -> Path:
    """Some rows, or a whole column, of other values."""
    import pyarrow
    import pyarrow.parquet

    if file.suffix == ".parquet":
        rows = pyarrow.parquet.read_table(file).to_pylist()
    else:
        content = file.read_bytes()
        text = gzip.decompress(content) if file.suffix == ".gz" else content
        rows = [json.loads(line) for line in text.splitlines()]
    name, value = rng.choice(ODD_COLUMNS), rng.choice(ODD_VALUES)
    for number in rng.choice([[0], [3], range(len(rows)), range(5, len(rows))]):
        rows[number][name] = value
        if rng.random() < 0.1:
            del rows[number][name]
    if file.suffix == ".parquet":
        values = rng.choice([[row.get(name) for row in rows], [value] * len(rows)])
        columns = {n: [str(row.get(n)) for row in rows] for n in ("repo", "path", "content")}
        with contextlib.suppress(pyarrow.ArrowException, UnicodeEncodeError, OverflowError):
            table = pyarrow.table(columns | {name: values})
            pyarrow.parquet.write_table(table, file)
        return file
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    text = rng.choice([text, text, b"\n" + text, b"\xef\xbb\xbf" + text, text.replace(b"\n", b"\r\n")])
    file.write_bytes(gzip.compress(text, mtime=0) if file.suffix == ".gz" else text)
    return file


def odd_names(place: Path, rng: random.Random) -> Path:
    """Files and folders with names and natures that a repository seldom has."""
    repository = rng.choice(sorted(place.iterdir()))
    names = ["LICENSE", "caf\udce9.py", "a\nb.py", ".git", "COPYING.md", "._x.py", "x" * 250, "\u200b.py"]
    name = rng.choice(names)
    at = rng.choice([place, repository, repository]) / name
    if at.is_dir():
        shutil.rmtree(at)
    kind = rng.choice(["folder", "empty", "binary", "link", "loop", "fifo", "closed", "renamed"])
    if kind == "folder":
        at.mkdir()
    elif kind in ("link", "loop"):
        at.symlink_to("nowhere" if kind == "link" else at.name)
    elif kind == "fifo":
        os.mkfifo(at)
    elif kind == "renamed":
        repository.rename(place / rng.choice(["caf\udce9", "a\nb", " ", "--x", "x" * 250, "a,b=c"]))
    else:
        at.write_bytes({"empty": b"", "binary": bytes(range(256)), "closed": b"gitdir: x\n"}[kind])
        at.chmod(0 if kind == "closed" else 0o644)
    return at


def flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


OTHERS = [None, [], {}, "", "word", -1, 0, 10**30, 1.5, True, [None], ["a"], {"a": None}, float("nan")]


def json_inside(content: bytes, rng: random.Random) -> bytes:
    """A JSON document with one entry, at any depth, taken out or of another type."""
    document = json.loads(content)
    node, holder = document, None
    while isinstance(node, dict | list) and node and (holder is None or rng.random() < 0.7):
        key = rng.choice(sorted(node)) if isinstance(node, dict) else rng.randrange(len(node))
        holder, node = (node, key), node[key]
    if holder is None:
        return b"{}"
    if rng.random() < 0.35:
        del holder[0][holder[1]]
    else:
        holder[0][holder[1]] = rng.choice(OTHERS)
    return json.dumps(document).encode()


# ---- running -------------------------------------------------------------------------------------


@dataclass
class Ending:
    code: int
    output: str
    errors: str
    changed: list[str]

    @property
    def last_line(self) -> str:
        lines = [line for line in self.errors.splitlines() if line.strip()]
        return lines[-1] if lines else ""


def fault_of(case: Case, ending: Ending) -> str:
    """What is wrong with an ending; empty when nothing is."""
    if ending.code < 0:
        return f"ended by signal {-ending.code} (9: after {SECONDS} s)"
    if "stderr full" in case.limits:
        return "" if ending.code in (0, 1, 2, 120) else f"exit code {ending.code}"
    if "Traceback" in ending.errors:
        return f"a traceback: {ending.last_line}"
    if ending.changed:
        return f"inputs were changed: {', '.join(ending.changed[:4])}"
    named = re.match(r"(\w+\.py|python -m \w+): error: \S", ending.last_line)
    if ending.code == 2:
        return "" if named else f"code 2, and the last line is {ending.last_line!r}"
    allowed = {0}
    if case.program == "tokenizer measure":
        allowed.add(1)  # a text does not come back
    if "stdout pipe" in case.limits:
        allowed.add(141)
    return "" if ending.code in allowed else f"exit code {ending.code}: {ending.last_line}"


def contents(folder: Path) -> dict[str, bytes | str]:
    """What lies in the inputs."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def changed_inputs(case: Case, before: dict, after: dict) -> list[str]:
    """Inputs that are not as they were, besides what a program may write there."""
    own = ["measure.json", ".owner.json", ".owner.lock"]
    if any("in/" in word for word in outputs(case)):
        return []
    names = [name for name in {*before, *after} if before.get(name) != after.get(name)]
    return sorted(n for n in names if not n.endswith(tuple(own)) and ".git/" not in n)


def outputs(case: Case) -> list[str]:
    """The words that name what is written."""
    joined = " ".join(case.argv) + " ".join(" ".join(words) for words in case.files)
    return re.findall(r"(?:output_dir|output|logging_dir)\W{1,3}(\S+)", joined) or ["in/"]


def run(case: Case, world: Path, folder: Path, server: Ranks | None) -> Ending:
    """Run a case in a fork of the server, or as a real command where there is none."""
    prepare(case, world, folder)
    before = contents(folder / "in")
    try:
        code = _forked(case, folder, server) if server else _as_command(case, folder)
        output = (folder / "stdout").read_text(errors="replace")
        errors = (folder / "stderr").read_text(errors="replace")
        changed = changed_inputs(case, before, contents(folder / "in"))
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=False, capture_output=True)
    return Ending(code, output, errors, changed)


def _forked(case: Case, folder: Path, server: Ranks) -> int:
    words = [json.dumps(dataclasses.asdict(case)), str(folder)]
    ended = server.run(
        words, world=1, main="wrong_input:child", env={"HF_HUB_OFFLINE": "1"}, timeout=SECONDS
    )
    if not (folder / "stderr").exists():
        raise AssertionError(ended.output)
    return ended.codes[0]


def _as_command(case: Case, folder: Path) -> int:
    env = dict(os.environ) | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    env |= {"OMP_NUM_THREADS": "1"}
    env = {n: v for n, v in (env | case.env).items() if v is not None}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if name not in case.env:
            env.pop(name, None)
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = processes.start(
            [sys.executable, *words_before(case.program), *case.argv],
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            preexec_fn=lambda: hold_back(case.limits, is_command=True),
        )
        try:
            return process.wait(timeout=2 * SECONDS)
        except subprocess.TimeoutExpired:
            return -9
        finally:
            processes.end(process)


def hold_back(limits: list[str], is_command: bool = False) -> None:
    """Put this process into the world that a case asks for; descriptors before anything else."""
    for limit in limits:
        number = int((re.findall(r"\d+", limit) or ["0"])[0])
        for name, descriptor in (("stdin", 0), ("stdout", 1)):
            if name in limit and "closed" in limit:
                os.close(descriptor)
        for name, descriptor in (("stdout", 1), ("stderr", 2)):
            if limit == f"{name} full":
                os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
        if limit == "stdout pipe":
            reader, writer = os.pipe()
            os.dup2(writer, 1)
            os.close(reader), os.close(writer)
        elif limit.startswith("files of"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
        elif limit == "umask 777":
            os.umask(0o777)
        elif limit.startswith("memory") and not is_command:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), used + (8 << 20)))
        elif limit.startswith("files open") and not is_command:
            used = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + number, used + number))
        elif limit in ("an ordinary user", "inputs read-only") and os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)


def child(words: list[str]) -> None:
    """Be the program, as `python PROGRAM ARGV` would be; never returns."""
    case, folder = Case(**json.loads(words[0])), Path(words[1])
    code = 1
    try:
        os.chdir(folder)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        for name, value in case.env.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        os.environ["PYTHONPATH"] = str(ROOT)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        for name, descriptor in (("stdout", 1), ("stderr", 2)):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            os.dup2(os.open(name, flags), descriptor)
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        limits = list(case.limits)
        if "inputs read-only" in limits:
            subprocess.run(["chmod", "-R", "a-w,a+rX", "in"], check=True)
        if any("user" in limit or "read-only" in limit for limit in limits):
            os.chmod(".", 0o777)
        hold_back(limits)
        _open_streams(limits)
        code = _run_program(case)
    finally:
        os._exit(code)


def _open_streams(limits: list[str]) -> None:
    """The streams of a Python that starts now."""
    encoding = "ascii" if "stdout ascii" in limits else "utf-8"
    for name, descriptor in (("stdin", 0), ("stdout", 1)):
        stream = None
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            mode = "r" if descriptor == 0 else "w"
            stream = open(descriptor, mode, encoding=encoding, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)


def _run_program(case: Case) -> int:
    """The exit code of a program, its uncaught errors and its last flush as Python has them."""
    first, *rest = case.program.split()
    sys.argv = [first, *rest, *case.argv]
    code = 0
    try:
        if is_module(case.program):
            runpy.run_module(first, run_name="__main__", alter_sys=True)
        else:
            sys.argv[0] = str(ROOT / first)
            runpy.run_path(str(ROOT / first), run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"Exception ignored at the end: {error!r}\n")
        code = 120
    return code


# ---- the world -----------------------------------------------------------------------------------


def make_world(folder: Path, server: Ranks, with_run: bool = True) -> Path:
    """A small corpus, a tokenizer and a store; `with_run`: a finished run with its scores, one that
    is begun and a model without a manifest.

    Made by the programs themselves, from a few files of made-up code.
    """
    folder.mkdir(exist_ok=True)
    make_sources(folder)
    (folder / "in").symlink_to(".")
    config = json.loads((ROOT / "configs/models/tiny.json").read_text())
    config |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
    (folder / "model.json").write_text(json.dumps(config, indent=2))
    sources = {"sources": "type=folder,path=in/repos", "output_dir": "in/corpus"}
    train = TRAIN | {"max_steps": "2", "save_strategy": "steps", "save_steps": "1"}
    commands = [
        ("data_prep", sources | {"num_workers": "1", "shard_bytes": "15000"}),
        ("tokenizer", {"corpus": "in/corpus", "output_dir": "in/tokenizer", "vocab_size": "400"}),
        ("data_prep tokenize", TOKENIZE | {"output_dir": "in/store"}),
        ("train.py", train | {"output_dir": "in/run"}),
        ("evaluation", EVALUATE | {"output_dir": "in/run/evaluation"}),
    ]
    for program, settings in commands if with_run else commands[:3]:
        case = Case(program, flags(settings), "the world is made")
        if program == "train.py":
            case.env["OMP_NUM_THREADS"] = "1"
        code = _forked(case, folder, server)
        assert code == 0, (folder / "stderr").read_text()
    (folder / "in").unlink()
    (folder / "stdout").unlink()
    (folder / "stderr").unlink()
    shutil.copytree(folder / "store", folder / "half")
    (folder / "half" / "manifest.json").unlink()
    if not with_run:
        return folder
    shutil.copytree(folder / "run", folder / "begun")
    for name in ("model", "checkpoint-2", "evaluation"):
        shutil.rmtree(folder / "begun" / name)
    shutil.copytree(folder / "run" / "model", folder / "foreign")  # as it comes from a hub
    (folder / "foreign" / "manifest.json").unlink()
    return folder


def make_sources(folder: Path) -> None:
    """Four repositories of Python and what the other sources read."""
    import pyarrow
    import pyarrow.parquet

    rng = random.Random(0)
    words = "read write parse count value index total merge split open close name path".split()
    rows = []
    for repo in ("alpha", "beta", "gamma", "delta"):
        for number in range(5):
            lines = [f'"""Module {number} of {repo}."""', ""]
            for method in range(20):
                a, b, c = rng.sample(words, 3)
                lines += [f"def {a}_{b}_{method}({c}):", f"    return [{c} + {rng.randint(1, 99)}]", ""]
            file = folder / "repos" / repo / f"m{number}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(lines))
            rows.append({"repo": repo, "path": file.name, "content": "\n".join(lines)})
        git = ["git", "-C", str(folder / "repos" / repo), "-c", "user.name=a", "-c", "user.email=a@b"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
            subprocess.run([*git, *command], check=True)
    text = "".join(json.dumps(row | {"license": "mit"}) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    (folder / "rows.d").mkdir()
    (folder / "rows.d" / "train.jsonl").write_text(text)
    (folder / "hole.py").write_text("def read(\n    <FILL>pass</FILL>\n    return 1\n")


# ---- by hand -------------------------------------------------------------------------------------


def endings(
    seed: int, indices: list[int], world: Path, folder: Path, server: Ranks | None
) -> Iterator[tuple[int, Case, Ending, str]]:
    """Draw and run cases; each with its ending and what is wrong with that."""
    for index in indices:
        case = draw(seed, index)
        place = folder / str(index)
        ending = run(case, world, place, server)
        shutil.rmtree(place, ignore_errors=True)
        yield index, case, ending, fault_of(case, ending)


def by_hand() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--as_command", action="store_true")
    parser.add_argument("--log", default="")
    parser.add_argument("--only", default="", help="Pattern of the programs and faults to run.")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    server = Ranks(folder)
    world = make_world(folder / "world", server)
    indices = range(args.first, args.first + args.count)
    if args.only:
        drawn = {index: draw(args.seed, index) for index in indices}
        indices = [i for i, c in drawn.items() if re.search(args.only, f"{c.program}: {c.what}")]
    num_faults = 0
    try:
        used = None if args.as_command else server
        for index, case, ending, fault in endings(args.seed, list(indices), world, folder, used):
            num_faults += bool(fault)
            line = {"index": index, "program": case.program, "what": case.what, "code": ending.code}
            line |= {"fault": fault, "shown": case.shown, "last": ending.last_line[:400]}
            if args.log:
                with open(args.log, "a") as log:
                    log.write(json.dumps(line) + "\n")
            if fault or args.count == 1:
                sys.stdout.write(printable(f"\n[{index}] {fault}\n{case.shown[:1500]}\n"))
                tail = "\n".join(ending.errors.splitlines()[-14:])
                sys.stdout.write(printable(f"--- exit {ending.code}\n{tail[-2500:]}\n"))
                sys.stdout.flush()
        sys.stdout.write(f"\n{num_faults} faults in {len(indices)} cases\n")
    finally:
        server.close()
        subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    by_hand()
