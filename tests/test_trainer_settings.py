"""Every setting of the transformers Trainer is sorted, and no value of one ends in a traceback."""

import dataclasses
import math
import os
import typing

import pytest
import torch
from transformers import TrainingArguments

from hugcoder.pretraining.argument_checks import check_arguments
from hugcoder.pretraining.arguments import (
    DataArguments,
    ModelArguments,
    PretrainArguments,
)
from hugcoder.recipe import parse
from hugcoder.refusal import Refusal
from hugcoder.run.optimizer_checks import OPTIMIZERS
from hugcoder.run.tracker_checks import refuse_when_trackers_fail

# every other setting of the Trainer: it has its effect here
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
FIXED, RANGES = PretrainArguments.FIXED, PretrainArguments.RANGES
FIELDS = {field.name: field for field in dataclasses.fields(PretrainArguments)}
GIVEN = ["--config_file", "configs/models/tiny.json", "--token_store", "x", "--output_dir", "run"]


def parsed(*words: str) -> PretrainArguments:
    groups = [ModelArguments, DataArguments, PretrainArguments]
    return parse(groups, [*GIVEN, *words], description="")[-1]


def refusal(*words: str) -> str:
    with pytest.raises(Refusal) as caught:
        parsed(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def wandb_home(tmp_path, monkeypatch):
    """A home without a key or settings of wandb, and no terminal to ask at."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))


def test_making_and_checking_arguments_joins_nobody_and_opens_no_device(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("not before join()")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(fail))
    monkeypatch.setattr(torch.distributed, "init_process_group", fail)
    launch = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    environment = dict(os.environ)
    groups = [ModelArguments, DataArguments, PretrainArguments]
    made = parse(groups, [*GIVEN, "--global_batch_size=8", "--fsdp=true"], description="")
    check_arguments(*made)
    assert made[-1].rows_per_step == 8
    assert dict(os.environ) == environment
    with pytest.raises(AssertionError, match="not before join"):  # without fsdp, which patches
        parsed().join()


# ---- the table -----------------------------------------------------------------------------------


def test_every_setting_of_the_trainer_is_sorted_once():
    """A new release's new setting fails here until somebody has looked what it does."""
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert names - set(FIXED) - WORKS == set(), "sort these into FIXED or WORKS"
    assert (set(FIXED) | WORKS) - names == set(), "transformers has these no more"
    assert set(FIXED) & WORKS == set()


@pytest.mark.parametrize("name", FIXED)
def test_the_only_value_of_a_fixed_setting_is_its_default(name):
    field = FIELDS[name]
    is_plain = field.default is not dataclasses.MISSING
    default = field.default if is_plain else field.default_factory()
    assert default == FIXED[name][0]


OTHER_VALUES = {"train_sampling_strategy": "random", "hub_strategy": "end", "deepspeed": "ds.yaml"}


@pytest.mark.parametrize("name", FIXED)
def test_another_value_of_a_fixed_setting_is_refused_with_the_reason(name):
    value, reason = FIXED[name]
    other = not value if isinstance(value, bool) else OTHER_VALUES.get(name, 7)
    with pytest.raises(Refusal) as caught:
        PretrainArguments(output_dir="run", **{name: other})
    assert f"{name} {other} is not possible here" in str(caught.value)
    assert reason in str(caught.value)


def test_the_way_to_deepspeed_is_said_where_its_file_is_given():
    assert "accelerate launch --config_file configs/deepspeed.yaml" in refusal(
        "--deepspeed", "configs/deepspeed.yaml"
    )


# ---- numbers -------------------------------------------------------------------------------------

WORDS = ["nan", "-1", "0", "0.5", "1e308", "9" * 400, "x", ""]
VALUES = [math.nan, math.inf, -math.inf, -1, -0.5, 0, 0.5, 1, 1.5, 10**9, 1e308, 10**400]


def numbers_of(group: type) -> list[str]:
    hints = typing.get_type_hints(group)
    kinds = {name: {hint, *typing.get_args(hint)} for name, hint in hints.items()}
    return sorted(name for name in kinds if kinds[name] & {int, float} and name[0] != "_")


def outcome(group: type, name: str, *words: str) -> tuple[typing.Any, str]:
    """The value that was taken, or the sentence of the refusal; anything else is an error."""
    try:
        return getattr(parse([group], list(words), description=""), name), name
    except Refusal as refusal:
        return None, str(refusal)


def is_no_number(value) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


@pytest.mark.parametrize("name", numbers_of(PretrainArguments))
def test_any_number_is_taken_or_refused(name):
    """By a program; the words of a command line become these numbers, or argparse refuses them."""
    for value in VALUES:
        try:
            found = getattr(PretrainArguments(output_dir="run", **{name: value}), name)
        except Refusal as refusal:
            found, sentence = 0, str(refusal)
        else:
            sentence = name
        assert name in sentence
        assert "\n" not in sentence
        assert not is_no_number(found), f"{name} {value} was taken"


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", ["max_steps", "learning_rate", "save_total_limit", "eval_steps"])
def test_any_word_for_a_number_parses_or_is_refused(name, word):
    found, sentence = outcome(PretrainArguments, name, f"--{name}={word}", *GIVEN[4:])
    assert name in sentence
    assert not is_no_number(found)


@pytest.mark.parametrize("name", numbers_of(DataArguments))
def test_any_word_for_a_number_about_the_data_parses_or_is_refused(name):
    for word in WORDS:
        found, sentence = outcome(DataArguments, name, f"--{name}={word}", "--token_store=x")
        assert name in sentence
        assert not is_no_number(found), f"--{name} {word} was taken"


@pytest.mark.parametrize("name", RANGES)
def test_a_range_holds_the_default(name):
    default = FIELDS[name].default
    assert default is None or RANGES[name].holds(default)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--num_train_epochs 0", "num_train_epochs 0.0 is out of range; give above 0 to 1,000,000"),
        ("--per_device_train_batch_size 0", "out of range; give a whole number, 1 to 1,000,000"),
        ("--gradient_accumulation_steps 0", "gradient_accumulation_steps 0 is out of range"),
        ("--adam_beta1 1.5", "adam_beta1 1.5 is out of range; give 0 to below 1"),
        ("--save_steps 1.5", "give a whole number of steps, 1 or more, or a share"),
        ("--warmup_steps 20 --max_steps 10", "warmup_steps 20 is more than the run's 10 steps"),
        ("--warmup_steps 2.5", "warmup_steps 2.5 is neither a share nor a number of steps"),
        ("--decay_ratio 0.9 --warmup_steps 0.2", "are more than the whole run"),
        ("--max_steps 5 --num_train_epochs 3", "both say how long the run is"),
        ("--save_strategy best", "save_strategy best is not possible here; give one of steps, no"),
        ("--save_strategy epoch", "set save_steps instead (below 1 = a share of the run)"),
        ("--eval_strategy epoch", "set eval_steps instead (below 1 = a share of the run)"),
        ("--lr_scheduler_type cosin", "invalid choice: 'cosin' (choose from 'linear'"),
        ("--optim lomo", "optim lomo is not possible here; give one of adamw_torch_fused"),
        ("--optim adamw_8bit", "optim adamw_8bit needs bitsandbytes, which is not installed"),
        ("--optim sgd --optim_args speed=9", "which takes momentum, dampening, nesterov"),
        ("--optim sgd --optim_args nesterov=true", "Nesterov momentum requires a momentum"),
        ("--optim_args momentum=0.9", "does not fit optim adamw_torch_fused, which takes none"),
        ("--report_to weather", "which is not a tracker; give none, all or some of"),
        ("--accelerator_config {}", "non_blocking would only affect"),
        ("--report_to mlflow", "not installed; install it with `pip install mlflow`, or leave it"),
        ("--report_to tensorboard,comet_ml", "install it with `pip install comet-ml`"),
        ("--report_to none tensorboard", "report_to none tensorboard: none cannot be combined"),
        ("--push_to_hub true --hub_model_id me/x", "upload the finished model with `hf upload`"),
        (
            "--torch_compile true --torch_compile_mode fast",
            "torch_compile_mode fast is not possibl",
        ),
        (
            "--torch_compile true --torch_compile_backend gcc",
            "give one of inductor, aot_eager, eager",
        ),
        (
            "--dataloader_prefetch_factor 2 --dataloader_num_workers 0",
            "dataloader_num_workers is 0",
        ),
        ("--fsdp true --fsdp_config nowhere.json", "fsdp_config nowhere.json is not a mapping"),
        ('--fsdp true --fsdp_config {"wrap":1}', "fsdp_config names wrap; there are activation"),
        ("--debug tpu_metrics_debug", "debug tpu_metrics_debug is not possible here"),
        ('--fsdp true --fsdp_config {"auto_wrap_policy":"ALL"}', "says auto_wrap_policy ALL; give"),
        ('--fsdp true --fsdp_config {"version":"x"}', "version 'x'; give a whole number, 1 to 2"),
        ('--fsdp true --fsdp_config {"version":true}', "version True; give a whole number, 1 to 2"),
        ('--fsdp true --fsdp_config {"min_num_params":"x"}', "give a whole number, 0 or more"),
        (
            '--fsdp true --fsdp_config {"transformer_layer_cls_to_wrap":5}',
            "says transformer_layer_cls_to_wrap 5; give a name or a list of names",
        ),
        (
            '--fsdp true --fsdp_config {"fsdp_transformer_layer_cls_to_wrap":["A",null]}',
            "give a name or a list of names",
        ),
        (
            '--activation_checkpointing_kwargs {"every_n_layers":"x"}',
            "says every_n_layers 'x'; give a whole number, 1 or more",
        ),
        (
            '--activation_checkpointing_kwargs {"every_n_layers":0}',
            "says every_n_layers 0; give a whole number, 1 or more",
        ),
        ("--optim sgd --optim_args momentum=nan", "which takes momentum, dampening, nesterov"),
        ("--optim rmsprop --optim_args centered=perhaps", "which takes momentum, alpha"),
        ("--log_level loud", "log_level"),
        ("--tf32 true", "tf32 true needs a GPU"),
        ("--local_rank 3", "local_rank 3 is not what the launcher says"),
        ("--activation_checkpointing false --gradient_checkpointing true", "contradict each other"),
        ("--warmup_ratio 0.5", "unknown setting '--warmup_ratio'"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_can(words, sentence):
    if "bitsandbytes" in sentence and __import__("importlib.util").util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    assert sentence in refusal(*words.split())


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--optim sgd --optim_args momentum=0.9", "optim_args", "momentum=0.9"),
        ("--max_grad_norm 0", "max_grad_norm", 0.0),
        ("--save_total_limit 0", "save_total_limit", 0),
        ("--save_steps 0.25", "save_steps", 0.25),
        ("--max_steps -1 --num_train_epochs 3", "num_train_epochs", 3.0),
        ("--max_steps 7", "num_train_epochs", 1.0),
        ("--warmup_steps 10 --max_steps 10 --decay_ratio 0", "warmup_steps", 10.0),
        ("--decay_ratio 0.8 --warmup_steps 0.2 --max_steps 7", "decay_ratio", 0.8),
        ("--fsdp false", "fsdp", False),
    ],
)
def test_a_value_that_can_be_is_taken(words, name, value):
    assert getattr(parsed(*words.split()), name) == value


def test_two_lengths_of_a_run_in_one_place_are_refused_with_where_each_stands(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("max_steps: 5\nnum_train_epochs: 3\n")
    with pytest.raises(Refusal) as caught:
        parse([PretrainArguments], [str(recipe), *GIVEN[4:]], description="")
    assert f"--max_steps 5 comes from {recipe} line 1" in str(caught.value)
    assert f"--num_train_epochs 3 comes from {recipe} line 2" in str(caught.value)


# ---- settings that another one switches off ------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--decay_ratio 0.5 --lr_scheduler_type cosine", "lr_scheduler_type is cosine"),
        ("--min_lr_ratio 0.1 --lr_scheduler_type linear", "lr_scheduler_type is linear"),
        ("--warmup_steps 0.5 --lr_scheduler_type constant", "not constant_with_warmup"),
        ("--use_muon true --optim sgd", "use_muon is true"),
        ("--use_muon true --weight_decay 0.3", "only matrices decay, by muon_weight_decay"),
        ("--optim sgd --adam_beta1 0.5", "optim sgd does not read it"),
        ("--torch_compile_mode default", "torch_compile is not true"),
        ('--activation_checkpointing_kwargs {"offload":true}', "activation_checkpointing is not"),
        ('--fsdp_config {"version":2}', "fsdp is not true"),
        ("--eval_on_start true --eval_strategy no", "eval_strategy is no"),
        ("--project mine", "report_to does not name trackio"),
        ("--ddp_backend nccl", "there is only one process"),
        (
            "--decay_ratio 0.5 --lr_scheduler_type cosine",
            "leave it out, or give its default 0.2.",
        ),
        ("--optim sgd --adam_beta1 0.5", "leave it out, or give its default 0.9."),
    ],
)
def test_a_setting_without_effect_is_refused_with_the_reason(words, reason):
    name = [word[2:] for word in words.split() if word.startswith("--")]
    message = refusal(*words.split())
    assert "has no effect here" in message
    assert reason in message
    assert any(message.startswith(one) for one in name)


def test_what_is_not_taken_as_it_was_given_is_told(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("hugcoder.run.arguments.launched_processes", lambda: 2)
    words = ["--global_batch_size=8", "--per_device_train_batch_size=8", "--muon_weight_decay=1"]
    groups = [ModelArguments, DataArguments, PretrainArguments]
    check_arguments(*parse(groups, [*GIVEN, *words], description=""))
    told = " ".join(caplog.messages)
    assert "a device takes 4 rows at a time, not 8 (per_device_train_batch_size)" in told
    assert "muon_weight_decay 1.0 has no effect: use_muon is not true" in told


# ---- schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        ("warmup_stable_decay", '{"num_decay_steps":5}'),
        ("warmup_stable_decay", '{"decay_type":"cosine"}'),
        ("cosine", '{"num_cycles":1.5}'),
        ("polynomial", '{"power":2.0}'),
        ("inverse_sqrt", '{"timescale":10}'),
        ("cosine_with_min_lr", '{"min_lr":1e-5}'),
    ],
)
def test_a_schedule_takes_its_own_words_and_the_ratios_fill_in_the_rest(kind, kwargs):
    words = ("--lr_scheduler_type", kind, "--lr_scheduler_kwargs", kwargs, "--max_steps", "20")
    training = parsed(*words)
    training.fix_length(100)
    if kind == "warmup_stable_decay":
        both = {"num_decay_steps", "decay_type", "min_lr_ratio"}
        assert set(training.lr_scheduler_kwargs) == both


@pytest.mark.parametrize(
    ("kind", "kwargs", "sentence"),
    [
        ("warmup_stable_decay", '{"decay":5}', "unexpected keyword argument 'decay'"),
        ("warmup_stable_decay", '{"decay_type":"steep"}', "Unknown decay type: steep"),
        ("warmup_stable_decay", '{"num_decay_steps":50}', "is longer than the run"),
        ("warmup_stable_decay", '{"num_decay_steps":-1}', "must be whole numbers, 0 or more"),
        ("cosine", '{"num_cycles":"many"}', "is not possible"),
        ("cosine", '{"num_cycles":NaN}', "holds a number that is not finite"),
        ("cosine", "num_cycles=2", "lr_scheduler_kwargs num_cycles=2 is not a mapping"),
        ("polynomial", '{"lr_end":1.0}', "is not possible"),
        ("cosine_with_min_lr", None, "is not possible: One of min_lr or min_lr_rate should be set"),
        ("constant", '{"num_cycles":2}', "has no effect: it takes no arguments"),
    ],
)
def test_words_that_a_schedule_does_not_take_are_refused(kind, kwargs, sentence):
    words = ["--lr_scheduler_type", kind, "--max_steps", "20"]
    words += ["--lr_scheduler_kwargs", kwargs] if kwargs else []
    assert sentence in refusal(*words)


def test_a_decay_is_not_held_against_a_length_that_is_not_yet_known():
    words = ["--lr_scheduler_kwargs", '{"num_decay_steps":50000}']
    training = parsed(*words)
    with pytest.raises(Refusal, match="is longer than the run: it takes 50001 steps of 12"):
        training.fix_length(100)


def test_a_run_of_one_step_may_name_its_decay():
    parsed("--max_steps=1", "--lr_scheduler_kwargs", '{"decay_type":"cosine"}').fix_length(1)


def test_a_rate_in_a_schedule_is_refused_with_the_two_rates_of_muon():
    words = ("--lr_scheduler_type", "polynomial", "--use_muon", "true")
    assert "use_muon has two" in refusal(*words)


def test_a_warm_up_longer_than_the_epochs_is_refused_when_they_are_counted():
    training = parsed("--warmup_steps", "50")
    with pytest.raises(Refusal, match="warmup_steps 50 is more than the run's 12 steps"):
        training.fix_length(100)


@pytest.mark.parametrize("optim", [name for name in OPTIMIZERS if "bit" not in name])
def test_every_optimizer_that_is_offered_can_be_built(optim):
    import torch
    from transformers import Trainer

    make, settings = Trainer.get_optimizer_cls_and_kwargs(parsed("--optim", optim))
    make([torch.nn.Parameter(torch.zeros(1))], **settings).step()


def test_without_a_compiler_only_the_backend_that_needs_one_is_refused(monkeypatch):
    monkeypatch.setitem(os.environ, "CXX", "no-such-compiler")
    compiled = ("--torch_compile", "true", "--use_cpu", "true")
    for words in (compiled, (*compiled, "--torch_compile_backend", "inductor")):
        assert "needs a C++ compiler and no-such-compiler is not there" in refusal(*words)
    for backend in ("eager", "aot_eager"):
        assert parsed(*compiled, "--torch_compile_backend", backend).torch_compile


@pytest.mark.parametrize("name", ["spawn", "forkserver"])
def test_a_way_to_start_workers_is_taken(name):
    assert parsed("--dataloader_multiprocessing_context", name)


def test_what_an_old_launcher_adds_is_taken_where_it_is_true(monkeypatch):
    monkeypatch.setitem(os.environ, "LOCAL_RANK", "1")
    monkeypatch.setitem(os.environ, "MASTER_ADDR", "localhost")
    with pytest.raises(Refusal, match="local_rank 0 is not what the launcher says"):
        parsed("--local_rank", "0")


@pytest.mark.parametrize(
    "words", [["wandb", "tensorboard"], ["wandb,tensorboard"], ["wandb,", "tensorboard"]]
)
def test_several_trackers_are_taken_however_they_are_separated(words, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert parsed("--report_to", *words).report_to == ["wandb", "tensorboard"]


def test_trackers_are_taken_from_a_list_in_a_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("report_to: [tensorboard, wandb]")
    words = [str(recipe), *GIVEN]
    groups = [ModelArguments, DataArguments, PretrainArguments]
    assert parse(groups, words, description="")[-1].report_to == ["tensorboard", "wandb"]


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "no key here; run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offl"),
        ({"WANDB_API_KEY": ""}, "no key here; run `wandb login`"),
        ({"WANDB_API_KEY": "short"}, "whose settings are wrong (WANDB_API_KEY invalid"),
        ({"WANDB_MODE": "sometimes"}, "whose settings are wrong (mode: Input should be 'online'"),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "offline"}, "but WANDB_DISABLED is set; unset"),
    ],
)
def test_wandb_that_could_not_begin_is_refused(wandb_home, variables, sentence, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert sentence in refusal("--report_to", "wandb")
    assert sentence in refusal("--report_to", "all")


def test_wandb_with_a_key_or_offline_is_taken(wandb_home, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {'a' * 40}\n")
    monkeypatch.setenv("WANDB_BASE_URL", "https://api.wandb.ai")
    parsed("--report_to", "wandb")
    (tmp_path / "netrc").unlink()
    (tmp_path / "settings").write_text("[default]\nmode = offline\n")  # as `wandb offline` does
    parsed("--report_to", "wandb")


def test_a_tracker_that_cannot_begin_ends_in_a_sentence():
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    refuse_when_trackers_fail([callback])
    with pytest.raises(Refusal, match=r"names tensorboard, which cannot begin .*; repair"):
        callback.on_train_begin(None, None, None)


@pytest.mark.parametrize(
    ("left_over", "sentence"),
    [
        ({"LOCAL_RANK": "0"}, "the environment has LOCAL_RANK, as a launcher sets it, but not"),
        ({"WORLD_SIZE": "2"}, "for one process `unset WORLD_SIZE`, for several start with torch"),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, "`unset WORLD_SIZE RANK LOCAL_RANK`"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK in the environment is '', not a number; unset it"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE in the environment is 'two', not a number; unset it"),
    ],
)
def test_what_a_launcher_left_in_the_environment_is_refused(left_over, sentence, monkeypatch):
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert sentence in refusal()


@pytest.mark.parametrize("left_over", [{"RANK": "0"}, {"LOCAL_RANK": "-1"}, {"SLURM_NTASKS": "4"}])
def test_what_says_one_process_goes_through(left_over, monkeypatch):
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    parsed()


def test_a_small_shared_memory_is_refused_with_the_way_out(monkeypatch):
    groups = [ModelArguments, DataArguments, PretrainArguments]
    monkeypatch.setattr("hugcoder.hardware.shared_memory_free", lambda: 32_768)
    with pytest.raises(Refusal, match=r"/dev/shm has 32,768 bytes free.*dataloader_num_workers 0"):
        check_arguments(*parse(groups, GIVEN, description=""))
    check_arguments(*parse(groups, [*GIVEN, "--dataloader_num_workers", "0"], description=""))
    monkeypatch.setattr("hugcoder.hardware.shared_memory_free", lambda: 2**26)  # Docker's
    check_arguments(*parse(groups, GIVEN, description=""))
