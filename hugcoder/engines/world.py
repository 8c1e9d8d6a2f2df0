"""Checks that the processes, the engine and the sharding are those that were launched.

accelerate falls back without a warning: to one process, to ranks that do not synchronise their
gradients, to plain data parallelism in place of sharding. Three checks refuse that: `check_launch`
looks at what the launcher said, before anything is loaded; `check_world` at what accelerate made of
it; `check_sharding` at the model that will be trained.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, is_compiled_module
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hugcoder.engines.launched import ON, WORLD_SIZES, launched_processes, launched_with
from hugcoder.engines.zero import check_offload
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import TrainingArguments

# Parallelism that cuts rows or matrices: the variable of accelerate's YAML -> why it cannot work.
UNSUPPORTED_PARALLELISM = {
    "CP": "accelerate's context parallelism replaces the attention mask by a causal one over the "
    "whole row, so packed documents would see each other",
    "TP": "a model is split by its tensor plan only when its weights are loaded, not at random "
    "init; every process would train the whole model",
    "SP": "it replaces the loss and cuts rows over processes, while the loss by kind of token and "
    "the isolation self-test need whole rows",
}


# ---- what the launcher said ----------------------------------------------------------------------


def check_launch(arguments: TrainingArguments) -> None:
    """Refuse what the launcher asks for and would not get, or what contradicts the recipe."""
    _check_several_processes_were_started()
    _check_deepspeed_is_launched()
    _check_parallelism()
    _check_fsdp_is_said_once(arguments)
    _check_fsdp_version(arguments)
    _check_recomputing_is_the_recipes(arguments)
    _check_recipe_owns_the_numbers(arguments)
    check_offload()


def _check_several_processes_were_started() -> None:
    """Refuse one process in place of several: then accelerate's launcher sets MASTER_ADDR."""
    is_alone = not any(name in os.environ for name in WORLD_SIZES)
    if is_alone and "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ:
        raise Refusal(
            "accelerate was asked for several processes and started one (it starts several on CPUs "
            "only from distributed_type: MULTI_GPU, or with mpirun); take configs/ddp.yaml with "
            "--num_processes, or unset MASTER_ADDR if one process is what you want."
        )


def _check_deepspeed_is_launched() -> None:
    """Refuse missing variables, without which DeepSpeed expects MPI and imports mpi4py."""
    needed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in os.environ]
    if launched_with("DEEPSPEED") and missing and not find_spec("mpi4py"):
        raise Refusal(
            f"ACCELERATE_USE_DEEPSPEED is set, but not {', '.join(missing)}, which a launcher sets "
            "too: start with accelerate launch --config_file configs/deepspeed.yaml, also for one "
            "process, or unset it."
        )


def _check_parallelism() -> None:
    if not launched_with("PARALLELISM_CONFIG"):
        return
    for name, reason in UNSUPPORTED_PARALLELISM.items():
        size = int(os.environ.get(f"PARALLELISM_CONFIG_{name}_SIZE", "1"))
        if size > 1:
            raise Refusal(
                f"parallelism_config_{name.lower()}_size {size} is not possible, it must be 1: "
                f"{reason}. Shard with parallelism_config_dp_shard_size instead "
                "(configs/hsdp.yaml)."
            )


def _check_fsdp_is_said_once(arguments: TrainingArguments) -> None:
    """Refuse fsdp in both places: transformers' defaults would replace the YAML's values."""
    yaml_engine = next((engine for engine in ("FSDP", "DEEPSPEED") if launched_with(engine)), None)
    if arguments.fsdp and yaml_engine:
        raise Refusal(
            f"fsdp was given and accelerate's YAML already says {yaml_engine}; give one of them: "
            "leave fsdp out of the recipe and the flags, or start with torchrun."
        )


def _check_fsdp_version(arguments: TrainingArguments) -> None:
    """Refuse FSDP version 1, which accelerate takes when its YAML names no version."""
    version = os.environ.get("FSDP_VERSION", "1") if launched_with("FSDP") else "2"
    if arguments.fsdp:
        version = str(arguments.fsdp_config.get("version", 2))
    if version != "2":
        raise Refusal(
            f"this would be FSDP{version}, whose flat shards mix parameters; write "
            "fsdp_version: 2 into fsdp_config of the YAML (version: 2 in a recipe)."
        )


def _check_recomputing_is_the_recipes(arguments: TrainingArguments) -> None:
    """Refuse FSDP's own recomputation: it draws new random numbers, and only FSDP has it."""
    by_yaml = os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "") if launched_with("FSDP") else ""
    for name, value in ((arguments.fsdp_config or {}) if arguments.fsdp else {}).items():
        by_yaml = value if name.endswith("activation_checkpointing") else by_yaml
    if str(by_yaml).lower() in ON:
        raise Refusal(
            "fsdp_activation_checkpointing true is not taken: the recipe sets recomputation, the "
            "same for every engine. Leave it out of fsdp_config, and give "
            "--activation_checkpointing true."
        )


def _check_recipe_owns_the_numbers(arguments: TrainingArguments) -> None:
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    own = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no"
    if precision not in ("no", own):
        raise Refusal(
            f"accelerate was started with mixed_precision {precision}, but the recipe says {own}; "
            "precision belongs into the recipe (bf16: true): leave mixed_precision out of the YAML."
        )
    plugin = getattr(arguments, "deepspeed_plugin", None)
    for name in ("fp16", "bf16") if plugin else ():
        if plugin.deepspeed_config.get(name, {}).get("enabled") is True and name != own:
            raise Refusal(
                f"DeepSpeed's configuration says {name}, but the recipe says {own}; precision "
                f'belongs into the recipe ({name}: true): write "enabled": "auto" there.'
            )
    if plugin:
        _check_deepspeed_numbers(plugin.deepspeed_config, arguments)
    compiler = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if compiler.lower() != "no" and not arguments.torch_compile:
        raise Refusal(
            f"accelerate was started with dynamo_backend {compiler}, but the recipe does not "
            "compile; give --torch_compile true, or leave dynamo_config out of the YAML."
        )


def _check_deepspeed_numbers(config: dict[str, Any], arguments: TrainingArguments) -> None:
    """Refuse a DeepSpeed configuration that contradicts the recipe or would ignore it."""
    for section in ("optimizer", "scheduler"):
        if section in config:
            raise Refusal(
                f"DeepSpeed's configuration has a section {section}, which would replace the "
                "recipe's without a warning; take it out, and set it in the recipe."
            )
    if arguments.max_grad_norm and "gradient_clipping" not in config:
        raise Refusal(
            f"DeepSpeed's configuration has no gradient_clipping, so max_grad_norm "
            f"{arguments.max_grad_norm:g} would do nothing; write "
            '"gradient_clipping": "auto" there.'
        )
    own = {
        "gradient_clipping": arguments.max_grad_norm,
        "gradient_accumulation_steps": arguments.gradient_accumulation_steps,
        "train_micro_batch_size_per_gpu": arguments.per_device_train_batch_size,
        "train_batch_size": arguments.rows_per_step,  # of RunArguments
    }
    for name, value in own.items():
        if (found := config.get(name, "auto")) not in ("auto", value):
            raise Refusal(
                f"DeepSpeed's configuration says {name} {found}, but by the recipe it is {value}; "
                'the recipe says it: leave it out of the YAML, or write "auto" in its JSON file.'
            )


# ---- what accelerate made of it ------------------------------------------------------------------


def check_world(accelerator: Accelerator, arguments: TrainingArguments) -> None:
    """Check processes, backend and engine. Raises: Refusal when they are not as launched."""
    launched, joined = launched_processes(), accelerator.num_processes
    engine = accelerator.distributed_type
    if launched != joined or (launched > 1 and engine == DistributedType.NO):
        raise Refusal(
            f"{launched} processes were launched, but {joined} train together (engine "
            f"{engine.value}): their gradients would not be synchronised. Start them with "
            "accelerate launch or torchrun, one process a GPU."
        )
    if (arguments.fsdp or launched_with("FSDP")) and engine != DistributedType.FSDP:
        raise Refusal(
            f"fsdp was asked for, but the engine is {engine.value}: nothing would be sharded. "
            "Start it with torchrun or accelerate, without --use_cpu on a machine with GPUs; or "
            "take configs/ddp.yaml."
        )
    if launched_with("DEEPSPEED") and engine != DistributedType.DEEPSPEED:
        raise Refusal(
            f"DeepSpeed was asked for, but the engine is {engine.value}: nothing would be sharded. "
            "Start it with accelerate launch --config_file configs/deepspeed.yaml."
        )
    if joined > 1:
        _check_backend(accelerator.device.type)


def _check_backend(device: str) -> None:
    whole, wanted = torch.distributed.get_backend(), "gloo" if device == "cpu" else "nccl"
    by_device = dict(part.split(":") for part in whole.split(",") if ":" in part)
    backend = by_device.get(device, whole)  # "cuda:nccl,cpu:gloo" when shards are offloaded
    if device in ("cpu", "cuda") and backend not in (wanted, "mpi"):
        raise Refusal(
            f"the processes talk through {backend}, but train on {device}, where it must be "
            f"{wanted}; leave out --ddp_backend."
        )


# ---- the model that will be trained --------------------------------------------------------------


def check_sharding(accelerator: Accelerator, prepared: nn.Module) -> None:
    """Compare what each process holds of the prepared model with what the engine promises.

    Raises: Refusal naming both numbers, on all ranks alike. Works on all ranks.
    """
    engine, copies = accelerator.distributed_type, 1
    if accelerator.num_processes == 1:
        return
    if engine == DistributedType.DEEPSPEED:
        _check_zero(accelerator, prepared)
        return
    if engine != DistributedType.FSDP:
        inner = prepared._orig_mod if is_compiled_module(prepared) else prepared
        if not isinstance(inner, DistributedDataParallel):
            raise Refusal(
                f"the engine is {engine.value}, but the model is a bare {type(prepared).__name__}: "
                "its gradients would not be synchronised. Please report the launch command."
            )
        return
    if accelerator.parallelism_config is not None:
        copies = accelerator.parallelism_config.dp_replicate_size
    parameters = list(prepared.parameters())
    held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in parameters)
    _compare_held(accelerator, held, copies * sum(p.numel() for p in parameters))


def _check_zero(accelerator: Accelerator, prepared: nn.Module) -> None:
    from deepspeed.runtime.zero.partition_parameters import is_zero_param

    asked, stage = accelerator.deepspeed_plugin.zero_stage, prepared.zero_optimization_stage()
    if stage != asked:
        raise Refusal(f"ZeRO stage {asked} was asked for, but DeepSpeed runs stage {stage}.")
    if stage < 3:
        return
    parameters = list(prepared.module.parameters())
    whole = [p for p in parameters if not is_zero_param(p)]
    if whole:
        raise Refusal(
            f"ZeRO-3 was asked for, but {len(whole)} of {len(parameters)} parameters are whole on "
            "every process; set zero3_init_flag: true in the YAML."
        )
    held = sum(p.ds_tensor.ds_numel for p in parameters)
    padding = len(parameters) * accelerator.num_processes  # shards are rounded up
    _compare_held(accelerator, held, sum(p.ds_numel for p in parameters), padding)


def _compare_held(accelerator: Accelerator, held: int, expected: int, padding: int = 0) -> None:
    """Compare the elements that all processes hold together with those of the model."""
    total = int(accelerator.reduce(torch.tensor(held, device=accelerator.device)))
    if not expected <= total <= expected + padding:
        raise Refusal(
            f"the processes hold {total:,} parameters together, but {expected:,} were to be "
            f"sharded (engine {accelerator.distributed_type.value}): the model is not split as "
            "asked. Please report the launch command."
        )
