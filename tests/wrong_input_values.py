"""What wrong inputs are drawn from (wrong_input.py): values, YAML, damages, environments, words."""

import gzip

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"

NUMBERS = ["nan", "inf", "-inf", "-1", "0", "1e400", "0x10", "1_000", "1e3", "-0", "1.5"]
NUMBERS += ["2147483648"]
NUMBERS += ["99999999999999999999", "1" * 5000, "\u0663", "1,5", " 7", "1e-400", "-3.5e-7"]
WORDS = ["", " ", "none", "null", "true", "False", "many", "\u6f22\u00e9", "caf\udce9", "a\nb"]
WORDS += ["%s %d"]
WORDS += ["{}", "[]", "[1, 2]", '{"a": 1}', '{"a": ', "a=1", "=", "a=1=", "-", "x" * 300]
WORDS += ["\U0001f600"]
WORDS += ["%(default)s", "\x1b[31m", "$HOME", "~", "~nobody_here", "*", "in/*", "hub:a/b", "a/b"]
WORDS += ["a/b/c"]
PLACES = ["in", "in/hole.py", "in/nowhere", "odd/empty", "odd/text.txt", "odd/broken", "odd/loop"]
PLACES += ["odd/fifo", "odd/closed", "odd/closed.txt", "odd/binary", "in/hole.py/x", "/dev/null"]
PLACES += ["/dev/full", "/proc/self/mem", "/proc/nowhere/at", "odd/" + "n" * 300, ".", "..", "/"]
PLACES += ["odd"]
PLACES += ["in/model.json", "in/store", "in/corpus", "in/tokenizer", "in/run"]
PLACES += ["in/run/checkpoint-1"]
PLACES += ["in/run/model", "in/rows.jsonl", "in/rows.parquet", "odd/caf\udce9", "odd/empty.json"]
SOURCES = ["type=folder", "type=hub", "type=x,path=in", "path=in/repos"]
SOURCES += ["type=folder,path=in/repos,x=1"]
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
    "[&a 1, *a]", "{<<: {a: 1}}", "{<<: [{a: 1}, {b: 2}]}", "{<<: x}", "{a: 1, a: 2}",
    "|\n  a\n  b", ">\n  a\n\n  b", "'a\n\n  b'", '"\\ud83d"', '"\\x00"', '["\\x00"]',
    '"\\uD83D\\uDE00"', "0x1F", "0o17", "017", "1_000", "1:30", "[1:30]", ".inf",
    "[.inf]", ".nan", "-.inf", "1e5000", "[1e5000]", "{a: .nan}", "1" * 5000,
    "[" + "1" * 5000 + "]",
    "99999999999999999999", '"', "'",
    "@x", "`x`", "%x", "a: b", "- a", "a\n\tb", "# nothing", "é漢", "😀", "[" * 900,
    "[" * 5000 + "]" * 5000, "{a: " * 2000 + "1" + "}" * 2000,
    "[a, b", "{a: 1", "? a", "=", "[=]", "<<", "[<<]", "-", "- -",
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

DAMAGES = ["cut", "cut_one_byte", "empty", "folder", "flip", "flip", "lfs_pointer", "lost"]
DAMAGES += ["longer"]
DAMAGES += ["closed", "broken_link", "loop", "zeros", "fifo", "text_in_place"]
JSON_DAMAGES = ["json_list", "json_word", "json_null", "json_number", "json_empty", "json_deep"]
JSON_DAMAGES += ["json_latin", "json_nan", *["json_inside"] * 14]

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
            ("TMPDIR", "/proc/nowhere"),
            ("TMPDIR", "odd/closed"),
            ("HOME", "/proc/nowhere"),
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
            ("HF_HOME", "/proc/nowhere"),
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
            *("files open: 3 more", "an ordinary user", "inputs read-only"),
            *("stdin and stdout closed", "stderr full"),
        )
    ),
]

LONE = ["--", "-", "-h1", "--=", "---", "--=x", "nowhere.yaml", "odd/dir.yaml", "odd/loop.yml"]
LONE += ["report"]
LONE += ["odd/fifo.yaml", "odd/closed.yaml", "odd/broken.yaml", "tokenize", "verify", "measure"]
LONE += ["-vv"]
LONE += ["\udce9", "\udce9.yaml", "--caf\udce9", "@in/hole.py", "", ".yaml", "--seed", "--no_seed"]
LONE += ["--output_dir", "--help=x", "--help-all", "--version", "--no_output_dir=1", "--__init__"]
LONE += ["3"]
LONE += ["--output-dir=", "--self", "--sources", "--model", "x" * 5000, "--" + "x" * 5000]
LONE += ["a\nb.yaml"]
LONE += ["--a=" + "y" * 50_000, "/dev/null", "/dev/stdin", "/dev/full.yaml", "~/x.yaml", "%s.yaml"]
LONE += ["-1"]
