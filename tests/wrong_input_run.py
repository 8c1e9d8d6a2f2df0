"""Runs drawn wrong inputs (wrong_input.py) and judges how the programs end.

A case runs in a copy of a small world (`in/`: a corpus, a tokenizer, a store, runs) in a child of
the rank server, through the program's own `if __name__ == "__main__"`, or as a real command.
By hand, to draw many or to see one again:

    python tests/wrong_input_run.py --seed 5 --count 1000 --only 'data_prep: odd'
    python tests/wrong_input_run.py --seed 5 --first 17 --count 1 --as_command
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
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import processes
from ranks import Ranks
from wrong_input import (
    EVALUATE,
    ROOT,
    TOKENIZE,
    TRAIN,
    Case,
    draw,
    flags,
    is_module,
    printable,
    words_before,
)
from wrong_input_files import contents, prepare

SECONDS = 60
MOST_MEMORY = 16 << 30  # of addresses: a size that cannot be had is to fail at once

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
        words, world=1, main="wrong_input_run:child", env={"HF_HUB_OFFLINE": "1"}, timeout=SECONDS
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
        elif limit.startswith("files open") and not is_command:
            used = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + number, used + number))
        elif limit in ("an ordinary user", "inputs read-only") and may_be_ordinary():
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)


def may_be_ordinary() -> bool:
    """Whether root can become a user who may still read the interpreter and its packages."""
    places = [Path(sys.base_prefix), Path(sys.prefix).resolve(), ROOT]
    paths = {path for place in places for path in (place, *place.parents)}
    return os.getuid() == 0 and all(path.stat().st_mode & 0o5 == 0o5 for path in paths)


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
    words = ["read", "write", "parse", "count", "value", "index", "total", "merge", "split", "open"]
    rows = []
    for repo in ("alpha", "beta", "gamma", "delta"):
        for number in range(5):
            lines = [f'"""Module {number} of {repo}."""', ""]
            for method in range(20):
                a, b, c = rng.sample(words, 3)
                lines.append(f"def {a}_{b}_{method}({c}):")
                lines += [f"    return [{c} + {rng.randint(1, 99)}]", ""]
            file = folder / "repos" / repo / f"m{number}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(lines))
            rows.append({"repo": repo, "path": file.name, "content": "\n".join(lines)})
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        git = ["git", "-C", str(folder / "repos" / repo), *who]
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
