"""Defines the settings of a pretraining run: three groups with their defaults and refusals.

ModelArguments say what is trained, DataArguments on what (and how it is cut, transformed and
packed), PretrainArguments how. `hugcoder.pretraining.argument_checks` compares the groups.
"""

from dataclasses import asdict, dataclass
from typing import Literal

from transformers import TrainingArguments

import fim
from hugcoder.engines.launched import launched_with
from hugcoder.pretraining import row_settings
from hugcoder.ranges import COUNT_OR_NONE, Range, check_ranges
from hugcoder.recipe import assignments
from hugcoder.refusal import Refusal
from hugcoder.run.arguments import RunArguments
from hugcoder.setting import with_help

LONGEST_ROW = 10**8
SHORTEST_ROW = 64  # room for sentinels, reserve and a line of code on each side of a middle


@dataclass
class ModelArguments:
    _argument_group_name = "model: what is trained"
    _replaces = (
        ("model_name_or_path", ("config_file", "residual_init", "copy_heads")),
        ("config_file", ("model_name_or_path",)),
    )

    config_file: str = with_help(
        "", "Train from random weights: a Hugging Face config.json, such as configs/models/1b.json."
    )
    model_name_or_path: str = with_help(
        "",
        "Continue pretraining instead: a run folder, its model/ or checkpoint-N, another model "
        "folder, or a hub name. Of config_file and this, the later counts.",
    )
    tokenizer: str = with_help(
        "", "Tokenizer folder; must be the token store's. Empty = the copy that the store keeps."
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = (
        with_help(
            "sdpa",
            "Attention kernel. sdpa runs everywhere but builds a row x row mask to keep packed "
            "documents apart; the flash kernels need no mask, so take them on GPUs (flash-attn).",
        )
    )
    residual_init: Literal["scaled", "zero", "normal"] = with_help(
        "scaled",
        "Initial weights that write into the residual stream: scaled = divided by sqrt(2 x "
        "layers), so that its variance does not grow with depth (GPT-2; not done twice if the "
        "model's class does it itself); zero = each layer starts as the identity (learns "
        "fastest in short runs); normal = as the model's class draws them.",
    )
    copy_heads: int = with_help(
        0,
        "Attention heads that copy from the context from the first step on (induction heads), "
        "which the quickstart's model else learns after a million tokens; 0 = none. For "
        "Llama-like models.",
    )

    def __post_init__(self) -> None:
        given = [name for name in ("config_file", "model_name_or_path") if getattr(self, name)]
        if len(given) != 1:
            raise Refusal(
                f"config_file {self.config_file!r} and model_name_or_path "
                f"{self.model_name_or_path!r} are given; give exactly one: --config_file to train "
                "from random weights, --model_name_or_path to continue."
            )
        for name, default in (("residual_init", "scaled"), ("copy_heads", 0)):
            if self.model_name_or_path and getattr(self, name) != default:
                raise Refusal(
                    f"{name} {getattr(self, name)} has no effect: the weights are those of "
                    f"model_name_or_path {self.model_name_or_path}; leave it out, or give its "
                    f"default {default}."
                )
        check_ranges(self, {"copy_heads": COUNT_OR_NONE})


@dataclass
class DataArguments:
    _argument_group_name = "data: on what, and how it is cut, transformed and packed"

    token_store: str = with_help(
        "", "Folder of the tokenized corpus, as `python -m data_prep tokenize` writes it."
    )
    max_seq_length: int = with_help(
        2048, "Tokens in a row; every row is packed full of whole documents and pieces of them."
    )
    fim_rate: float = with_help(
        0.5, "Share of pieces turned into fill-in-the-middle, 0 to 1; the rest stays left-to-right."
    )
    spm_rate: float = with_help(
        0.5, "Share of those in suffix-prefix-middle order; the rest is prefix-suffix-middle."
    )
    spm_variant: Literal[0, 1, 2] = with_help(
        0,
        "Order of suffix-prefix-middle: 1 = suffix, prefix, the middle's sentinel, middle (as in "
        "Mellum and llama.cpp's --spm-infill); 2 = the sentinel stands before the prefix (as in "
        "StarCoder and Code Llama); 0 = that of the model which is continued, else of its family, "
        "which is 2. The model's config.json keeps it.",
    )
    fim_spans: list[str] = with_help(
        [f"{kind}={share}" for kind, share in asdict(fim.SpanMix()).items()],
        "Weights of the kinds of middle that are drawn: random, short, line, empty, one_line, "
        "line_end (see fim.SpanMix).",
    )
    fim_healing: bool = with_help(
        False,
        "Spell prefix and middle as one text, and give the token before a cursor to the middle: "
        "generation and evaluation write it again (token healing), so a model should learn to.",
    )
    mixture: list[str] = with_help(
        [],
        "How often an epoch shows the documents of a language, source or repository, "
        "as in `markdown=0.3 sql=2 zod=3`. Names that are not given count 1; numbers for the "
        "same document multiply. If a name has several meanings, give `language/sql=2`, "
        "`source/sql=2` or `repository/sql=2`.",
    )
    held_out_rows: int = with_help(
        64,
        "Rows of held-out repositories scored in the training loop, once left-to-right and once "
        "fill-in-the-middle; 0 = none.",
    )

    held_out_holes: int = with_help(
        32,
        "Holes of each kind in held-out files that are scored then as well, and places without a "
        "hole: how probable the true middle and its end are; 0 = none.",
    )

    def __post_init__(self) -> None:
        if not self.token_store:
            raise Refusal("token_store is not given; give --token_store FOLDER to train on.")
        if self.max_seq_length < SHORTEST_ROW:
            raise Refusal(
                f"max_seq_length {self.max_seq_length} is too small for a fill-in-the-middle unit; "
                f"give at least {SHORTEST_ROW}."
            )
        check_ranges(
            self,
            {
                "max_seq_length": Range(SHORTEST_ROW, LONGEST_ROW, is_whole=True),
                "held_out_rows": COUNT_OR_NONE,
                "held_out_holes": COUNT_OR_NONE,
            },
        )
        self.mixture_weights = assignments(self.mixture, "--mixture")
        spans = assignments(self.fim_spans, "--fim_spans")
        unknown = sorted(set(spans) - set(fim.SpanMix.__dataclass_fields__))
        if unknown:
            kinds = ", ".join(fim.SpanMix.__dataclass_fields__)
            raise Refusal(f"fim_spans names {', '.join(unknown)}; there are {kinds}.")
        nothing = dict.fromkeys(fim.SpanMix.__dataclass_fields__, 0.0)
        self.fim_settings = fim.FimSettings(
            self.fim_rate, self.spm_rate, fim.SpanMix(**(nothing | spans)), self.fim_healing
        )


@dataclass
class PretrainArguments(RunArguments, TrainingArguments):
    _argument_group_name = "training: how"
    _replaces = (
        ("max_steps", ("num_train_epochs", "max_minutes", "speed_of")),
        ("num_train_epochs", ("max_steps", "max_minutes", "speed_of")),
        ("max_minutes", ("max_steps", "num_train_epochs")),
    )

    FIXED = RunArguments.FIXED | row_settings.FIXED
    RANGES = RunArguments.RANGES | row_settings.RANGES
    CHOICES = RunArguments.CHOICES | row_settings.CHOICES

    middle_weight: float = with_help(
        1.0,
        "How often the loss of a middle's tokens and of its end counts; that of all other tokens "
        "counts once.",
    )
    suffix_loss_weight: float = with_help(
        0.0,
        "Weight of an auxiliary loss on each token of a middle: to tell the first token of the "
        "suffix from others. A model that is trained from random weights learns by it to end a "
        "middle where the suffix goes on; 0 = none. Changes no weight's place or meaning.",
    )
    learning_rate: float = with_help(3e-4, "Peak learning rate of AdamW.")
    use_muon: bool = with_help(
        False,
        "Train the matrices inside the layers with torch.optim.Muon, the rest with AdamW. Learns "
        "more from each token; not with DeepSpeed, whose shards are flat.",
    )
    muon_learning_rate: float = with_help(0.02, "Peak learning rate of Muon.")
    muon_weight_decay: float = with_help(0.01, "Weight decay of Muon.")
    weight_decay: float = with_help(
        0.1, "Weight decay of AdamW on matrices; none on norms, biases and embeddings."
    )
    adam_beta1: float = with_help(0.9, "Decay of AdamW's first moment.")
    adam_beta2: float = with_help(0.95, "Decay of AdamW's second moment.")
    eval_strategy: str = with_help(
        "steps", "When held-out rows are scored: `steps`, and once more at the end, or `no`."
    )
    train_sampling_strategy: str = with_help("sequential", "Fixed: the plan of the rows shuffles.")
    remove_unused_columns: bool = with_help(False, "Fixed.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_liger_kernel and self.middle_weight != 1:
            raise Refusal(
                f"middle_weight {self.middle_weight:g} does not work with use_liger_kernel true, "
                "whose fused loss does not tell tokens apart; leave one of them out."
            )
        if self.use_liger_kernel and self.suffix_loss_weight:
            raise Refusal(
                f"suffix_loss_weight {self.suffix_loss_weight:g} does not work with "
                "use_liger_kernel true, whose fused loss does not tell tokens apart; leave one of "
                "them out."
            )
        if self.use_muon and launched_with("DEEPSPEED"):
            raise Refusal(
                "use_muon true does not work with DeepSpeed, which hands the optimizer flattened "
                "shards; choose configs/fsdp.yaml or configs/ddp.yaml, or give --use_muon false."
            )

    @property
    def has_one_learning_rate(self) -> bool:
        return not self.use_muon

    def idle_settings(self) -> list[tuple[str, str]]:
        if not self.use_muon:
            return super().idle_settings()
        return [
            *super().idle_settings(),
            ("optim", "use_muon is true, which uses Muon and AdamW"),
            ("weight_decay", "with use_muon only matrices decay, by muon_weight_decay"),
        ]
