"""What the Trainer with our callbacks costs over a hand-written loop, and who waits for the device.

    python benchmarks/trainer_overhead.py --token_store data/quickstart-tokens

1. Pairs of runs, alternating, of the same model on the same rows with the same optimizer: a bare
   PyTorch loop, and train.py's PretrainTrainer with logging every 10 steps. Prints each pair's
   ratio of seconds a step and the losses of both, which must agree.
2. Host synchronisations (aten::_local_scalar_dense, what .item() and .tolist() become) in steps
   that log nothing, by the function that asked for them.
"""

import argparse
import collections
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from prepared import prepared, trainer_of
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from hugcoder.data.batch import PackedCollator

WARM_STEPS = 5  # not timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--token_store", default="data/quickstart-tokens")
    parser.add_argument("--config_file", default="configs/models/tiny.json")
    parser.add_argument("--num_steps", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    ratios = []
    for pair in range(args.pairs):
        bare, bare_losses = hand_loop(*prepare(args))
        full, full_losses = with_trainer(*prepare(args))
        ratios.append(full / bare)
        worst = max(abs(a - b) for a, b in zip(bare_losses, full_losses, strict=False))
        print(
            f"pair {pair}: loop {1000 * bare:.1f} ms a step, Trainer {1000 * full:.1f} ms, "
            f"ratio {full / bare:.3f}, losses differ by at most {worst:.1e}"
        )
    print(f"ratio: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    for source, count in host_synchronisations(*prepare(args)).items():
        print(f"host synchronisations by {source}: {count:.2f} a micro-batch")


def prepare(args: argparse.Namespace):
    return prepared(
        args.config_file,
        args.token_store,
        256,
        output_dir=tempfile.mkdtemp(),
        max_steps=args.num_steps + WARM_STEPS,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        save_strategy="no",
    )


def hand_loop(model, training, rows) -> tuple[float, list[float]]:
    """Seconds a step and losses of a bare loop."""
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=training.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        fused=True,
    )
    collate, size, losses = PackedCollator(is_flash=False), training.per_device_train_batch_size, []
    batches = iter(torch.utils.data.DataLoader(rows, batch_size=size, collate_fn=collate))
    for step in range(training.max_steps):
        if step == WARM_STEPS:
            began = time.perf_counter()
        micro = [next(batches) for _ in range(training.gradient_accumulation_steps)]
        total = sum((batch["labels"] != -100).sum() for batch in micro)
        step_loss = 0.0
        for batch in micro:
            labels = batch.pop("labels")
            batch.pop("kinds")
            logits = model(**batch).logits.float().flatten(0, 1)
            targets = F.pad(labels, (0, 1), value=-100)[:, 1:].flatten()
            loss = F.cross_entropy(logits, targets, reduction="sum") / total
            loss.backward()
            step_loss += loss.detach()
        # in float64: torch's own norm is up to 8e-4 off on a CPU
        squares = [parameter.grad.double().square().sum() for parameter in model.parameters()]
        norm = torch.stack(squares).sum().sqrt()
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), training.max_grad_norm, norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(step_loss)
    seconds = (time.perf_counter() - began) / (training.max_steps - WARM_STEPS)
    return seconds, [float(loss) for loss in losses][9::10]


class StepClock(TrainerCallback):
    """Time between the end of the warm steps and the end of the last one."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARM_STEPS:
            self.began = time.perf_counter()
        self.ended = time.perf_counter()


def with_trainer(model, training, rows) -> tuple[float, list[float]]:
    """Seconds a step and logged losses (means of ten steps are not comparable: every tenth)."""
    training.logging_steps = 10
    clock = StepClock()
    trainer = trainer_of(model, training, rows)
    trainer.add_callback(clock)
    losses: list[float] = []
    trainer.add_callback(_EveryTenth(trainer, losses))
    trainer.train()
    return (clock.ended - clock.began) / (training.max_steps - WARM_STEPS), losses


class _EveryTenth(TrainerCallback):
    """The loss of each tenth step alone, from the Trainer's own running sum."""

    def __init__(self, trainer, losses: list[float]):
        self.trainer, self.losses, self.before = trainer, losses, 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % 10 == 9:
            self.before = self.trainer._tr_loss.clone()
        if state.global_step % 10 == 0:
            self.losses.append(float(self.trainer._tr_loss - self.before))


class CountSynchronisations(TorchDispatchMode):
    """Counts reads of a tensor's value by the innermost function that is not torch's own."""

    def __init__(self):
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()
        self.ours = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            frames = [f for f in traceback.extract_stack() if "benchmarks/" not in f.filename]
            known = ("hugcoder/", "transformers/", "accelerate/", "torch/optim/")
            frame = next((f for f in reversed(frames) if any(k in f.filename for k in known)), None)
            self.counts[f"{Path(frame.filename).name} {frame.name}()" if frame else "torch"] += 1
            self.ours += frame is not None and "hugcoder/" in frame.filename
        return func(*args, **(kwargs or {}))


def host_synchronisations(model, training, rows) -> dict[str, float]:
    """Reads a micro-batch in steps without a log line, by package."""
    training.logging_strategy = type(training.logging_strategy)("no")
    training.logging_first_step = False
    trainer = trainer_of(model, training, rows)
    counter = CountSynchronisations()
    trainer.add_callback(_CountBetween(counter))
    trainer.train()
    micro_batches = (training.max_steps - WARM_STEPS) * training.gradient_accumulation_steps
    found = {name: count / micro_batches for name, count in counter.counts.items()}
    return found | {"hugcoder": counter.ours / micro_batches}


class _CountBetween(TrainerCallback):
    def __init__(self, counter: CountSynchronisations):
        self.counter = counter

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARM_STEPS:
            self.counter.__enter__()
        if state.global_step == args.max_steps:
            self.counter.__exit__(None, None, None)


if __name__ == "__main__":
    main()
