"""Programs that the tests of DeepSpeed ZeRO run in ranks."""

import hashlib
import json
import sys

import torch

BAD_FACTORS = {2: float("nan"), 4: 1e4, 5: float("inf")}  # of rank 1's loss, by steps done before
HEALTHY_NORMS = [1.0, 2.0] * 40  # a history that a norm of thousands breaks and one of 5 does not


def train_with_bad_gradients(argv: list[str]) -> None:
    """Run train.py with bad gradients on rank 1; print what each step leaves on every rank."""
    from transformers import TrainerCallback

    import train
    from hugcoder.trainer import PretrainTrainer

    class Watch(TrainerCallback):
        def __init__(self, trainer):
            self.trainer = trainer

        def on_train_begin(self, *args, **kwargs):
            guard = self.trainer.gradient_guard
            guard.load_state({"num_skipped": 0, "norms": HEALTHY_NORMS, "skipped": []})

        def on_step_end(self, args, state, control, **kwargs):
            engine, guard = self.trainer.deepspeed, self.trainer.gradient_guard
            facts = {
                "step": state.global_step,
                "state": fingerprint(engine),
                "skipped": engine.optimizer.overflow,
                "judged": guard.was_skipped,
                "norm": repr(guard.norm),
                "rate": self.trainer.lr_scheduler.get_last_lr()[0],
            }
            sys.stdout.write(f"STEP {json.dumps(facts)}\n")

    class BadGradients(PretrainTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.add_callback(Watch(self))

        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            is_bad = self.args.process_index == 1 and self.model.training
            return loss * BAD_FACTORS.get(self.state.global_step, 1.0) if is_bad else loss

    replace_trainer(BadGradients)
    train.main(argv)


def replace_trainer(trainer_class: type) -> None:
    """train.main() imports the class from its module when it runs."""
    import hugcoder.trainer

    hugcoder.trainer.PretrainTrainer = trainer_class


def fingerprint(engine) -> str:
    """A hash of this rank's weights, master weights and optimizer state, bit by bit."""
    optimizer = engine.optimizer
    stage_3 = engine.zero_optimization_stage() == 3
    masters = (
        optimizer.fp32_partitioned_groups_flat
        if stage_3
        else optimizer.single_partition_of_fp32_groups
    )
    tensors = [p.ds_tensor if stage_3 else p for p in engine.module.parameters()] + list(masters)
    for state in optimizer.optimizer.state.values():
        tensors += [value for _, value in sorted(state.items()) if torch.is_tensor(value)]
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def resume_through_universal(argv: list[str]) -> None:
    """Run train.py, resuming by way of the universal form at the same number of processes too.

    The arguments' settings are not put back behind the load, which would hide what it does to them.
    """
    import train
    from hugcoder import hyperparameters, zero

    zero.load_checkpoint = lambda engine, checkpoint, scratch: zero.load_resharded(
        engine, checkpoint, scratch / "scratch"
    )
    hyperparameters.put_back = lambda *_: None
    train.main(argv)
