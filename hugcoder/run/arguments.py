"""Defines the settings of any run: its length, its batches, its guards and its checkpoints.

RunArguments comes before a Trainer's own arguments, as in `class PretrainArguments(RunArguments,
TrainingArguments)`, and adds its defaults and refusals. Creating them only checks values; `join`
makes the process group and opens the device.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers.trainer_utils import SchedulerType

from hugcoder import hardware
from hugcoder.engines.cpu_engines import prepare_cpu_engines
from hugcoder.engines.hybrid import fill_in_copies
from hugcoder.engines.launched import launched_processes, launched_with
from hugcoder.ranges import Range
from hugcoder.refusal import Refusal
from hugcoder.run import trainer_settings
from hugcoder.run.batch_size import rows_at_a_time
from hugcoder.run.idle_settings import idle_settings
from hugcoder.run.schedule import check_schedule, set_schedule_arguments, turn_shares_into_steps
from hugcoder.run.setting_checks import CHOICES, RANGES, check_settings
from hugcoder.run.time_budget import check_length, steps_of
from hugcoder.setting import with_help

MOST_STEPS = 10**9


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence transformers' warning about FSDP1: only FSDP1 gathers a recomputed layer twice."""

    def is_other(record: logging.LogRecord) -> bool:
        return "redundant AllGather" not in record.getMessage()

    advisor = logging.getLogger("transformers.training_args")
    advisor.addFilter(is_other)
    try:
        yield
    finally:
        advisor.removeFilter(is_other)


@dataclass
class RunArguments:
    """Adds settings of any run to a `transformers.TrainingArguments`, before which it must come.

    FIXED: settings that have only one value, and why. RANGES, CHOICES: the values of others. Each
    kind of run adds its own to them.
    """

    FIXED: ClassVar[dict[str, tuple[Any, str]]] = trainer_settings.FIXED
    RANGES: ClassVar[dict[str, Range]] = RANGES
    CHOICES: ClassVar[dict[str, tuple[tuple[str, ...], str]]] = CHOICES

    output_dir: str = with_help("", "Folder of the run; an interrupted run in it is resumed.")
    max_steps: int = with_help(
        -1, "Optimizer steps of the run; -1 = num_train_epochs over the corpus."
    )
    num_train_epochs: float | None = with_help(
        None, "Passes over the corpus, instead of max_steps (the later counts); not given = 1."
    )
    max_minutes: float = with_help(
        0.0,
        "Minutes that the program may take, instead of max_steps: the steps that fit into them at "
        "the speed of speed_of; 0 = not given.",
    )
    speed_of: str = with_help(
        "", "Folder of a short run with these settings on this machine, for max_minutes."
    )
    per_device_train_batch_size: int = with_help(
        8, "Most rows that a device takes at a time; fewer if its share of a step is smaller."
    )
    gradient_accumulation_steps: int = with_help(
        1,
        "Batches that a device adds up in a step: devices x rows x this x max_seq_length = tokens.",
    )
    global_batch_size: int = with_help(
        0,
        "Rows of one step over all devices; sets gradient_accumulation_steps, so the run is the "
        "same on any number of devices. 0 = devices x rows x accumulation.",
    )
    lr_scheduler_type: SchedulerType | str = with_help(
        "warmup_stable_decay",
        "Shape of the learning rate; `warmup_stable_decay` and `cosine` follow the two ratios "
        "below.",
    )
    warmup_steps: float = with_help(0.01, "Steps of linear warm-up; below 1 = share of all steps.")
    decay_ratio: float = with_help(
        0.2, "Share of all steps over which warmup_stable_decay falls, linearly, at the end."
    )
    min_lr_ratio: float = with_help(0.0, "Final learning rate as a share of the peak.")
    activation_checkpointing: bool | None = with_help(
        None,
        "Keep only the input of each layer and compute the rest again in the backward pass, under "
        "every engine: a token then needs 2 bytes x hidden_size for each layer in bf16, and a step "
        "computes a third more.",
    )
    max_grad_norm: float = with_help(
        1.0, "Gradients with a larger norm are scaled down to it; 0 = never."
    )
    seed: int = with_help(42, "Of the weights, of the data order and of every FIM draw.")
    logging_steps: float = with_help(10, "Steps between log lines.")
    report_to: list[str] = with_help(
        ["none"],
        "Trackers that get every log event besides metrics.jsonl, as in `wandb "
        "tensorboard`; all = those that are installed; none = no tracker.",
    )
    eval_steps: float | None = with_help(
        500, "Steps between scorings; below 1 = share of all steps."
    )
    save_steps: float = with_help(1000, "Steps between checkpoints; below 1 = share of all steps.")
    save_total_limit: int | None = with_help(3, "Checkpoints that are kept; 0 = all.")
    skip_spike_sigmas: float = with_help(
        6.0,
        "Skip an update whose gradient norm lies this many standard deviations above the mean of "
        "the last 128; 0 = skip only a norm that is not finite.",
    )
    max_skipped_steps: int = with_help(
        10, "Updates of the last 128 that may be skipped; one more ends the run."
    )
    hang_timeout_minutes: float = with_help(
        20.0,
        "After so long without progress, every process writes where its threads stand and the run "
        "ends with exit code 76; 0 = never. At least 20 until the first step has ended; 12 hours "
        "while data, weights or a checkpoint are read and while the model is written.",
    )
    resume_from_checkpoint: str | None = with_help(
        None,
        "Resume from this checkpoint. Empty = from the last complete one in output_dir, if any.",
    )
    async_save: bool = with_help(
        True,
        "Write FSDP checkpoints while training continues, from a copy that each process keeps in "
        "host memory: 12 bytes a parameter, divided by the processes. false = training waits.",
    )
    allow_changes: list[str] = with_help(
        [],
        "Resume although these facts differ from the checkpoint's, as in "
        "`fim_rate corpus`; otherwise the run is refused with both values.",
    )
    dataloader_num_workers: int = with_help(
        2, "Processes that make rows; 0 = the training process."
    )
    ddp_find_unused_parameters: bool | None = with_help(
        False, "Search the graph in each step for parameters without a gradient; there are none."
    )
    logging_nan_inf_filter: bool = with_help(False, "Fixed: a NaN must be seen.")

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise Refusal("output_dir is not given; give --output_dir FOLDER for the run.")
        for name in ("decay_ratio", "min_lr_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise Refusal(f"{name} {getattr(self, name)} is not a share; give 0 to 1.")
        if str(self.fsdp).lower() in ("true", "false"):  # the command line knows only words
            self.fsdp = str(self.fsdp).lower() == "true"
        self._check_length()
        check_settings(self)
        self._check_guards()
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.use_cpu:
            self._check_precision()
        self._derive_batch(launched_processes())
        self._check_compiler()
        self.has_joined = False

    def idle_settings(self) -> list[tuple[str, str]]:
        """List settings that others leave without effect, each with the reason."""
        return idle_settings(self)

    @property
    def has_one_learning_rate(self) -> bool:
        return True

    def join(self) -> None:
        """Join the other processes and open the device; once, on all ranks, before a Trainer.

        Returns when all have joined: a refused process leaves at once, and others that are still
        joining would lose their connections.
        Raises: Refusal when the processes are not those that were launched.
        """
        if self.has_joined:
            return
        if not self.use_cpu:
            self._check_precision()  # asks the GPU
        is_joined = torch.distributed.is_initialized()
        try:
            fill_in_copies()  # before super(), where accelerate reads them and makes the group
            prepare_cpu_engines(fsdp=bool(self.fsdp))
            with _without_advice():
                super().__post_init__()
        except ValueError as error:
            raise Refusal(str(error)) from error
        if not is_joined:
            self.distributed_state.wait_for_everyone()
        self._check_world()
        self.has_joined = True

    def _check_world(self) -> None:
        if self.n_gpu > 1:
            raise Refusal(
                f"this is one process and {self.n_gpu} GPUs; start one process a GPU with "
                "accelerate launch or torchrun, or choose one by CUDA_VISIBLE_DEVICES=0."
            )
        rows = self._rows_of(self.world_size)
        if self.global_batch_size and rows != self.global_batch_size:
            raise Refusal(
                f"global_batch_size {self.global_batch_size} would be {rows} rows: "
                f"{launched_processes()} processes were launched, but {self.world_size} train "
                "together. Start them with accelerate launch or torchrun, one process a GPU."
            )

    def _check_compiler(self) -> None:
        compiler = hardware.missing_compiler()
        is_compiled = self.torch_compile and self.torch_compile_backend in (None, "inductor")
        if is_compiled and self.use_cpu and compiler:
            raise Refusal(
                f"torch_compile on a CPU needs a C++ compiler and {compiler} is not there; install "
                "it (apt-get install g++), or give --torch_compile_backend aot_eager or "
                "--torch_compile false."
            )

    def _check_length(self) -> None:
        """Check that one setting says how long the run is."""
        if self.max_steps != -1 and not Range(1, MOST_STEPS, is_whole=True).holds(self.max_steps):
            raise Refusal(
                f"max_steps {self.max_steps} is not a number of steps; give 1 to {MOST_STEPS:,}, "
                "or -1 for num_train_epochs."
            )
        if self.max_steps != -1 and self.num_train_epochs is not None:
            raise Refusal(
                f"max_steps {self.max_steps} and num_train_epochs {self.num_train_epochs:g} both "
                "say how long the run is; leave one out, or give --max_steps -1 to train for "
                "num_train_epochs."
            )
        check_length(self)
        if self.num_train_epochs is None:
            self.num_train_epochs = 1.0

    def _check_guards(self) -> None:
        if self.hang_timeout_minutes * 60 >= self.ddp_timeout:
            raise Refusal(
                f"hang_timeout_minutes {self.hang_timeout_minutes:g} is not below ddp_timeout "
                f"{self.ddp_timeout} s, after which a collective aborts without writing stacks; "
                "give fewer minutes or a longer --ddp_timeout."
            )

    def _check_precision(self) -> None:
        """Refuse a precision that the device lacks; `use_cpu` says which device it is."""
        on_cpu = self.use_cpu or launched_with("CPU")
        for precision, other in (("fp16", "bf16"), ("bf16", "fp16")):
            asked = getattr(self, precision)
            if asked and not hardware.can_train_in(precision, on_cpu, launched_with("DEEPSPEED")):
                place = "this processor" if on_cpu else hardware.device_name()
                raise Refusal(
                    f"{precision} true is not possible on {place}; give --{other} true, or neither "
                    "for float32."
                )

    def _derive_batch(self, num_devices: int) -> None:
        """Derive rows at a time and accumulation from the rows of a step; DeepSpeed reads both."""
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
        """Return the rows of one optimizer step over all launched devices."""
        return self._rows_of(launched_processes())

    def _rows_of(self, num_devices: int) -> int:
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * num_devices

    def fix_length(self, rows_per_epoch: int) -> None:
        """Set max_steps, and with it the schedule, from the epochs or minutes asked for."""
        if self.max_minutes:
            self.max_steps = steps_of(self)
            check_schedule(self)
        elif self.max_steps < 0:
            self.max_steps = max(
                1, int(self.num_train_epochs * rows_per_epoch / self.rows_per_step)
            )
            check_schedule(self)
        set_schedule_arguments(self)
        turn_shares_into_steps(self)
