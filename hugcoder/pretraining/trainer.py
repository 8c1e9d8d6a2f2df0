"""Trains on packed FIM rows; holds what no callback can do.

Adds the loss by kind of token, the isolation self-test before step 1, held-out scores in bits per
byte, Muon, and models that get their weights after sharding. `hugcoder.run.durable_trainer` makes
runs last; the Trainer does the rest.
"""

import logging
from functools import partial
from types import MethodType

import torch
from accelerate.utils.operations import ConvertOutputsToFp32
from transformers import PreTrainedModel

from hugcoder.data.batch import PackedCollator
from hugcoder.data.rows import FIM_MIDDLE, IGNORED, LEFT_TO_RIGHT, NUM_LOSS_KINDS, PackedRows
from hugcoder.model.random_init import expect_shards, fill_shards, is_on_meta
from hugcoder.model.size import ModelSize
from hugcoder.pretraining.arguments import PretrainArguments
from hugcoder.pretraining.data_seen import DataSeen
from hugcoder.pretraining.held_out import score_rows
from hugcoder.pretraining.held_out_holes import HoleRows, score_holes
from hugcoder.pretraining.isolation_proof import IsolationProof
from hugcoder.pretraining.loss import loss_by_kind
from hugcoder.pretraining.optimizer import make_muon
from hugcoder.pretraining.suffix_loss import suffix_loss
from hugcoder.run.callbacks.hang_watchdog import HangWatchdog
from hugcoder.run.callbacks.throughput import Throughput
from hugcoder.run.durable_trainer import DurableTrainer
from hugcoder.run.loss_sums import LossSums
from hugcoder.run.material import Material

logger = logging.getLogger(__name__)

LOSS_NAMES = {LEFT_TO_RIGHT: "loss_ar", FIM_MIDDLE: "loss_middle"}
SUFFIX = NUM_LOSS_KINDS  # the place of the suffix loss in the sums, where there is one


class PretrainTrainer(DurableTrainer):
    """Trains on packed FIM rows.

    Args:
        held_out: rows of held-out repositories, `left_to_right` and `fim`; empty = not scored.
        holes: in held-out files, scored with them; None = not scored.
        material, watchdog: see DurableTrainer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: PretrainArguments,
        rows: PackedRows,
        held_out: dict[str, PackedRows],
        holes: HoleRows | None,
        size: ModelSize,
        material: Material,
        watchdog: HangWatchdog | None = None,
    ):
        is_flash = model.config._attn_implementation.startswith("flash")
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=held_out or None,
            data_collator=PackedCollator(is_flash),
            material=material,
            watchdog=watchdog,
        )
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole step
        self.holes = holes
        self.suffix_sentinel = rows.codec.fim_ids.sentinels["s"]
        tokens_per_step = rows.tokens_in(args.rows_per_step)
        self.throughput = Throughput(tokens_per_step, size.flops_per_token, args.world_size)
        self.data_seen = DataSeen(rows, args.rows_per_step)
        self._loss_by_kind = loss_by_kind
        if args.torch_compile:
            self._loss_by_kind = torch.compile(loss_by_kind, backend=args.torch_compile_backend)
        self._has_told_of_missing_scores = False
        self.add_callback(self.throughput)
        self.add_callback(self.data_seen)
        self.add_callback(IsolationProof(self))
        if args.use_liger_kernel:
            logger.warning(
                "use_liger_kernel fuses the loss into the output layer: train/loss_ar and "
                "train/loss_middle are not logged (held-out scores still tell them apart)"
            )

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        self._is_resuming = resume_from_checkpoint is not None
        prepared = super()._prepare_for_training(
            max_steps, train_dataloader, resume_from_checkpoint
        )
        keep_half_precision_logits(self.model)
        return prepared

    # ---- loss ------------------------------------------------------------------------------------

    def new_loss_sums(self) -> LossSums:
        if self.args.suffix_loss_weight:
            names = LOSS_NAMES | {SUFFIX: "loss_suffix"}
            return LossSums(self.args.device, NUM_LOSS_KINDS + 1, names, apart=[SUFFIX])
        names = {} if self.args.use_liger_kernel else LOSS_NAMES
        return LossSums(self.args.device, NUM_LOSS_KINDS, names)

    def count_loss(self, loss: torch.Tensor) -> None:
        """Do nothing: compute_loss has counted the loss already, by kind of token."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the mean loss over the step's predicted tokens; also count it by kind.

        middle_weight counts middles more often in what is returned, not in what is logged; the
        suffix loss is added to what is returned, and logged apart.
        """
        kinds = inputs.pop("kinds")
        if self.args.use_liger_kernel:
            return self._fused_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        weight = self.args.suffix_loss_weight
        outputs = model(**inputs, **({"output_hidden_states": True} if weight else {}))
        sums, counts = self._loss_by_kind(outputs.logits, labels, kinds)
        total = sums.sum() + (self.args.middle_weight - 1) * sums[FIM_MIDDLE]
        predicted = counts.sum() if num_items_in_batch is None else num_items_in_batch
        if weight:
            ids, positions = inputs["input_ids"], inputs["position_ids"]
            found = suffix_loss(outputs.hidden_states, ids, positions, kinds, self.suffix_sentinel)
            total = total + weight * found[0]
            sums, counts = torch.cat([sums, found[:1]]), torch.cat([counts, found[1:]])
        self.loss_sums.add(sums, counts)
        loss = total / predicted
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # undo the mean over ranks
        return (loss, outputs) if return_outputs else loss

    def _fused_loss(self, model, inputs, return_outputs, num_items_in_batch):
        """Return the loss of a kernel that gives only the mean; count it as one kind of token."""
        counts = (inputs["labels"][..., 1:] != IGNORED).sum()
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mean, num_tokens = (result[0] if return_outputs else result).detach(), counts
        if num_items_in_batch is not None:
            num_tokens = num_items_in_batch / self.accelerator.num_processes
        is_first = torch.arange(NUM_LOSS_KINDS, device=mean.device) == 0
        self.loss_sums.add(mean.float() * num_tokens * is_first, counts * is_first)
        return result

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            logs |= self.throughput.read(self.state.global_step)
            logs |= self.data_seen.read(self.state.global_step)
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, model, trial) -> None:
        self.throughput.pause()
        super()._save_checkpoint(model, trial)
        self.throughput.go_on()

    # ---- held-out scores -------------------------------------------------------------------------

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Score held-out rows in bits per byte: left-to-right, and middles given both sides.

        Then score filling in, see `hugcoder.pretraining.held_out_holes`.
        """
        self.last_evaluated_step = self.state.global_step
        self.throughput.pause()
        self.hang_watchdog.feed(self.state)
        settings = (self.accelerator, self.data_collator, self.args.per_device_eval_batch_size)
        feed = partial(self.hang_watchdog.feed, self.state)
        scored = {
            name: score_rows(self.model, rows, *settings, after_batch=feed)
            for name, rows in self.eval_dataset.items()
        }
        text, middles = scored["left_to_right"][LEFT_TO_RIGHT], scored["fim"][FIM_MIDDLE]
        names = [f"{metric_key_prefix}_{name}" for name in ("loss", "bits_per_byte")]
        names += [f"{metric_key_prefix}_middle_{name}" for name in ("loss", "bits_per_byte")]
        metrics = text.metrics(*names[:2]) | middles.metrics(*names[2:])
        self._tell_of_missing_scores([name for name in names if name not in metrics])
        if self.holes:
            filled = score_holes(self.model, self.holes, *settings, after_batch=feed)
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in filled.items()}
        self.throughput.go_on()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _tell_of_missing_scores(self, names: list[str]) -> None:
        """Warn once of scores that are not in the metrics because they do not exist."""
        if names and not self._has_told_of_missing_scores:
            self._has_told_of_missing_scores = True
            logger.warning(
                "%s cannot be scored: the held-out rows have no such tokens, or tokens without "
                "bytes; raise --held_out_rows, or hold out more repositories",
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

    def create_scheduler(self, *args, **kwargs):
        if is_on_meta(self.model):  # now it is sharded, and its checkpoint is not yet loaded
            names, is_resuming = self._optimized_names, self._is_resuming
            fill_shards(self.accelerator, self.model, self.optimizer, names, is_resuming)
        return super().create_scheduler(*args, **kwargs)


def keep_half_precision_logits(model: PreTrainedModel) -> None:
    """Remove accelerate's wrapper that turns all outputs into float32.

    The loss casts the logits itself. A float32 copy of them costs B x T x V x 4 bytes (3.2 GB for
    16k tokens and 49,152 ids) and, measured on two cores with 4,096 ids, a sixth of the step.
    """
    converter = getattr(getattr(model.forward, "__func__", None), "__wrapped__", None)
    if isinstance(converter, ConvertOutputsToFp32):
        model.forward = MethodType(converter.model_forward, model)
