"""Finds settings that do nothing because another setting switches them off."""

from typing import TYPE_CHECKING

from hugcoder.engines.launched import launched_processes
from hugcoder.ranges import plain_value
from hugcoder.run.optimizer_checks import MOMENTS, OPTIMIZERS
from hugcoder.run.tracker_checks import trackers_of

if TYPE_CHECKING:
    from transformers import TrainingArguments


def idle_settings(arguments: "TrainingArguments") -> list[tuple[str, str]]:
    """List settings that have no effect, each with the reason."""
    compiles = "torch_compile is not true"
    found = _idle_in_the_schedule(arguments)
    optim = plain_value(arguments.optim)
    if arguments.has_one_learning_rate:  # that of `optim`
        unread = [name for name in MOMENTS if name not in OPTIMIZERS[optim][0]]
        found += [(name, f"optim {optim} does not read it") for name in unread]
    if not arguments.torch_compile:
        found += [("torch_compile_mode", compiles), ("torch_compile_backend", compiles)]
    elif arguments.torch_compile_backend not in (None, "inductor"):
        found += [("torch_compile_mode", f"{arguments.torch_compile_backend} has no modes")]
    if not arguments.activation_checkpointing:
        for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
            found += [(name, "activation_checkpointing is not true")]
    if not arguments.fsdp:
        found += [("fsdp_config", "fsdp is not true")]
    if launched_processes() == 1:
        found += [("ddp_backend", "there is only one process")]
    if not arguments.dataloader_num_workers:
        for name in ("dataloader_prefetch_factor", "dataloader_multiprocessing_context"):
            found += [(name, "dataloader_num_workers is 0")]
    if plain_value(arguments.eval_strategy) == "no":
        found += [("eval_on_start", "eval_strategy is no")]
    if not {"trackio", "all"} & set(trackers_of(arguments)):
        of_trackio = ("project", "trackio_space_id", "trackio_bucket_id", "hub_private_repo")
        for name in (*of_trackio, "trackio_static_space_id"):
            found += [(name, "report_to does not name trackio")]
    return found


def _idle_in_the_schedule(arguments: "TrainingArguments") -> list[tuple[str, str]]:
    schedule, given = plain_value(arguments.lr_scheduler_type), arguments.lr_scheduler_kwargs or {}
    is_decaying = schedule == "warmup_stable_decay"
    reason = f"lr_scheduler_type is {schedule}" + (f" with {given}" if given else "")
    found = []
    if not is_decaying or "num_decay_steps" in given:
        found += [("decay_ratio", reason)]
    if not (is_decaying or schedule == "cosine") or {"min_lr_ratio", "min_lr_rate"} & set(given):
        found += [("min_lr_ratio", reason)]
    if schedule == "constant" and arguments.warmup_steps:
        found += [("warmup_steps", f"{reason}, not constant_with_warmup")]
    return found
