"""One model on the same rows under every engine: time, memory, and losses, which must agree.

    python benchmarks/engines.py
    python benchmarks/engines.py --processes 1 --config_file configs/models/130m.json --rows 16 \
        --row_length 2048 --bf16

A bare PyTorch loop and the Trainer in one process, then, through `accelerate launch` and the YAMLs
of configs/, DDP, FSDP2, ZeRO-2 and ZeRO-3 in several (one a GPU; two without). All take the same
rows a step. `fsdp` recomputes activations; `fsdp-no-recompute` is the same without. Prints a
Markdown table, and ends with exit code 1 when a loss differs from the loop's by more than rounding.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ENGINES = {  # name -> accelerate YAML; None = one process without a launcher
    "loop": None,
    "trainer": None,
    "ddp": "ddp.yaml",
    "fsdp": "fsdp.yaml",
    "fsdp-no-recompute": "fsdp.yaml",
    "zero2": "deepspeed_zero2.yaml",
    "zero3": "deepspeed.yaml",
}
WARM_STEPS = 5  # not timed
LOG_STEPS = 5
DRIFT_STEPS = (10, 20, 30, 40, 60, 120)


def main() -> None:
    args = read_arguments()
    if args.child:
        child(args)
        return
    results: dict[str, list[dict]] = {name: [] for name in args.engines}
    for _ in range(args.rounds):
        for name in args.engines:
            results[name].append(launch(name, args))
            print(json.dumps({"engine": name, **results[name][-1]}), flush=True)
    worst = print_table(results)
    tolerance = 2e-2 if args.bf16 else 1e-5
    if worst > tolerance:
        sys.exit(f"the losses differ by {worst:.1e} relative, more than rounding ({tolerance:.0e})")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--token_store", default="data/quickstart-tokens")
    parser.add_argument("--config_file", default="configs/models/tiny.json")
    parser.add_argument("--processes", type=int, default=0, help="0 = one a GPU; two without GPUs")
    parser.add_argument("--rows", type=int, default=8, help="rows of a step")
    parser.add_argument("--micro_rows", type=int, default=4, help="rows at a time")
    parser.add_argument("--row_length", type=int, default=256)
    parser.add_argument("--num_steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max_grad_norm", type=float, default=1.0, help="clips at most below it")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--output", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- the launches --------------------------------------------------------------------------------


def launch(name: str, args: argparse.Namespace) -> dict:
    """Run one engine in processes of its own; returns what its ranks wrote down."""
    with tempfile.TemporaryDirectory() as folder:
        processes = num_processes(args) if ENGINES[name] else 1
        words = [sys.executable]
        if ENGINES[name]:
            config = ROOT / "configs" / ENGINES[name]
            words = [str(Path(sys.executable).parent / "accelerate"), "launch", "--quiet"]
            words += ["--config_file", str(config), "--num_processes", str(processes)]
            words += ["--main_process_port", "0"]
        words += [__file__, "--child", name, "--output", folder]
        sizes = ("rows", "micro_rows", "row_length", "num_steps", "max_grad_norm")
        for key in ("token_store", "config_file", *sizes):
            words += [f"--{key}", str(getattr(args, key))]
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        ran = subprocess.run(
            words + ["--bf16"] * args.bf16,
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        ranks = sorted(Path(folder).glob("rank-*.json"))
        if ran.returncode or len(ranks) != processes:
            sys.exit(f"{name} ended with {ran.returncode}:\n{ran.stderr[-3000:]}")
        written = [json.loads(path.read_text()) for path in ranks]
        memory = [rank["memory_mib"] for rank in written]
        return {**written[0], "memory_mib": memory, "processes": processes}


def num_processes(args: argparse.Namespace) -> int:
    import torch

    return args.processes or (torch.cuda.device_count() if torch.cuda.is_available() else 2)


def print_table(results: dict[str, list[dict]]) -> float:
    """Print the medians over the rounds; returns the worst relative difference of a loss."""
    reference = next(iter(results.values()))[0]["losses"]
    overall = 0.0
    print("\n| engine | processes | ms a step | tokens/s | peak MiB of each rank | worst loss |")
    print("|---|---|---|---|---|---|")
    for name, rounds in results.items():
        pairs = [(a, b) for run in rounds for a, b in zip(run["losses"], reference, strict=True)]
        worst = max(abs(a - b) / b for a, b in pairs)
        overall = max(overall, worst)
        times = sorted(run["ms"] for run in rounds)
        middle = statistics.median(times)
        by_rank = zip(*(run["memory_mib"] for run in rounds), strict=True)
        memory = [f"{max(rank):.0f}" for rank in by_rank]
        cells = [name, str(rounds[0]["processes"])]
        cells += [f"{middle:.0f} ({times[0]:.0f} to {times[-1]:.0f})"]
        cells += [f"{1000 * rounds[0]['tokens'] / middle:,.0f}", ", ".join(memory), f"{worst:.1e}"]
        print("| " + " | ".join(cells) + " |")
    print_drift(results, reference)
    print(f"\nlosses at steps {LOG_STEPS}, {2 * LOG_STEPS}, ...:")
    for name, rounds in results.items():
        print(f"    {name:18}", *(f"{loss:.6f}" for loss in rounds[0]["losses"]))
    return overall


def print_drift(results: dict[str, list[dict]], reference: list[float]) -> None:
    """Print the worst relative difference of a loss until some steps."""
    until = [steps for steps in DRIFT_STEPS if steps <= LOG_STEPS * len(reference)]
    print("\n| worst loss until step | " + " | ".join(map(str, until)) + " |")
    print("|---" * (len(until) + 1) + "|")
    for name, rounds in results.items():
        pairs = [list(zip(run["losses"], reference, strict=True)) for run in rounds]
        worst = [
            max(abs(a - b) / b for run in pairs for a, b in run[: steps // LOG_STEPS])
            for steps in until
        ]
        print(f"| {name} | " + " | ".join(f"{value:.1e}" for value in worst) + " |")


# ---- in a process --------------------------------------------------------------------------------


def child(args: argparse.Namespace) -> None:
    from hugcoder.engines.cpu_engines import prepare_cpu_engines

    prepare_cpu_engines()
    import torch

    import hugcoder.pretraining.trainer  # noqa: F401  all libraries, before memory is counted
    from hugcoder import hardware

    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed  # noqa: F401
    begin = 0 if torch.cuda.is_available() else hardware.peak_memory_bytes()
    ms, losses = (bare_loop if args.child == "loop" else with_trainer)(args)
    facts = {
        "ms": ms,
        "tokens": args.rows * args.row_length,
        "memory_mib": (hardware.peak_memory_bytes() - begin) / 2**20,
        "losses": losses,
    }
    path = Path(args.output) / f"rank-{os.environ.get('RANK', '0')}.json"
    path.write_text(json.dumps(facts))


def prepare(args: argparse.Namespace):
    """Model, settings and rows: the same in every process of every engine."""
    from prepared import prepared

    return prepared(
        args.config_file,
        args.token_store,
        args.row_length,
        output_dir=str(Path(args.output) / "run"),
        max_steps=args.num_steps,
        global_batch_size=args.rows,
        per_device_train_batch_size=min(args.micro_rows, args.rows // world_size()),
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        activation_checkpointing=args.child == "fsdp",
        max_grad_norm=args.max_grad_norm,
        logging_steps=LOG_STEPS,
        save_strategy="no",
        bf16=args.bf16,
    )


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def bare_loop(args: argparse.Namespace) -> tuple[float, list[float]]:
    """Milliseconds a step and the losses of every LOG_STEPS steps, of a hand-written loop."""
    import torch
    import torch.nn.functional as F

    from hugcoder.data.batch import PackedCollator

    model, training, rows = prepare(args)
    device = training.device
    model.to(device).train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    size, collate = training.per_device_train_batch_size, PackedCollator(is_flash=False)
    batches = iter(torch.utils.data.DataLoader(rows, batch_size=size, collate_fn=collate))
    window, windows = torch.zeros(2, device=device), []
    for step in range(args.num_steps):
        if step == WARM_STEPS:
            began = now()
        micro = [
            {name: value.to(device) for name, value in next(batches).items()}
            for _ in range(training.gradient_accumulation_steps)
        ]
        total = sum((batch["labels"] != -100).sum() for batch in micro)
        for batch in micro:
            labels = batch.pop("labels")
            batch.pop("kinds")
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                logits = model(**batch).logits
            targets = F.pad(labels, (0, 1), value=-100)[:, 1:].flatten()
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets, reduction="sum")
            (loss / total).backward()
            window += torch.stack([loss.detach(), (targets != -100).sum()])
        # in float64: torch's own norm is up to 8e-4 off on a CPU
        squares = [parameter.grad.double().square().sum() for parameter in model.parameters()]
        norm = torch.stack(squares).sum().sqrt()
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), training.max_grad_norm, norm)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % LOG_STEPS == 0:
            windows.append(window.tolist())
            window.zero_()
    seconds = (now() - began) / (args.num_steps - WARM_STEPS)
    return 1000 * seconds, [loss / tokens for loss, tokens in windows]


def with_trainer(args: argparse.Namespace) -> tuple[float, list[float]]:
    """The same through PretrainTrainer, in the engine that the launcher chose."""
    from prepared import trainer_of
    from transformers import TrainerCallback

    class StepClock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step in (WARM_STEPS, state.max_steps):
                times.append(now())

    times: list[float] = []
    trainer = trainer_of(*prepare(args))
    trainer.add_callback(StepClock())
    trainer.train()
    seconds = (times[1] - times[0]) / (args.num_steps - WARM_STEPS)
    return 1000 * seconds, [line["loss"] for line in trainer.state.log_history if "loss" in line]


def now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
