"""Lists settings of the transformers Trainer that have only one value in any run, and why.

`hugcoder.pretraining.row_settings` adds those of pretraining. tests/test_trainer_settings.py lists
the rest, which work: a setting that a new release of transformers adds must be sorted into one or
the other. `hugcoder.run.setting_checks` checks the values of the rest.
"""

from typing import Any

UPLOAD = "upload the finished model with `hf upload`, from the run's folder model"
ONE_FOLDER = "all processes share the run's folder, and the first writes what is for all"

# setting -> the only value, and why
FIXED: dict[str, tuple[Any, str]] = {
    "ignore_data_skip": (False, "resuming would train on the same rows again"),
    "auto_find_batch_size": (False, "the rows of a run depend on the batch size"),
    "liger_kernel_config": (None, "a model gets all the kernels there are for it"),
    "debug": ("", "the gradient guard reports norms that are not finite in skipped_steps.jsonl"),
    "logging_nan_inf_filter": (False, "a NaN must be seen"),
    "skip_memory_metrics": (True, "the memory is logged with the throughput"),
    "disable_tqdm": (None, "there is a line for each log event instead of a progress bar"),
    "save_only_model": (False, "a checkpoint holds all that resuming needs"),
    "save_on_each_node": (False, ONE_FOLDER),
    "load_best_model_at_end": (False, "a run's model is that of its last step"),
    "metric_for_best_model": (None, "a score must not decide which checkpoints are deleted"),
    "greater_is_better": (None, "a score must not decide which checkpoints are deleted"),
    "enable_jit_checkpoint": (False, "the processes agree on the step at which they stop"),
    "restore_callback_states_from_checkpoint": (False, "a stopped run would stop again at once"),
    "optim_target_modules": (None, "only low-rank optimizers read it, and there is none here"),
    "accelerator_config": (
        None,
        "its keys would cut, reorder or recount the rows of a step; non_blocking would only affect "
        "the copying of a few token ids",
    ),
    "parallelism_config": (None, "accelerate's YAML sets it, see configs/hsdp.yaml"),
    "ddp_static_graph": (None, "it would count the self-test before the first step as a step"),
    "deepspeed": (
        None,
        "the launcher chooses DeepSpeed: accelerate launch --config_file configs/deepspeed.yaml",
    ),
    "push_to_hub": (False, UPLOAD),
    "hub_token": (None, UPLOAD),
    "hub_model_id": (None, UPLOAD),
    "hub_strategy": ("every_save", UPLOAD),
    "hub_always_push": (False, UPLOAD),
    "hub_revision": (None, UPLOAD),
}
