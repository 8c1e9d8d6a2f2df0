"""Writes a run's checkpoints, under FSDP2 in the background of the training.

The formats are the Trainer's, accelerate's and DeepSpeed's, so their own loading works. Adds what
they lack: every folder opens in other programs; a manifest completes it when all ranks have
written; an error on one rank ends all ranks; a thread writes sharded state from a copy in host
memory while the training continues. `hugcoder.run.checkpoint` chooses and deletes checkpoints.
"""

import copy
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed import checkpoint as sharded
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.fsdp import StateDictType
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer import SCHEDULER_NAME

from hugcoder.data.tokenizer_files import copy_tokenizer
from hugcoder.engines.collectives import cpu_group, gather, num_ranks, on_rank_0
from hugcoder.file_table import hash_files
from hugcoder.files import MANIFEST, full_disk_shown
from hugcoder.model import manifest
from hugcoder.model.folder import finish_model_folder
from hugcoder.model.manifest import MODEL_SHARDS, OPTIMIZER_SHARDS
from hugcoder.refusal import Refusal
from hugcoder.run import adapters, checkpoint, random_state
from hugcoder.run.callbacks.hang_watchdog import HangWatchdog
from hugcoder.run.export_weights import complete_model, weight_shapes
from hugcoder.run.material import Material

logger = logging.getLogger(__name__)

FEED_SECONDS = 30.0  # while a large checkpoint is written, the watchdog is fed this often
KEPT_LOG_LINES = 100  # in trainer_state.json, which would grow without end; see metrics.jsonl
UNSHARDED = {"NO", "MULTI_CPU", "MULTI_GPU"}  # engines whose checkpoints are interchangeable


class CheckpointSaver(TrainerCallback):
    """Saves the checkpoints of one trainer, at most one at a time in the background.

    As a callback, it notices at the end of a step that a checkpoint is written, and waits for the
    last one when training ends. All ranks make one and call its methods together.
    """

    def __init__(self, trainer: Trainer, material: Material, watchdog: HangWatchdog):
        self.trainer, self.material, self.hang_watchdog = trainer, material, watchdog
        self.run = Path(trainer.args.output_dir)
        self.expect_weights_of(trainer.model)
        # The thread and the training each have a group: a group's collectives must keep order.
        timeout = trainer.args.ddp_timeout
        self.group, self.thread_group = cpu_group(timeout), cpu_group(timeout)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.stagers: dict[str, DefaultStager] = {}
        self.staged: dict[str, Any] = {}
        self.pending: Future[None] | None = None

    def expect_weights_of(self, model: PreTrainedModel) -> None:
        """Expect the weights, or the adapters, of this model in the final model."""
        self.has_adapters = adapters.are_in(model)
        self.weights = (
            {name: tensor.shape for name, tensor in adapters.state_of(model).items()}
            if self.has_adapters
            else weight_shapes(model)
        )

    def check_resumable(self, folder: Path) -> None:
        """Check a checkpoint. Raises: Refusal when this engine or number of ranks cannot use it."""
        config, args = self.trainer.model.config, self.trainer.args
        engine = self.trainer.accelerator.distributed_type.value
        is_sharded = saves_shards(self.trainer)

        def check() -> None:
            check_engine(folder, engine, is_sharded)
            random_state.check_random_state(
                folder, config, args.world_size, args.neftune_noise_alpha
            )

        on_rank_0(check, self.group)

    # ---- saving ----------------------------------------------------------------------------------

    def save(self, write: Callable[[], None]) -> None:
        """Save a checkpoint of the current step; `write` is the Trainer's own saving."""
        trainer, start = self.trainer, time.perf_counter()
        self.finish()
        folder = self.run / f"checkpoint-{trainer.state.global_step}"
        trainer.state.log_history = trainer.state.log_history[-KEPT_LOG_LINES:]
        on_rank_0(lambda: checkpoint.make_empty_folder(folder), self.group)
        with self._failing_together(), full_disk_shown(self.run), rotation_held_off(trainer.args):
            write()
            if trainer.args.should_save:
                self._write_model_files(folder)
        facts, staged, self.staged = self.facts(manifest.CHECKPOINT), self.staged, {}
        if not staged:
            self._complete(folder, facts, self.group, start)
            return
        self.pending = self.thread.submit(self._write_shards, folder, staged, facts)
        if not trainer.args.async_save:
            self.finish()
        elif trainer.args.should_save:
            seconds = time.perf_counter() - start
            logger.info("%s is being written; training was paused for %.2f s", folder, seconds)

    def stage(self, folder: Path) -> bool:
        """Copy sharded state to host memory, to be written later; False if nothing is sharded.

        Replaces the Trainer's saving of the model, the optimizer and the schedule. The memory is
        kept for the next time, pinned if there is a GPU.
        """
        trainer = self.trainer
        if not saves_shards(trainer):
            return False
        if trainer.args.should_save:
            torch.save(trainer.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
        state_of = adapters.state_of if self.has_adapters else get_model_state_dict
        model = state_of(trainer.model)
        optimizer = get_optimizer_state_dict(trainer.model, trainer.optimizer)
        self.staged = {
            MODEL_SHARDS: self._copied("model", model),
            OPTIMIZER_SHARDS: self._copied("optimizer", optimizer),
        }
        return True

    def _copied(self, name: str, state: dict[str, Any]) -> dict[str, Any]:
        if name not in self.stagers:
            is_cuda = self.trainer.args.device.type == "cuda"
            options = StagingOptions(
                use_pinned_memory=is_cuda,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=is_cuda,
            )
            self.stagers[name] = DefaultStager(options)
        return self.stagers[name].stage({name: state})

    def _write_model_files(self, folder: Path) -> None:
        """Add what other programs need: config, generation config and tokenizer; on rank 0."""
        if self.has_adapters:
            copy_tokenizer(self.material.tokenizer, folder)
            return
        if not (folder / "config.json").is_file():
            trainer = self.trainer
            model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
            config = copy.deepcopy(model.config)
            config.architectures = [type(model).__name__.removeprefix("FSDP")]
            config.save_pretrained(folder)
            model.generation_config.save_pretrained(folder)
        finish_model_folder(folder, self.material.tokenizer)

    def facts(self, kind: str) -> dict[str, Any]:
        """Collect what the manifest says besides its files."""
        trainer, step = self.trainer, self.trainer.state.global_step
        return {
            "kind": kind,
            "step": step,
            **self.material.facts_at(step),
            "world_size": trainer.args.world_size,
            "engine": trainer.accelerator.distributed_type.value,
            "identity": self.material.identity,
        }

    # ---- completing ------------------------------------------------------------------------------

    def _write_shards(self, folder: Path, staged: dict[str, Any], facts: dict[str, Any]) -> None:
        """Write staged state and complete the checkpoint; runs in the thread, on all ranks.

        torch's async_save would write model and optimizer in two threads, whose collectives could
        cross on one group. Here one thread writes them in order, then hashes.
        """
        start = time.perf_counter()
        with full_disk_shown(self.run):
            for name, state in staged.items():
                (folder / name).mkdir(exist_ok=True)
                writer = sharded.FileSystemWriter(folder / name, per_thread_copy_ahead=0)
                try:
                    sharded.save(state, storage_writer=writer, process_group=self.thread_group)
                except CheckpointException as failure:  # a BaseException, the same on all ranks
                    raise plain_error(failure) from None
        self._complete(folder, facts, self.thread_group, start)

    def _complete(self, folder: Path, facts: dict[str, Any], group: Any, start: float) -> None:
        """Write the manifest when all ranks have written, then delete old checkpoints."""
        files = self._hash(folder, group)

        def write_manifest() -> None:
            manifest.complete(folder, facts, files)
            checkpoint.rotate(self.run, self.trainer.args.save_total_limit, folder)
            size = sum(of_file["bytes"] for of_file in files.values()) / 1e9
            seconds = time.perf_counter() - start
            logger.info("%s is complete: %.3f GB in %.1f s", folder, size, seconds)

        on_rank_0(write_manifest, group)

    def open_model(self, folder: Path) -> None:
        """Remove the manifest of a final model that will be written again."""
        self.finish()
        on_rank_0(lambda: (folder / MANIFEST).unlink(missing_ok=True), self.group)

    def complete_model(self, folder: Path) -> None:
        """Complete a final model: add what other programs need, and the manifest.

        Raises: Refusal, on all ranks, when the folder does not hold all weights.
        """
        on_rank_0(lambda: self._write_model_files(folder), self.group)
        files, facts = self._hash(folder, self.group), self.facts(manifest.MODEL)
        complete = adapters.complete if self.has_adapters else complete_model
        on_rank_0(lambda: complete(folder, self.weights, facts, files), self.group)

    def _hash(self, folder: Path, group: Any) -> dict[str, Any]:
        """Hash all files, each on the rank that wrote it (or rank 0)."""
        gather(None, None, group)  # waits until all ranks have written
        ranks, rank = num_ranks(group), self.trainer.args.process_index
        hashed, error = {}, None
        try:
            names = manifest.share_of(manifest.names_in(folder), rank, ranks)
            hashed = hash_files(folder, names)
        except OSError as found:
            error = found
        shares = gather(hashed, error, group)
        return {name: facts for share in shares for name, facts in share.items()}

    def finish(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises: OSError or RuntimeError, on all ranks, when the writing failed.
        """
        pending, self.pending = self.pending, None
        if pending is None:
            return
        while wait([pending], timeout=FEED_SECONDS).not_done:  # gloo's timeout ends a hang
            self.hang_watchdog.feed(self.trainer.state)
        pending.result()

    def on_step_end(self, args, state, control, **kwargs):
        """Ask whether all ranks have written; sends one number, and no device waits."""
        if self.pending is None:
            return
        is_done = torch.tensor(int(self.pending.done()))
        if self.group is not None:
            distributed.all_reduce(is_done, op=distributed.ReduceOp.MIN, group=self.group)
        if is_done:
            self.finish()

    def on_train_end(self, args, state, control, **kwargs):
        self.finish()

    @contextmanager
    def _failing_together(self) -> Iterator[None]:
        """Raise an OSError of one rank on all ranks, unless the writing has collectives itself."""
        error = None
        try:
            yield
        except OSError as found:
            if not writes_alone(self.trainer):
                raise
            error = found
        if writes_alone(self.trainer):
            gather(None, error, self.group)


def check_engine(folder: Path, now: str, is_sharded: bool) -> None:
    """Check a checkpoint's engine. Raises: Refusal when this engine cannot read its state."""
    then = manifest.manifest_of(folder)["engine"]
    if then != now and not {then, now} <= UNSHARDED:
        raise Refusal(
            f"{folder} was written by the engine {then} and this is {now}, which cannot read its "
            f"state; start it with the same engine{_how_to_start(then)}, or begin a new run from "
            f"its weights: python export.py {folder} --output_dir FOLDER, then "
            "--model_name_or_path FOLDER."
        )
    if now == "FSDP" and is_sharded != (folder / MODEL_SHARDS).is_dir():
        this, that = ("SHARDED", "FULL") if is_sharded else ("FULL", "SHARDED")
        raise Refusal(
            f"{folder} was written with fsdp_state_dict_type {that}_STATE_DICT and this is "
            f"{this}_STATE_DICT, which reads other files; set it to {that}_STATE_DICT again."
        )


def _how_to_start(engine: str) -> str:
    """Say how a sharding engine is started, also in one process."""
    if engine == "FSDP":
        how = "torchrun --nproc_per_node 1 train.py RECIPE.yaml configs/recipes/fsdp.yaml"
    elif engine == "DEEPSPEED":
        how = "accelerate launch --config_file configs/deepspeed.yaml --num_processes 1 train.py"
    else:
        return ""
    return f" ({how} ..., also in one process)"


def saves_shards(trainer: Trainer) -> bool:
    """Tell whether the engine is FSDP with a checkpoint file for each rank."""
    if not trainer.is_fsdp_enabled:
        return False
    kind = trainer.accelerator.state.fsdp_plugin.state_dict_type
    return kind == StateDictType.SHARDED_STATE_DICT


def writes_alone(trainer: Trainer) -> bool:
    """Tell whether no rank waits for another while the Trainer writes a checkpoint."""
    return saves_shards(trainer) or not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


@contextmanager
def rotation_held_off(arguments) -> Iterator[None]:
    """Keep the Trainer from deleting: it counts torn checkpoints, and deletes too early."""
    limit, arguments.save_total_limit = arguments.save_total_limit, None
    try:
        yield
    finally:
        arguments.save_total_limit = limit


def plain_error(failure: CheckpointException) -> Exception:
    """Return the first rank's error in torch's; an OSError comes before any other."""
    errors = [error for _, (error, _) in sorted(failure.failures.items())]
    for error in errors:
        if isinstance(error, OSError):
            return error
    return RuntimeError(f"the checkpoint could not be written: {errors[0]}")
