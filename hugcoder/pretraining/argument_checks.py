"""Checks arguments across the three groups, whose values may contradict each other.

Also logs settings that were changed or have no effect. `hugcoder.pretraining.arguments` holds the
groups and the checks within each.
"""

import importlib.util
import logging
from pathlib import Path

from hugcoder import hardware
from hugcoder.engines.launched import is_launched, launched_rank
from hugcoder.generation.loading import find_checkpoint
from hugcoder.pretraining.arguments import DataArguments, ModelArguments, PretrainArguments
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)


def check_arguments(
    model: ModelArguments, data: DataArguments, training: PretrainArguments
) -> None:
    """Refuse contradictions across groups, before anything is loaded."""
    if model.config_file and not Path(model.config_file).is_file():
        raise Refusal(
            f"config_file {model.config_file} does not exist; configs/models holds some to start "
            "from."
        )
    if model.model_name_or_path:
        found = find_checkpoint(model.model_name_or_path)
        model.model_name_or_path = str(found or model.model_name_or_path)
    if model.attn_implementation.startswith("flash") and training.use_cpu:
        raise Refusal(
            f"attn_implementation {model.attn_implementation} needs a GPU and there is none; give "
            "--attn_implementation sdpa."
        )
    if training.use_liger_kernel and training.use_cpu:
        raise Refusal(
            "use_liger_kernel true needs a GPU and there is none; give --use_liger_kernel false."
        )
    if training.use_liger_kernel and not importlib.util.find_spec("liger_kernel"):
        raise Refusal(
            "use_liger_kernel true needs liger-kernel, which is not installed "
            "(requirements-gpu.txt); install it, or give --use_liger_kernel false."
        )
    is_bf16_on_cpu = training.bf16 and training.use_cpu
    if is_bf16_on_cpu and not hardware.processor_has_bf16() and launched_rank() == 0:
        logger.warning(
            "this processor has no bf16 instructions: bf16 true is emulated, at best as fast as "
            "float32 and many times slower without AVX-512; --bf16 false trains in float32"
        )
    if training.fsdp and not is_launched():
        raise Refusal(
            "fsdp was asked for, but this is one process and there is nothing to shard over; start "
            "it with torchrun or accelerate, one process a GPU (torchrun --nproc_per_node 1 to "
            "resume an FSDP checkpoint in one process), or leave fsdp out."
        )
    _check_shared_memory(data, training)
    if data.held_out_rows == 0 and training.eval_on_start:
        raise Refusal("eval_on_start true needs held-out rows, but held_out_rows is 0; give some.")
    if data.held_out_rows == 0 and training.eval_strategy != "no":
        training.eval_strategy = type(training.eval_strategy)("no")
    if launched_rank() == 0:
        if training.suffix_loss_weight and not data.fim_rate:
            logger.warning(
                "suffix_loss_weight %g has no effect: fim_rate is 0, so no row has a suffix",
                training.suffix_loss_weight,
            )
        _tell_of_settings(training)


def _check_shared_memory(data: DataArguments, training: PretrainArguments) -> None:
    """Refuse too little shared memory, as in containers: a worker would die of a bus error."""
    free = hardware.shared_memory_free()
    if not training.dataloader_num_workers or free is None:
        return
    # Each worker keeps its prefetched batches and one that it makes; input_ids, labels,
    # position_ids and kinds have 8 bytes a token each.
    workers = training.dataloader_num_workers
    tokens = training.per_device_train_batch_size * data.max_seq_length
    needed = workers * ((training.dataloader_prefetch_factor or 2) + 1) * tokens * 4 * 8
    if free < needed:
        raise Refusal(
            f"{hardware.SHARED_MEMORY} has {free:,} bytes free, but {workers} data workers need up "
            f"to {needed:,}; make it larger (docker run --shm-size 1g), or give "
            "--dataloader_num_workers 0."
        )


def _tell_of_settings(training: PretrainArguments) -> None:
    """Log settings that were changed or have no effect."""
    rows, allowed = training.per_device_train_batch_size, training.rows_allowed
    if rows != allowed:
        logger.info(
            "a device takes %s rows at a time, not %s (per_device_train_batch_size): its whole "
            "share of global_batch_size %s is not more",
            rows,
            allowed,
            training.global_batch_size,
        )
    for name in ("muon_learning_rate", "muon_weight_decay"):
        value = getattr(training, name)
        if not training.use_muon and value != PretrainArguments.__dataclass_fields__[name].default:
            logger.warning("%s %s has no effect: use_muon is not true", name, value)
