"""The transformers Trainer with what pretraining on packed FIM rows needs and no callback can do.

Adds the loss apart by kind of token, the isolation self-test before step 1, held-out scores in bits
per byte, Muon, and checkpoints that a manifest completes. Everything else is the Trainer's.
"""

import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from accelerate.utils.operations import ConvertOutputsToFp32
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hugcoder.data.batch import PackedCollator
from hugcoder.data.rows import FIM_MIDDLE, IGNORED, LEFT_TO_RIGHT, NUM_LOSS_KINDS, PackedRows
from hugcoder.engines import gradient_norm, zero
from hugcoder.engines.fsdp import settle_fsdp
from hugcoder.engines.world import check_sharding, check_world
from hugcoder.files import full_disk_shown
from hugcoder.model import manifest
from hugcoder.model.build import ModelSize, finish_model_folder
from hugcoder.model.random_init import expect_shards, fill_shards, is_on_meta
from hugcoder.pretraining.arguments import PretrainArguments
from hugcoder.pretraining.data_seen import DataSeen
from hugcoder.pretraining.held_out import score_rows
from hugcoder.pretraining.isolation_proof import IsolationProof
from hugcoder.pretraining.loss import loss_by_kind
from hugcoder.pretraining.optimizer import make_muon
from hugcoder.refusal import Refusal
from hugcoder.run import checkpoint, hyperparameters, random_state
from hugcoder.run.callbacks.hang_watchdog import FIRST_STEP_SECONDS, LONG_SECONDS, HangWatchdog
from hugcoder.run.callbacks.kept_state import KeptState
from hugcoder.run.callbacks.metrics_file import MetricsFile
from hugcoder.run.callbacks.progress import Progress
from hugcoder.run.callbacks.skipped_steps import SkippedSteps
from hugcoder.run.callbacks.stop_requests import deaf
from hugcoder.run.callbacks.throughput import Throughput
from hugcoder.run.checkpoint_saving import CheckpointSaver
from hugcoder.run.gradient_guard import WINDOW, GradientGuard, guard_optimizer
from hugcoder.run.loss_sums import LossSums
from hugcoder.run.tracker_checks import refuse_when_trackers_fail

logger = logging.getLogger(__name__)


class PretrainTrainer(Trainer):
    """Trains on packed FIM rows; see the module's first lines.

    Args:
        held_out: rows of held-out repositories, `left_to_right` and `fim`; empty = not scored.
        identity: what a checkpoint must share with a run that resumes from it.
        corpora: what the weights have seen, for the manifests; see hugcoder.data.training_data.
        watchdog: told what the trainer does, where somebody has armed it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: PretrainArguments,
        rows: PackedRows,
        held_out: dict[str, PackedRows],
        size: ModelSize,
        identity: dict[str, Any],
        corpora: Sequence[str] = (),
        watchdog: HangWatchdog | None = None,
    ):
        is_flash = model.config._attn_implementation.startswith("flash")
        collator = PackedCollator(is_flash)
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=held_out or None,
            data_collator=collator,
        )
        check_world(self.accelerator, args)
        settle_fsdp(self.accelerator, model)
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole step
        self.identity, self.tokenizer_folder = identity, rows.codec.folder
        self.corpora = list(corpora)
        # gathered from shards, tied weights are two tensors, of which transformers would save both
        model._keys_to_ignore_on_save = list(model.all_tied_weights_keys)
        self.checkpoints = CheckpointSaver(self, rows.codec.folder)
        tokens_per_step = rows.tokens_in(args.rows_per_step)
        self.throughput = Throughput(tokens_per_step, size.flops_per_token, args.world_size)
        self.data_seen = DataSeen(rows, args.rows_per_step)
        self._loss_by_kind = loss_by_kind
        if args.torch_compile:
            self._loss_by_kind = torch.compile(loss_by_kind, backend=args.torch_compile_backend)
        self.gradient_guard = GradientGuard(args.skip_spike_sigmas, args.max_skipped_steps)
        self.loss_sums = LossSums(args.device, has_kinds=not args.use_liger_kernel)
        run = Path(args.output_dir)
        self.skipped_steps = SkippedSteps(run / "skipped_steps.jsonl", rows, args.rows_per_step)
        self.hang_watchdog = watchdog or HangWatchdog(run, 0, args.process_index)
        self.last_evaluated_step = -1
        self._has_told_of_missing_scores = False
        for bar in (ProgressCallback, PrinterCallback):
            self.remove_callback(bar)
        refuse_when_trackers_fail(self.callback_handler.callbacks)
        self.add_callback(self.hang_watchdog)  # first: the self-test below is watched as a step
        self.add_callback(self.throughput)
        self.add_callback(self.data_seen)
        self.add_callback(IsolationProof(self))
        self.add_callback(MetricsFile(Path(args.output_dir) / "metrics.jsonl"))
        self.add_callback(Progress())
        self.add_callback(self.skipped_steps)
        self.add_callback(
            KeptState({"gradient_guard": self.gradient_guard, "loss_sums": self.loss_sums})
        )
        self.add_callback(self.checkpoints)
        if args.use_liger_kernel:
            logger.warning(
                "use_liger_kernel fuses the loss into the output layer: train/loss_ar and "
                "train/loss_middle are not logged (held-out scores still tell them apart)"
            )

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        if resume_from_checkpoint:
            self.hang_watchdog.at("while loading the checkpoint", LONG_SECONDS)
            self.checkpoints.check_resumable(Path(resume_from_checkpoint))
        else:
            self.hang_watchdog.at("while preparing the model", FIRST_STEP_SECONDS)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        loader = super().get_train_dataloader()
        loader.base_dataloader.worker_init_fn = deaf(loader.worker_init_fn)
        return loader

    def create_scheduler(self, *args, **kwargs):
        if is_on_meta(self.model):  # sharded by now, and its checkpoint not yet loaded
            names, is_resuming = self._optimized_names, self._is_resuming
            fill_shards(self.accelerator, self.model, self.optimizer, names, is_resuming)
        scheduler = super().create_scheduler(*args, **kwargs)
        self._settings = hyperparameters.settings_of(self.optimizer)  # before a checkpoint's come
        return scheduler

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        self._is_resuming = resume_from_checkpoint is not None
        given = None if self.is_deepspeed_enabled else resume_from_checkpoint
        prepared = super()._prepare_for_training(max_steps, train_dataloader, given)
        if self.is_deepspeed_enabled:
            zero.keep_hooks_from_compiling(self.deepspeed)
            zero.guard_engine(self.deepspeed, self.gradient_guard.judge)
            if resume_from_checkpoint:
                self._resume_zero(Path(resume_from_checkpoint))
        if resume_from_checkpoint and isinstance(self.lr_scheduler, LambdaLR):
            hyperparameters.put_back(self._settings, self.optimizer, self.lr_scheduler)
        if not self.is_deepspeed_enabled:
            guard_optimizer(self.optimizer, self.gradient_guard)
        check_sharding(self.accelerator, self.model_wrapped)
        keep_half_precision_logits(self.model)
        return prepared

    def _resume_zero(self, folder: Path) -> None:
        """Go on from a checkpoint of ZeRO, made by this number of processes or another."""
        zero.load_checkpoint(self.deepspeed, folder, Path(self.args.output_dir))
        self._load_optimizer_and_scheduler(str(folder))

    # ---- loss ------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean loss over the predicted tokens of the whole step, apart by kind on the side."""
        kinds = inputs.pop("kinds")
        if self.args.use_liger_kernel:
            return self._fused_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        sums, counts = self._loss_by_kind(outputs.logits, labels, kinds)
        self.loss_sums.add(sums, counts)
        loss = sums.sum() / (counts.sum() if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # undo the mean over ranks
        return (loss, outputs) if return_outputs else loss

    def _fused_loss(self, model, inputs, return_outputs, num_items_in_batch):
        """The loss of a kernel that gives only the mean; its sum counts as one kind of token."""
        counts = (inputs["labels"][..., 1:] != IGNORED).sum()
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mean, num_tokens = (result[0] if return_outputs else result).detach(), counts
        if num_items_in_batch is not None:
            num_tokens = num_items_in_batch / self.accelerator.num_processes
        is_first = torch.arange(NUM_LOSS_KINDS, device=mean.device) == 0
        self.loss_sums.add(mean.float() * num_tokens * is_first, counts * is_first)
        return result

    def _clip_grad_norm(self, model) -> torch.Tensor:
        gradients = self._gradients_on_cpu(model)
        if not gradients:
            return super()._clip_grad_norm(model)
        return gradient_norm.clip(gradients, self.args.max_grad_norm)

    def _gradients_on_cpu(self, model) -> list[torch.Tensor]:
        """Gradients whose norm is taken in float64; none on GPUs and under ZeRO, which clips."""
        if self.is_deepspeed_enabled:
            return []
        gradients = gradient_norm.gradients_on_cpu(model.parameters())
        if gradients:
            self.accelerator.unscale_gradients()  # of offloaded shards in fp16
        return gradients

    def _get_grad_norm(self, model, grad_norm=None) -> float:
        """The norm of the gradient; a step that the guard rejects ends here, before the optimizer.

        ZeRO has asked the guard already, at the engine's own step.
        """
        if grad_norm is None and (gradients := self._gradients_on_cpu(model)):
            grad_norm = gradient_norm.total_norm(gradients)
        norm, guard = super()._get_grad_norm(model, grad_norm), self.gradient_guard
        if self.is_deepspeed_enabled:
            _, sums = self.loss_sums.end_step(torch.zeros(()), self.accelerator.gather)
            if not guard.is_asked:
                guard.judge(math.inf)  # the scaler of fp16 dropped the step before it was judged
            guard.is_asked = False
        else:
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            norm, sums = self.loss_sums.end_step(norm, self.accelerator.gather)
            guard.judge(norm)
        if guard.was_skipped:
            self._tell_of_skipped_step()
        else:
            self.loss_sums.keep(sums)
        return guard.norm

    def _tell_of_skipped_step(self) -> None:
        """Say what was skipped, and end the run when that happens too often; on all ranks."""
        self._tr_loss.zero_()  # the Trainer's own sum would stay a NaN
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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            del logs["loss"]  # ours leaves skipped steps out
            logs |= self.loss_sums.read_window()
            logs["skipped_steps"] = self.gradient_guard.num_skipped
            logs |= self.throughput.read(self.state.global_step)
            logs |= self.data_seen.read(self.state.global_step)
        if "train_loss" in logs:
            logs["train_loss"] = self.loss_sums.mean_of_call()
        self._refuse_bad_numbers(logs)
        super().log(logs, start_time)

    def _refuse_bad_numbers(self, logs: dict[str, float]) -> None:
        """End a run that the guard could not save: its weights give losses that are no numbers."""
        losses = {name: value for name, value in logs.items() if name.endswith("loss")}
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            super().log(dict(logs))
            raise Refusal(
                f"{bad[0]} is {logs[bad[0]]} at step {self.state.global_step}: the weights are "
                f"lost. Start again from a checkpoint in {self.args.output_dir} with a lower "
                "--learning_rate."
            )

    # ---- held-out scores -------------------------------------------------------------------------

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Score held-out rows: bits per byte left-to-right, and of middles given both sides."""
        self.last_evaluated_step = self.state.global_step
        self.throughput.pause()
        self.hang_watchdog.feed(self.state)
        scored = {
            name: score_rows(
                self.model,
                rows,
                self.accelerator,
                self.data_collator,
                self.args.per_device_eval_batch_size,
                after_batch=partial(self.hang_watchdog.feed, self.state),
            )
            for name, rows in self.eval_dataset.items()
        }
        text, middles = scored["left_to_right"][LEFT_TO_RIGHT], scored["fim"][FIM_MIDDLE]
        names = [f"{metric_key_prefix}_{name}" for name in ("loss", "bits_per_byte")]
        names += [f"{metric_key_prefix}_middle_{name}" for name in ("loss", "bits_per_byte")]
        metrics = text.metrics(*names[:2]) | middles.metrics(*names[2:])
        self._tell_of_missing_scores([name for name in names if name not in metrics])
        self.throughput.go_on()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _tell_of_missing_scores(self, names: list[str]) -> None:
        """Say once why scores are not in the metrics: they are not zero, there are none."""
        if names and not self._has_told_of_missing_scores:
            self._has_told_of_missing_scores = True
            logger.warning(
                "%s cannot be scored: the held-out rows hold no such token (nor its bytes); raise "
                "--held_out_rows or hold more repositories out",
                ", ".join(names),
            )

    # ---- optimizer -------------------------------------------------------------------------------

    def get_decay_parameter_names(self, model) -> list[str]:
        names = super().get_decay_parameter_names(model)
        return [name for name in names if "embed" not in name]

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.args.use_muon:
            self.optimizer = make_muon(
                self.model if model is None else model,
                muon_learning_rate=self.args.muon_learning_rate,
                muon_weight_decay=self.args.muon_weight_decay,
                learning_rate=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                epsilon=self.args.adam_epsilon,
            )
        optimizer = super().create_optimizer(model)
        if is_on_meta(self.model):
            self._optimized_names = expect_shards(self.accelerator, self.model, optimizer)
        return optimizer

    # ---- checkpoints -----------------------------------------------------------------------------

    def _save_checkpoint(self, model, trial) -> None:
        """Save, then complete the checkpoint with its manifest once every rank has written."""
        self.throughput.pause()
        self.checkpoints.save(partial(super()._save_checkpoint, model, trial))
        self.throughput.go_on()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save whole weights; in a checkpoint of ZeRO-3 only where its configuration gathers them.

        The Trainer would write DeepSpeed's folder in their place, and in a checkpoint once more.
        """
        if _internal_call and self.is_deepspeed_enabled and not zero.gathers(self.deepspeed):
            return
        super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.checkpoints.stage(Path(output_dir)):
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None or random_state.fits(Path(checkpoint), self.args.world_size):
            super()._load_rng_state(checkpoint)
        else:
            random_state.restart(
                Path(checkpoint), self.args.seed, self.args.process_index, self.args.world_size
            )

    def export(self) -> Path:
        """Write the final model with its tokenizer to <run>/model; collective, all ranks call
        it."""
        self.hang_watchdog.at("while writing the model", LONG_SECONDS)
        folder = Path(self.args.output_dir) / checkpoint.FINAL_MODEL
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        if self.is_deepspeed_enabled:
            zero.gather_from_now_on(self.deepspeed)
        self.checkpoints.open_model(folder)
        with full_disk_shown(Path(self.args.output_dir)):
            self.save_model(str(folder))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            finish_model_folder(folder, self.tokenizer_folder)
        self.checkpoints.complete_model(folder)
        return folder


def keep_half_precision_logits(model: PreTrainedModel) -> None:
    """Take off the wrapper with which accelerate turns all outputs into float32.

    The loss casts the logits itself. A float32 copy of them costs B x T x V x 4 bytes (3.2 GB for
    16k tokens and 49,152 ids) and, measured on two cores with 4,096 ids, a sixth of the step.
    """
    converter = getattr(getattr(model.forward, "__func__", None), "__wrapped__", None)
    if isinstance(converter, ConvertOutputsToFp32):
        model.forward = MethodType(converter.model_forward, model)
