"""Peak memory of every stage on a corpus some times larger than the quickstart's.

    python benchmarks/memory.py --corpus data/quickstart --copies 10

Writes the corpus's rows `copies` times into a jsonl file, each copy with another first line so that
none is a duplicate, and runs the stages on it as a user would. Prints seconds and, for the whole
process tree of a stage, the largest sum of resident memory seen at ten samples a second (pages that
processes share, mapped files above all, count in each).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from hugcoder.data import corpus as corpora

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="data/quickstart")
    parser.add_argument("--copies", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_jsonl(Path(args.corpus), args.copies, folder / "rows.jsonl")
        print(f"source: {size / 1e6:,.0f} MB of code")
        corpus, tokenizer, store = (folder / part for part in ("corpus", "tokenizer", "store"))
        source = f"type=jsonl,path={folder / 'rows.jsonl'}"
        stage("data_prep", f"-m data_prep --sources {source} --output_dir {corpus}")
        recipe = "configs/recipes/tokenizer_quickstart.yaml"
        stage("tokenizer", f"-m tokenizer {recipe} --corpus {corpus} --output_dir {tokenizer}")
        words = f"--corpus {corpus} --tokenizer {tokenizer} --output_dir {store}"
        stage("tokenize", f"-m data_prep tokenize {words}")
        words = f"--token_store {store} --output_dir {folder / 'run'} --max_steps 20"
        stage(
            "train",
            f"train.py configs/recipes/pretrain_quickstart.yaml {words} --torch_compile false "
            "--eval_strategy no --save_strategy no",
        )


def write_jsonl(corpus: Path, copies: int, path: Path) -> int:
    """Bytes of code written."""
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for copy in range(copies):
            for split in corpora.SPLITS:
                for row in corpora.read_corpus(corpus, split):
                    text = f"# copy {copy}\n{row['content']}"
                    size += len(text.encode())
                    repo = f"{row['repo']}-{copy}"
                    line = {"content": text, "repo": repo, "path": row["path"], "license": "x"}
                    file.write(json.dumps(line) + "\n")
    return size


def stage(name: str, words: str) -> None:
    """Run one stage and print its seconds and peak memory."""
    began = time.perf_counter()
    command = [sys.executable, *words.split()]
    process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident(process))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{name} failed: {process.stderr.read().decode()[-2000:]}")
    seconds = time.perf_counter() - began
    print(f"{name}: {seconds:.0f} s, {peak / 2**20:,.0f} MiB at most", flush=True)


def resident(process: psutil.Process) -> int:
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # it ended between being listed and being asked
    return total


if __name__ == "__main__":
    main()
