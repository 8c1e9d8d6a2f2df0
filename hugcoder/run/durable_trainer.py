"""Gives a Trainer runs that last: whole checkpoints, exact resuming, a guard, signals, a watchdog.

Put it before any transformers Trainer, as in `class FinetuneTrainer(DurableTrainer, SFTTrainer)`.
It adds everything that a run needs besides its task. It overrides private methods of the Trainer
where no callback can do the work (`_save_checkpoint`, the random state, the gradient's norm);
tests/test_overridden_methods.py fails when a release changes one of them.
"""

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hugcoder.engines import gradient_norm, zero
from hugcoder.engines.fsdp import configure_fsdp
from hugcoder.engines.world import check_sharding, check_world
from hugcoder.files import full_disk_shown
from hugcoder.model import manifest
from hugcoder.refusal import Refusal
from hugcoder.run import adapters, hyperparameters, random_state
from hugcoder.run.callbacks.hang_watchdog import FIRST_STEP_SECONDS, LONG_SECONDS, HangWatchdog
from hugcoder.run.callbacks.kept_state import KeptState
from hugcoder.run.callbacks.metrics_file import MetricsFile
from hugcoder.run.callbacks.progress import Progress
from hugcoder.run.callbacks.skipped_steps import SkippedSteps
from hugcoder.run.callbacks.stop_requests import ignoring_signals
from hugcoder.run.checkpoint import FINAL_MODEL
from hugcoder.run.checkpoint_saving import CheckpointSaver
from hugcoder.run.gradient_guard import WINDOW, GradientGuard, guard_optimizer
from hugcoder.run.loss_sums import LossSums
from hugcoder.run.material import Material
from hugcoder.run.tracker_checks import refuse_when_trackers_fail

logger = logging.getLogger(__name__)


class DurableTrainer(Trainer):
    """Makes the runs of the Trainer after it last; takes its arguments, by name, and two more.

    Args:
        args: RunArguments combined with the Trainer's arguments; joined here if they are not yet.
        material: what the run is made of.
        watchdog: follows what the trainer does; None = a watchdog that is never armed.
    """

    def __init__(
        self, *, args: Any, material: Material, watchdog: HangWatchdog | None = None, **kwargs
    ):
        args.join()
        super().__init__(args=args, **kwargs)
        check_world(self.accelerator, args)
        configure_fsdp(self.accelerator, self.model)
        run = Path(args.output_dir)
        self.material, self.last_evaluated_step = material, -1
        # tied weights gathered from shards are two tensors, and transformers would save both
        self.model._keys_to_ignore_on_save = list(self.model.all_tied_weights_keys)
        self.hang_watchdog = watchdog or HangWatchdog(run, 0, args.process_index)
        self.checkpoints = CheckpointSaver(self, material, self.hang_watchdog)
        self.gradient_guard = GradientGuard(args.skip_spike_sigmas, args.max_skipped_steps)
        self.loss_sums = self.new_loss_sums()
        path, rows = run / "skipped_steps.jsonl", args.rows_per_step
        self.skipped_steps = SkippedSteps(path, material.documents_in, rows)
        for bar in (ProgressCallback, PrinterCallback):
            self.remove_callback(bar)
        refuse_when_trackers_fail(self.callback_handler.callbacks)
        kept = {"gradient_guard": self.gradient_guard, "loss_sums": self.loss_sums}
        for callback in (
            self.hang_watchdog,  # first, to watch what other callbacks do before step 1
            MetricsFile(run / "metrics.jsonl"),
            Progress(),
            self.skipped_steps,
            KeptState(kept),
            self.checkpoints,
        ):
            self.add_callback(callback)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        if resume_from_checkpoint:
            self.hang_watchdog.at("while loading the checkpoint", LONG_SECONDS)
            self.checkpoints.check_resumable(Path(resume_from_checkpoint))
        else:
            self.hang_watchdog.at("while preparing the model", FIRST_STEP_SECONDS)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        loader = super().get_train_dataloader()
        loader.base_dataloader.worker_init_fn = ignoring_signals(loader.worker_init_fn)
        return loader

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        self.last_evaluated_step = self.state.global_step
        self.hang_watchdog.feed(self.state)
        return super().evaluate(*args, **kwargs)

    # ---- resuming --------------------------------------------------------------------------------

    def create_scheduler(self, *args, **kwargs):
        scheduler = super().create_scheduler(*args, **kwargs)
        self._settings = hyperparameters.settings_of(self.optimizer)  # before a checkpoint's load
        return scheduler

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        given = None if self.is_deepspeed_enabled else resume_from_checkpoint
        prepared = super()._prepare_for_training(max_steps, train_dataloader, given)
        if self.is_deepspeed_enabled:
            zero.keep_hooks_from_compiling(self.deepspeed)
            zero.guard_engine(self.deepspeed, self.gradient_guard.rejects)
            if resume_from_checkpoint:
                self._resume_zero(Path(resume_from_checkpoint))
        if resume_from_checkpoint and isinstance(self.lr_scheduler, LambdaLR):
            hyperparameters.restore_settings(self._settings, self.optimizer, self.lr_scheduler)
        if not self.is_deepspeed_enabled:
            guard_optimizer(self.optimizer, self.gradient_guard)
        check_sharding(self.accelerator, self.model_wrapped)
        return prepared

    def _resume_zero(self, folder: Path) -> None:
        """Resume from a checkpoint of ZeRO, made by this number of processes or another."""
        run, is_whole = Path(self.args.output_dir), not adapters.are_in(self.model)
        zero.load_checkpoint(self.deepspeed, folder, run, holds_all_weights=is_whole)
        self._load_optimizer_and_scheduler(str(folder))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None or random_state.fits(Path(checkpoint), self.args.world_size):
            super()._load_rng_state(checkpoint)
        else:
            random_state.restart(
                Path(checkpoint), self.args.seed, self.args.process_index, self.args.world_size
            )

    # ---- losses and the guard --------------------------------------------------------------------

    def new_loss_sums(self) -> LossSums:
        """Make the sums behind the logged loss; here, of the mean loss of each step."""
        return LossSums(self.args.device, num_kinds=1)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.count_loss(loss)
        return loss

    def count_loss(self, loss: torch.Tensor) -> None:
        """Count the loss of a micro-batch, as its share of the step's mean on this rank."""
        share = torch.ones_like(loss) / self.current_gradient_accumulation_steps
        self.loss_sums.add(loss[None].float(), share[None].float())

    def _clip_grad_norm(self, model) -> torch.Tensor:
        gradients = self._gradients_on_cpu(model)
        if not gradients:
            return super()._clip_grad_norm(model)
        return gradient_norm.clip(gradients, self.args.max_grad_norm)

    def _gradients_on_cpu(self, model) -> list[torch.Tensor]:
        """Return gradients whose norm we take in float64: none on GPUs, and none under ZeRO."""
        if self.is_deepspeed_enabled:
            return []
        gradients = gradient_norm.gradients_on_cpu(model.parameters())
        if gradients:
            self.accelerator.unscale_gradients()  # of offloaded shards in fp16
        return gradients

    def _get_grad_norm(self, model, grad_norm=None) -> float:
        """Return the norm of the gradient, and let the guard judge it before the optimizer's step.

        Under ZeRO the engine's own step has asked the guard already.
        """
        if grad_norm is None and (gradients := self._gradients_on_cpu(model)):
            grad_norm = gradient_norm.total_norm(gradients)
        norm, guard = super()._get_grad_norm(model, grad_norm), self.gradient_guard
        if self.is_deepspeed_enabled:
            _, sums = self.loss_sums.end_step(torch.zeros(()), self.accelerator.gather)
            if not guard.has_judged:
                guard.rejects(math.inf)  # the fp16 scaler dropped the step before it was judged
            guard.has_judged = False
        else:
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            norm, sums = self.loss_sums.end_step(norm, self.accelerator.gather)
            guard.rejects(norm)
        if guard.was_skipped:
            self._tell_of_skipped_step()
        else:
            self.loss_sums.keep(sums)
        return guard.norm

    def _tell_of_skipped_step(self) -> None:
        """Say what was skipped, and end the run when that happens too often; on all ranks."""
        self._tr_loss.zero_()  # the Trainer's own sum would stay NaN; the logged loss is ours
        guard, step = self.gradient_guard, self.state.global_step + 1
        if self.is_world_process_zero():
            self.skipped_steps.tell(step, guard.norm, guard.bound)
        if guard.is_exhausted:
            self.checkpoints.finish()
            last = manifest.last_complete(Path(self.args.output_dir))
            raise Refusal(
                f"{guard.num_skipped_lately} of the last {min(step, WINDOW)} steps were skipped, "
                f"more than max_skipped_steps {guard.max_skipped} allows; the last good checkpoint "
                f"is {last or 'none'}. Look at {self.skipped_steps.path}, then go on from there "
                "with a lower --learning_rate, or allow more."
            )

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            del logs["loss"]  # ours leaves skipped steps out
            logs |= self.loss_sums.read_window()
            logs["skipped_steps"] = self.gradient_guard.num_skipped
        if "train_loss" in logs:
            logs["train_loss"] = self.loss_sums.mean_of_call()
        losses = {name: value for name, value in logs.items() if name.endswith("loss")}
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        super().log(logs, *args, **kwargs)
        if bad:  # the guard could not prevent it
            raise Refusal(
                f"{bad[0]} is {losses[bad[0]]} at step {self.state.global_step}: the weights are "
                f"lost. Start again from a checkpoint in {self.args.output_dir} with a lower "
                "--learning_rate."
            )

    # ---- checkpoints -----------------------------------------------------------------------------

    def _save_checkpoint(self, model, trial) -> None:
        """Save, then complete the checkpoint with its manifest once every rank has written."""
        self.checkpoints.save(partial(super()._save_checkpoint, model, trial))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save whole weights; in a checkpoint of ZeRO-3 only if its configuration gathers them.

        The Trainer would write DeepSpeed's folder instead, and write it twice in a checkpoint.
        """
        if _internal_call and self.is_deepspeed_enabled and not zero.gathers(self.deepspeed):
            return
        super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.checkpoints.stage(Path(output_dir)):
            super()._save_optimizer_and_scheduler(output_dir)

    def export(self, merge_adapters: bool = False) -> Path:
        """Write the final model with its tokenizer to <run>/model; all ranks call it together.

        Args: merge_adapters: add the adapters to the base's weights, in the trainer's model too,
            and write these; otherwise write the adapters alone.
        Raises: Refusal when adapters should be merged into a sharded model.
        """
        if merge_adapters:
            self._merge_adapters()
        self.hang_watchdog.at("while writing the model", LONG_SECONDS)
        folder = Path(self.args.output_dir) / FINAL_MODEL
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        if self.is_deepspeed_enabled:
            zero.gather_from_now_on(self.deepspeed)
        self.checkpoints.open_model(folder)
        with full_disk_shown(Path(self.args.output_dir)):
            self.save_model(str(folder))
        self.checkpoints.complete_model(folder)
        return folder

    def _merge_adapters(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise Refusal(
                f"adapters cannot be merged into a sharded model (engine "
                f"{self.accelerator.distributed_type.value}); write them alone, or train with "
                "configs/ddp.yaml or in one process."
            )
        self.model = self.accelerator.unwrap_model(self.model).merge_and_unload()
        self.checkpoints.expect_weights_of(self.model)
