"""What a pretraining run can be told: three dataclass groups, their defaults and their refusals.

ModelArguments say what is trained, DataArguments on what and how it is cut, transformed and packed,
PretrainArguments how (a subclass of transformers.TrainingArguments with the defaults of code
pretraining). What only shows across the groups is `hugcoder.pretraining.argument_checks`'. No GPU
is touched here.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

import fim
from hugcoder import hardware
from hugcoder.engines.cpu_engines import prepare_cpu_engines
from hugcoder.engines.hybrid import settle_copies
from hugcoder.engines.launched import launched_processes, launched_rank, uses
from hugcoder.ranges import COUNT_OR_NONE, Range, check_ranges
from hugcoder.recipe import assignments
from hugcoder.refusal import Refusal
from hugcoder.run.batch_size import rows_at_a_time
from hugcoder.run.callbacks.hang_watchdog import HangWatchdog
from hugcoder.run.schedule import check_schedule, settle_intervals, settle_schedule
from hugcoder.run.setting_checks import check_settings

MOST_STEPS = 10**9
LONGEST_ROW = 10**8
SHORTEST_ROW = 64  # sentinels, reserve and still a line of code on either side of a middle


def _field(default, text: str):
    return field(default=default, metadata={"help": text})


@contextmanager
def _without_advice() -> Iterator[None]:
    """Hold back what transformers says of FSDP1, which alone gathers a recomputed layer twice."""

    def is_other(record: logging.LogRecord) -> bool:
        return "redundant AllGather" not in record.getMessage()

    advisor = logging.getLogger("transformers.training_args")
    advisor.addFilter(is_other)
    try:
        yield
    finally:
        advisor.removeFilter(is_other)


@dataclass
class ModelArguments:
    _argument_group_name = "model: what is trained"
    _replaces = (
        ("model_name_or_path", ("config_file", "residual_init")),
        ("config_file", ("model_name_or_path",)),
    )

    config_file: str = _field(
        "", "Train from random weights: a Hugging Face config.json, such as configs/models/1b.json."
    )
    model_name_or_path: str = _field(
        "",
        "Continue pretraining instead: a run folder, its model/ or checkpoint-N, another folder of "
        "a model, or the name of one on the hub. Of config_file and this, the later counts.",
    )
    tokenizer: str = _field(
        "", "Tokenizer folder; must be the token store's. Empty = the copy that the store keeps."
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = (
        _field(
            "sdpa",
            "Attention kernel. sdpa runs everywhere but builds a row x row mask to keep packed "
            "documents apart; the flash kernels do not, and are the choice on GPUs (flash-attn).",
        )
    )
    residual_init: Literal["scaled", "zero", "normal"] = _field(
        "scaled",
        "Initial weights that write into the residual stream: scaled = divided by sqrt(2 x "
        "layers), so that its variance does not grow with depth (GPT-2; where the model's class "
        "does that itself, it is done once); zero = each layer starts as the identity (learns "
        "fastest in short runs); normal = as the model's class draws them.",
    )

    def __post_init__(self) -> None:
        given = [name for name in ("config_file", "model_name_or_path") if getattr(self, name)]
        if len(given) != 1:
            raise Refusal(
                f"config_file {self.config_file!r} and model_name_or_path "
                f"{self.model_name_or_path!r} are given; give exactly one: --config_file to train "
                "from random weights, --model_name_or_path to continue."
            )
        if self.model_name_or_path and self.residual_init != "scaled":
            raise Refusal(
                f"residual_init {self.residual_init} has no effect: the weights are those of "
                f"model_name_or_path {self.model_name_or_path}; leave it out, or give its default "
                "scaled."
            )


@dataclass
class DataArguments:
    _argument_group_name = "data: on what, and how it is cut, transformed and packed"

    token_store: str = _field(
        "", "Folder of the tokenized corpus, as `python -m data_prep tokenize` writes it."
    )
    max_seq_length: int = _field(
        2048, "Tokens in a row; every row is packed full of whole documents and pieces of them."
    )
    fim_rate: float = _field(
        0.5, "Share of pieces turned into fill-in-the-middle, 0 to 1; the rest stays left-to-right."
    )
    spm_rate: float = _field(
        0.5, "Share of those in suffix-prefix-middle order; the rest is prefix-suffix-middle."
    )
    fim_spans: list[str] = field(
        default_factory=lambda: [
            f"{kind}={share}" for kind, share in asdict(fim.SpanMix()).items()
        ],
        metadata={
            "help": "Weights of the kinds of middle that are drawn: random, short, line, empty."
        },
    )
    mixture: list[str] = field(
        default_factory=list,
        metadata={
            "help": "How often an epoch shows the documents of a language, source or repository, "
            "as in `markdown=0.3 sql=2 zod=3`; what is not named counts 1, what is said of one "
            "document multiplies. Where a name is several, say `language/sql=2`, `source/sql=2` or "
            "`repository/sql=2`."
        },
    )
    held_out_rows: int = _field(
        64,
        "Rows of held-out repositories scored in the training loop, once left-to-right and once "
        "fill-in-the-middle; 0 = none.",
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
            self.fim_rate, self.spm_rate, fim.SpanMix(**(nothing | spans))
        )


@dataclass
class PretrainArguments(TrainingArguments):
    _argument_group_name = "training: how"
    _replaces = (("max_steps", ("num_train_epochs",)), ("num_train_epochs", ("max_steps",)))

    output_dir: str = _field("", "Folder of the run. A run that was interrupted in it goes on.")
    max_steps: int = _field(
        -1, "Optimizer steps of the run; -1 = num_train_epochs over the corpus."
    )
    num_train_epochs: float | None = _field(
        None, "Passes over the corpus, in place of max_steps (the later counts); not given = 1."
    )
    per_device_train_batch_size: int = _field(
        8, "Rows a device takes at a time, at most; less where its share of a step is less."
    )
    gradient_accumulation_steps: int = _field(
        1,
        "Batches a device adds up for a step: devices x rows x this x max_seq_length = tokens.",
    )
    global_batch_size: int = _field(
        0,
        "Rows of one step over all devices; sets gradient_accumulation_steps, so that the run is "
        "the same on any number of devices. 0 = devices x rows x accumulation.",
    )
    learning_rate: float = _field(3e-4, "Peak learning rate of AdamW.")
    use_muon: bool = _field(
        False,
        "Train the matrices inside the layers with torch.optim.Muon, the rest with AdamW. Learns "
        "more "
        "from each token; not with DeepSpeed, whose shards are flat.",
    )
    muon_learning_rate: float = _field(0.02, "Peak learning rate of Muon.")
    muon_weight_decay: float = _field(0.01, "Weight decay of Muon.")
    lr_scheduler_type: SchedulerType | str = _field(
        "warmup_stable_decay",
        "Shape of the learning rate; `warmup_stable_decay` and `cosine` follow the two ratios "
        "below.",
    )
    warmup_steps: float = _field(0.01, "Steps of linear warm-up; below 1 = share of all steps.")
    decay_ratio: float = _field(
        0.2, "Share of all steps over which warmup_stable_decay falls, linearly, at the end."
    )
    min_lr_ratio: float = _field(0.0, "Final learning rate as a share of the peak.")
    weight_decay: float = _field(
        0.1, "Weight decay of AdamW on matrices; none on norms, biases and embeddings."
    )
    adam_beta1: float = _field(0.9, "Decay of AdamW's first moment.")
    adam_beta2: float = _field(0.95, "Decay of AdamW's second moment.")
    activation_checkpointing: bool | None = _field(
        None,
        "Keep only what goes into each layer and compute the rest again in the backward pass, the "
        "same under every engine: 2 bytes x hidden_size are left of a token and layer in bf16, and "
        "a step computes a third more.",
    )
    max_grad_norm: float = _field(
        1.0, "Gradients with a larger norm are scaled down to it; 0 = never."
    )
    seed: int = _field(42, "Of the weights, of the data order and of every FIM draw.")
    logging_steps: float = _field(10, "Steps between log lines.")
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={
            "help": "Trackers that get every log event beside metrics.jsonl, as in `wandb "
            "tensorboard`; all = those that are installed, none."
        },
    )
    eval_strategy: str = _field(
        "steps", "When held-out rows are scored: `steps`, and once more at the end, or `no`."
    )
    eval_steps: float | None = _field(500, "Steps between scorings; below 1 = share of all steps.")
    save_steps: float = _field(1000, "Steps between checkpoints; below 1 = share of all steps.")
    save_total_limit: int | None = _field(3, "Checkpoints that are kept; 0 = all.")
    skip_spike_sigmas: float = _field(
        6.0,
        "Skip an update whose gradient norm lies this many standard deviations above the mean of "
        "the last 128; 0 = only one that is no finite number.",
    )
    max_skipped_steps: int = _field(
        10, "Updates of the last 128 that may be skipped; one more ends the run."
    )
    hang_timeout_minutes: float = _field(
        20.0,
        "Without a sign of life for so long, every process writes where its threads stand and the "
        "run ends with exit code 76; 0 = never. Until the first step has ended, 20 at least; 12 "
        "hours while data, weights or a checkpoint are read and the model is written.",
    )
    resume_from_checkpoint: str | None = _field(
        None,
        "Go on from this checkpoint. Empty = from the last complete one in output_dir, if any.",
    )
    async_save: bool = _field(
        True,
        "Write FSDP checkpoints while training goes on, from a copy that each process keeps in "
        "host memory: 12 bytes a parameter, divided by the processes. false = training waits.",
    )
    allow_changes: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Go on although these facts differ from the checkpoint's, as in "
            "`fim_rate corpus`; without, the run is refused with both values."
        },
    )
    dataloader_num_workers: int = _field(2, "Processes that make rows; 0 = the training process.")
    train_sampling_strategy: str = _field("sequential", "Fixed: the plan of the rows shuffles.")
    remove_unused_columns: bool = _field(False, "Fixed.")
    ddp_find_unused_parameters: bool | None = _field(
        False, "Search the graph for parameters without a gradient each step; there are none."
    )
    logging_nan_inf_filter: bool = _field(False, "Fixed: a NaN must be seen.")

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise Refusal("output_dir is not given; give --output_dir FOLDER for the run.")
        for name in ("decay_ratio", "min_lr_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise Refusal(f"{name} {getattr(self, name)} is not a share; give 0 to 1.")
        if str(self.fsdp).lower() in ("true", "false"):  # the command line knows only words
            self.fsdp = str(self.fsdp).lower() == "true"
        self._settle_epochs()
        check_settings(self)
        self._check_guards()
        settle_copies()  # accelerate reads them, and the process group is made, in super()
        prepare_cpu_engines(fsdp=bool(self.fsdp))
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        self._check_precision()
        self._settle_batch(launched_processes())
        self._join()
        if self.n_gpu > 1:
            raise Refusal(
                f"this is one process and {self.n_gpu} GPUs; start one process a GPU with "
                "accelerate launch or torchrun, or choose one by CUDA_VISIBLE_DEVICES=0."
            )
        if self.global_batch_size and self.rows_per_step != self.global_batch_size:
            raise Refusal(
                f"global_batch_size {self.global_batch_size} would be {self.rows_per_step} rows: "
                f"{launched_processes()} processes were launched, but {self.world_size} train "
                "together. Start them with accelerate launch or torchrun, one process a GPU."
            )
        compiler = hardware.missing_compiler()
        is_compiled = self.torch_compile and self.torch_compile_backend in (None, "inductor")
        if is_compiled and self.use_cpu and compiler:
            raise Refusal(
                f"torch_compile on a CPU needs a C++ compiler and {compiler} is not there; install "
                "it (apt-get install g++), or give --torch_compile_backend aot_eager or "
                "--torch_compile false."
            )
        if self.use_muon and uses("DEEPSPEED"):
            raise Refusal(
                "use_muon true does not work with DeepSpeed, which hands the optimizer flattened "
                "shards; choose configs/fsdp.yaml or configs/ddp.yaml, or give --use_muon false."
            )

    def _settle_epochs(self) -> None:
        """How long the run is, said in one way."""
        if self.max_steps != -1 and not Range(1, MOST_STEPS, is_whole=True).holds(self.max_steps):
            raise Refusal(
                f"max_steps {self.max_steps} is no number of steps; give 1 to {MOST_STEPS:,}, or "
                "-1 for num_train_epochs."
            )
        if self.max_steps != -1 and self.num_train_epochs is not None:
            raise Refusal(
                f"max_steps {self.max_steps} and num_train_epochs {self.num_train_epochs:g} both "
                "say how long the run is; leave one out, or give --max_steps -1 to train for "
                "num_train_epochs."
            )
        if self.num_train_epochs is None:
            self.num_train_epochs = 1.0

    def _check_guards(self) -> None:
        if self.hang_timeout_minutes * 60 >= self.ddp_timeout:
            raise Refusal(
                f"hang_timeout_minutes {self.hang_timeout_minutes:g} is not below ddp_timeout "
                f"{self.ddp_timeout} s, after which a collective aborts and leaves no stacks; give "
                "fewer minutes or a longer --ddp_timeout."
            )

    def _join(self) -> None:
        """Let super() make the process group, and leave when all have joined it.

        Whoever is refused leaves at once; others, still joining, would end in lost connections.
        """
        run, seconds = Path(self.output_dir), self.hang_timeout_minutes * 60
        watchdog = HangWatchdog(run, seconds, launched_rank())
        with watchdog.armed("while joining the other processes"):
            is_joined = torch.distributed.is_initialized()
            with _without_advice():
                super().__post_init__()
            if not is_joined:
                self.distributed_state.wait_for_everyone()

    def _check_precision(self) -> None:
        """Refuse what the device cannot compute in; knows of the device by `use_cpu`."""
        on_cpu = self.use_cpu or uses("CPU")
        for precision, other in (("fp16", "bf16"), ("bf16", "fp16")):
            asked = getattr(self, precision)
            if asked and not hardware.can_train_in(precision, on_cpu, uses("DEEPSPEED")):
                place = "this processor" if on_cpu else hardware.device_name()
                raise Refusal(
                    f"{precision} true is not possible on {place}; give --{other} true, or neither "
                    "for float32."
                )

    def _settle_batch(self, num_devices: int) -> None:
        """Derive rows at a time and accumulation from the rows of a step; DeepSpeed reads them."""
        self.rows_allowed = self.per_device_train_batch_size
        if not self.global_batch_size:
            return
        at_a_time = rows_at_a_time(self.global_batch_size, num_devices, self.rows_allowed)
        accumulation = self.global_batch_size // (num_devices * at_a_time)
        if self.gradient_accumulation_steps not in (1, accumulation):
            raise Refusal(
                f"gradient_accumulation_steps {self.gradient_accumulation_steps} and "
                f"global_batch_size {self.global_batch_size} contradict each other on "
                f"{num_devices} devices (that would be {accumulation}); give only "
                "global_batch_size."
            )
        self.per_device_train_batch_size = at_a_time
        self.gradient_accumulation_steps = accumulation

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step over all devices."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    def settle_length(self, rows_per_epoch: int) -> None:
        """Fix max_steps, and with it the schedule, from the epochs asked for."""
        if self.max_steps < 0:
            self.max_steps = max(
                1, int(self.num_train_epochs * rows_per_epoch / self.rows_per_step)
            )
            check_schedule(self)
        settle_schedule(self)
        settle_intervals(self)
