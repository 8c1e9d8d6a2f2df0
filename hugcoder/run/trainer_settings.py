"""Every setting that the transformers Trainer has, sorted: it has its effect here, or one value.

FIXED says which have one value only in any run, and why; `hugcoder.pretraining.row_settings` adds
those of pretraining, and WORKS names the rest. A test holds them together against the release of
transformers, so that a new setting is sorted before it can be given. What values the rest may have
is `hugcoder.run.setting_checks`.
"""

from typing import Any

UPLOAD = "upload the finished model with `hf upload`, from the run's folder model"
ONE_FOLDER = "all processes share the run's folder, and the first writes what is for all"

# setting -> the only value, and why
FIXED: dict[str, tuple[Any, str]] = {
    "ignore_data_skip": (False, "resuming would train on the same rows again"),
    "auto_find_batch_size": (False, "the rows of a run depend on the batch size"),
    "liger_kernel_config": (None, "a model gets all the kernels there are for it"),
    "debug": ("", "the gradient guard tells of what is no number, in skipped_steps.jsonl"),
    "logging_nan_inf_filter": (False, "a NaN must be seen"),
    "skip_memory_metrics": (True, "the memory is logged with the throughput"),
    "disable_tqdm": (None, "there is a line for each log event in place of a progress bar"),
    "save_only_model": (False, "a checkpoint holds all that going on needs"),
    "save_on_each_node": (False, ONE_FOLDER),
    "load_best_model_at_end": (False, "a run's model is that of its last step"),
    "metric_for_best_model": (None, "a score must not decide which checkpoints are deleted"),
    "greater_is_better": (None, "a score must not decide which checkpoints are deleted"),
    "enable_jit_checkpoint": (False, "here the processes agree on the step they stop at"),
    "restore_callback_states_from_checkpoint": (False, "a stopped run would stop again at once"),
    "optim_target_modules": (None, "only low-rank optimizers read it, and there is none here"),
    "accelerator_config": (
        None,
        "its keys would cut or reorder the rows of a step or count them anew; non_blocking would "
        "touch no more than the copying of a few token ids",
    ),
    "parallelism_config": (None, "accelerate's YAML says it, see configs/hsdp.yaml"),
    "ddp_static_graph": (None, "it would take the self-test before the first step for a step"),
    "deepspeed": (
        None,
        "DeepSpeed is chosen where the run is started: accelerate launch --config_file "
        "configs/deepspeed.yaml",
    ),
    "push_to_hub": (False, UPLOAD),
    "hub_token": (None, UPLOAD),
    "hub_model_id": (None, UPLOAD),
    "hub_strategy": ("every_save", UPLOAD),
    "hub_always_push": (False, UPLOAD),
    "hub_revision": (None, UPLOAD),
}

WORKS = frozenset(
    {
        # the run, its length and its batches
        "output_dir",
        "max_steps",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "seed",
        "full_determinism",
        "resume_from_checkpoint",
        # the optimizer and its schedule
        "learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "optim",
        "optim_args",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        # the model in training
        "bf16",
        "fp16",
        "tf32",
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "gradient_checkpointing",  # transformers' older names of the two above
        "gradient_checkpointing_kwargs",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "use_liger_kernel",
        "neftune_noise_alpha",
        "torch_empty_cache_steps",
        # logging
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "hub_private_repo",  # of trackio's space
        # scoring and saving
        "eval_strategy",
        "eval_steps",
        "eval_delay",
        "eval_on_start",
        "per_device_eval_batch_size",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        # processes and devices
        "use_cpu",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "dataloader_multiprocessing_context",
        "ddp_find_unused_parameters",
        "ddp_bucket_cap_mb",
        "ddp_broadcast_buffers",
        "ddp_backend",
        "ddp_timeout",
        "fsdp",
        "fsdp_config",
        "local_rank",  # what an old launcher adds, compared with what it says in LOCAL_RANK
    }
)
