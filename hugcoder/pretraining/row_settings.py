"""Lists settings of the Trainer that pretraining fixes or restricts, because a plan makes the rows.

They are added to those of any run, `hugcoder.run.trainer_settings`.
"""

from typing import Any

from hugcoder.ranges import NOT_NEGATIVE, Range

BY_SUMS = "held-out scores are sums over rows, and nothing is gathered for them"
ONE_PASS = (
    "; the run is one pass over rows that are made for it, so an epoch would end with the run: "
    "set {} instead (below 1 = a share of the run)"
)

FIXED: dict[str, tuple[Any, str]] = {
    "data_seed": (None, "seed is the seed of the weights, the data order and the FIM draws"),
    "train_sampling_strategy": ("sequential", "the plan of the rows already shuffles"),
    "length_column_name": ("length", "rows are packed to one length"),
    "remove_unused_columns": (False, "position_ids keep packed documents apart"),
    "label_names": (None, "the labels of a row are its `labels`"),
    "dataloader_drop_last": (False, "the run is exactly as long as its rows"),
    "dataloader_in_order": (True, "the rows of a step may not depend on which worker is faster"),
    "dataloader_persistent_workers": (False, "workers live as long as the run, which is one pass"),
    "use_cache": (False, "a cache lets packed documents leak into each other"),
    "average_tokens_across_devices": (True, "a token's weight would depend on its process"),
    "label_smoothing_factor": (0.0, "losses would no longer be bits"),
    "include_num_input_tokens_seen": ("no", "train/tokens is always logged"),
    "bf16_full_eval": (False, "held-out rows are scored in the precision of the training"),
    "fp16_full_eval": (False, "held-out rows are scored in the precision of the training"),
    "prediction_loss_only": (False, BY_SUMS),
    "eval_do_concat_batches": (True, BY_SUMS),
    "eval_use_gather_object": (False, BY_SUMS),
    "eval_accumulation_steps": (None, BY_SUMS),
    "include_for_metrics": ([], BY_SUMS),
    "batch_eval_metrics": (False, BY_SUMS),
    "do_train": (False, "train.py trains"),
    "do_eval": (False, "eval_strategy says whether held-out rows are scored"),
    "do_predict": (False, "python -m evaluation scores a finished model"),
}
RANGES: dict[str, Range] = {
    "middle_weight": NOT_NEGATIVE,
    "suffix_loss_weight": NOT_NEGATIVE,
    "muon_learning_rate": NOT_NEGATIVE,
    "muon_weight_decay": NOT_NEGATIVE,
}
CHOICES: dict[str, tuple[tuple[str, ...], str]] = {
    "eval_strategy": (("steps", "no"), ONE_PASS.format("eval_steps")),
    "save_strategy": (("steps", "no"), ONE_PASS.format("save_steps")),
    "logging_strategy": (("steps", "no"), ONE_PASS.format("logging_steps")),
}
