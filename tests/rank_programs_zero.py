"""Programs that the tests of DeepSpeed ZeRO run in ranks."""

import hashlib
import json
import sys

import torch

BAD_FACTORS = {3: float("nan"), 5: 1e4, 6: float("inf")}  # of rank 1's loss, by step


def train_with_bad_gradients(argv: list[str]) -> None:
    """Run train.py with bad gradients on rank 1; print what each step leaves on every rank."""
    from rank_programs_accidents import HEALTHY_NORMS, make_gradients_bad
    from transformers import TrainerCallback

    import train
    from hugcoder.pretraining.trainer import PretrainTrainer

    class Watch(TrainerCallback):
        def __init__(self, trainer):
            self.trainer = trainer

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

    make_gradients_bad(BAD_FACTORS, rank=1, norms=HEALTHY_NORMS)
    make = PretrainTrainer.__init__

    def make_watched(self, *args, **kwargs):
        make(self, *args, **kwargs)
        self.add_callback(Watch(self))

    PretrainTrainer.__init__ = make_watched
    train.main(argv)


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
    from hugcoder.engines import zero
    from hugcoder.run import hyperparameters

    zero.load_checkpoint = lambda engine, checkpoint, scratch, **_: zero.load_resharded(
        engine, checkpoint, scratch / "scratch"
    )
    hyperparameters.restore_settings = lambda *_: None
    train.main(argv)


def show_saves(argv: list[str]) -> None:
    """Run train.py, and print each writing of DeepSpeed's own folder."""
    from deepspeed import DeepSpeedEngine

    import train

    save = DeepSpeedEngine.save_checkpoint

    def save_and_show(self, save_dir, *args, **kwargs):
        sys.stdout.write(f"SAVE {save_dir}\n")
        return save(self, save_dir, *args, **kwargs)

    DeepSpeedEngine.save_checkpoint = save_and_show
    train.main(argv)


def export_without_gathering(argv: list[str]) -> None:
    """Run train.py with a final model that is left in shards."""
    import train
    from hugcoder.engines import zero

    zero.gather_from_now_on = lambda engine: None
    train.main(argv)
