"""How much slower training on a CPU becomes beside other busy programs, and whether it is ours.

    python benchmarks/neighbours.py --token_store data/quickstart-tokens

Starts 0, 1 and 2 neighbours, each a loop that trains a model of transformers on as many threads
as there are cores, and beside them in turn: the same loop, which holds nothing of HugCoder, and
train.py with the same model, with all threads, also such that sleep while they wait for each other
(OMP_WAIT_POLICY), and with one. Prints the steps a second of each over those alone, and the share
of its threads' time that each process got. Where train.py falls no further than the bare loop, the
machine is the cause.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
NUM_NEIGHBOURS = (0, 1, 2)
WARM_SECONDS = 8  # for the neighbours to import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--token_store", default="data/quickstart-tokens")
    parser.add_argument("--seconds", type=float, default=15, help="of each bare loop")
    parser.add_argument("--steps", type=int, default=12, help="of each run of train.py")
    parser.add_argument("--bare", type=int, default=0, help=argparse.SUPPRESS)  # threads of a loop
    args = parser.parse_args()
    if args.bare:
        print(json.dumps(bare_loop(args.bare, args.seconds)))
        return
    cores = len(os.sched_getaffinity(0))
    alone: dict[str, float] = {}
    print(f"{cores} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    for num in NUM_NEIGHBOURS:
        neighbours = [start_loop(cores, 3600) for _ in range(num)]
        time.sleep(WARM_SECONDS if num else 0)
        try:
            for name, measured in (
                (f"bare loop, {cores} threads", finished(start_loop(cores, args.seconds))),
                ("bare loop, passive waits", finished(start_loop(cores, args.seconds, "PASSIVE"))),
                ("bare loop, 1 thread", finished(start_loop(1, args.seconds))),
                (f"train.py, {cores} threads", train(args, cores)),
                ("train.py, passive waits", train(args, cores, "PASSIVE")),
            ):
                kind = "train.py" if name.startswith("train.py") else "bare loop"
                first = alone.setdefault(kind, measured["rate"])
                print(
                    f"{num} neighbours  {name:24} {measured['rate'] / first:5.2f} of alone, "
                    f"{measured['cpu_share']:4.0%} of its threads' time",
                    flush=True,
                )
        finally:
            for neighbour in neighbours:
                neighbour.kill()
                neighbour.wait()


def start_loop(threads: int, seconds: float, waits: str = "") -> subprocess.Popen:
    words = [sys.executable, __file__, "--bare", str(threads), "--seconds", str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment(waits))


def environment(waits: str) -> dict[str, str]:
    return os.environ | ({"OMP_WAIT_POLICY": waits} if waits else {})


def finished(loop: subprocess.Popen) -> dict[str, float]:
    return json.loads(loop.communicate()[0])


def bare_loop(threads: int, seconds: float) -> dict[str, float]:
    """Steps a second of transformers' model on 8 rows of 256 tokens, forward, backward, AdamW."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(threads)
    config = AutoConfig.from_pretrained(ROOT / "configs/models/tiny.json")
    config.vocab_size = 4096
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(0, config.vocab_size, (8, 256))

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    began, used, steps = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() - began < seconds:
        step()
        steps += 1
    passed = time.perf_counter() - began
    share = (cpu_seconds() - used) / passed / threads
    return {"rate": steps / passed, "cpu_share": share}


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def train(args: argparse.Namespace, threads: int, waits: str = "") -> dict[str, float]:
    """Tokens a second of a short run; its first half is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        words = f"""train.py --config_file configs/models/tiny.json --token_store {args.token_store}
            --output_dir {folder}/run --max_seq_length 256 --global_batch_size 8
            --per_device_train_batch_size 8 --held_out_rows 0
            --max_steps {args.steps} --logging_steps {args.steps // 2}
            --dataloader_num_workers 0 --save_strategy no""".split()
        subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment(waits) | {"OMP_NUM_THREADS": str(threads)},
            check=True,
            capture_output=True,
        )
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
    logged = [line for line in map(json.loads, lines) if "train/tokens_per_second" in line][-1]
    return {"rate": logged["train/tokens_per_second"], "cpu_share": logged["train/cpu_share"]}


if __name__ == "__main__":
    main()
