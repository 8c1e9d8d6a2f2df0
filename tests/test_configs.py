"""Every recipe, accelerate YAML, model config and launcher is parsed by what will read it."""

import dataclasses
import json
import math
import os
import re
from pathlib import Path

import processes
import pytest
import yaml
from processes import launch_py

from hugcoder.recipe import parse

ROOT = Path(__file__).resolve().parents[1]
PRETRAIN_RECIPES = [
    *sorted((ROOT / "configs/recipes").glob("pretrain_*.yaml")),
    ROOT / "configs/recipes/adapt.yaml",
]
ACCELERATE_FILES = sorted((ROOT / "configs").glob("*.yaml"))
MODELS = {"tiny": 4.46e6, "130m": 130e6, "1b": 1.07e9, "7b": 7.0e9}
SCRIPTS = sorted(path for end in ("sh", "sbatch") for path in (ROOT / "scripts").rglob(f"*.{end}"))
LAUNCHERS = ("run_ddp.sh", "run_deepspeed.sh", "run_fsdp.sh")


def pretrain_groups():
    from hugcoder.pretraining.arguments import DataArguments, ModelArguments, PretrainArguments

    return [ModelArguments, DataArguments, PretrainArguments]


def parse_pretraining(words: list[str], monkeypatch):
    monkeypatch.chdir(ROOT)
    return parse(pretrain_groups(), words, description="")


def defaults_of(groups) -> dict:
    values = {}
    for group in groups:
        for field in dataclasses.fields(group):
            if field.default is not dataclasses.MISSING:
                values[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                values[field.name] = field.default_factory()
    return values


def required(path: Path, tmp_path) -> list[str]:
    """Flags that the recipe leaves to the command line."""
    keys = yaml.safe_load(path.read_text())
    flags = {"token_store": "data/x", "output_dir": str(tmp_path)}
    if "config_file" not in keys:
        flags["model_name_or_path"] = "runs/x"
    return [
        word for name, value in flags.items() if name not in keys for word in (f"--{name}", value)
    ]


@pytest.mark.parametrize("path", PRETRAIN_RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses_and_no_line_repeats_a_default(path, tmp_path, monkeypatch):
    groups = parse_pretraining([str(path), *required(path, tmp_path)], monkeypatch)
    values = {k: v for group in groups for k, v in vars(group).items()}
    defaults = defaults_of(pretrain_groups())
    repeated = [key for key in yaml.safe_load(path.read_text()) if values[key] == defaults.get(key)]
    assert repeated == []


@pytest.mark.parametrize("path", PRETRAIN_RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_a_recipe_takes_the_same_rows_a_step_on_any_number_of_processes(
    path, processes, tmp_path, monkeypatch
):
    """Symptom: the quickstart took 8 rows a step on one process and 16 on two."""
    rows = yaml.safe_load(path.read_text())["global_batch_size"]
    monkeypatch.setattr("hugcoder.run.arguments.launched_processes", lambda: processes)
    training = parse_pretraining([str(path), *required(path, tmp_path)], monkeypatch)[-1]
    assert training.rows_per_step == rows
    assert training.per_device_train_batch_size <= training.rows_allowed


@pytest.mark.parametrize("path", PRETRAIN_RECIPES, ids=lambda path: path.stem)
def test_a_recipe_begins_with_its_purpose_and_hardware(path):
    head = path.read_text().splitlines()[:2]
    assert head[0].startswith("# Purpose: ")
    assert head[1].startswith("# Hardware: ")


@pytest.mark.parametrize(
    ("name", "state_bytes", "shards"), [("130m", 16, 1), ("1b", 20, 1), ("7b", 16, 8)]
)
def test_a_recipe_fits_the_memory_that_it_names(name, state_bytes, shards, monkeypatch, tmp_path):
    """The arithmetic in its first lines, from the model's config and the recipe's rows."""
    path = ROOT / f"configs/recipes/pretrain_{name}.yaml"
    words = [str(path), *required(path, tmp_path), "--bf16", "false", "--torch_compile", "false"]
    _, data, training = parse_pretraining(words, monkeypatch)
    config = json.loads((ROOT / f"configs/models/{name}.json").read_text())
    tokens = training.rows_allowed * data.max_seq_length
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    kept = 40 * hidden * layers  # bytes a token: norms, projections and the MLP, kernels fused
    if training.activation_checkpointing:
        kept = 2 * hidden * layers + 52.5 * hidden  # one layer, whose kernels are not fused
    needed = MODELS[name] * state_bytes / shards + tokens * (kept + 49_152 * 14)
    said, card = map(int, re.search(r"together = (\d+) GB of (\d+)", path.read_text()).groups())
    assert needed / 1e9 == pytest.approx(said, abs=0.6)
    assert said <= 0.9 * card


def test_the_fsdp_recipe_composes_with_another(tmp_path, monkeypatch):
    words = ["configs/recipes/pretrain_7b.yaml", "configs/recipes/fsdp.yaml", "--token_store", "x"]
    _, _, training = parse_pretraining([*words, "--output_dir", str(tmp_path)], monkeypatch)
    assert training.fsdp
    assert training.fsdp_config["reshard_after_forward"] is True


def test_fsdp_is_the_same_by_recipe_by_yaml_and_in_hybrid_sharding():
    """What a YAML switches off is off where nothing is said, as in a recipe."""
    names = ("recipes/fsdp.yaml", "fsdp.yaml", "hsdp.yaml")
    recipe, sharded, hybrid = (
        yaml.safe_load((ROOT / "configs" / name).read_text())["fsdp_config"] for name in names
    )
    assert hybrid == sharded
    said = {name: value for name, value in sharded.items() if value is not False}
    assert {f"fsdp_{name}": value for name, value in recipe.items()} == said


@pytest.mark.parametrize("path", ACCELERATE_FILES, ids=lambda path: path.stem)
def test_an_accelerate_file_says_where_and_never_how(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_machines == 1
    how = {"gradient_accumulation_steps", "gradient_clipping", "mixed_precision", "learning_rate"}
    text = yaml.safe_load(path.read_text())
    sections = [text, text.get("deepspeed_config", {}), text.get("fsdp_config", {})]
    assert not how & {key for section in sections for key in section}


@pytest.mark.parametrize(("name", "parameters"), MODELS.items())
def test_a_model_config_has_the_size_of_its_name(name, parameters):
    import torch
    from transformers import AutoModelForCausalLM

    from hugcoder.model.build import read_config
    from hugcoder.model.size import measure_model

    config = read_config(str(ROOT / f"configs/models/{name}.json"))
    config.vocab_size = 4096 if name == "tiny" else 49152
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    size = measure_model(model, row_length=2048)
    assert size.parameters == pytest.approx(parameters, rel=0.01)
    assert size.flops_per_token > 6 * (size.parameters - size.embedding_parameters)


def test_every_model_config_is_of_one_family():
    types = {
        json.loads(p.read_text())["model_type"] for p in (ROOT / "configs/models").glob("*.json")
    }
    assert types == {"qwen3"}


@pytest.mark.parametrize("script", LAUNCHERS)
@pytest.mark.parametrize("behind", [[], ["configs/recipes/try_small.yaml"]])
def test_a_launcher_starts_train_py_with_words_that_parse(script, behind, tmp_path, monkeypatch):
    own = "pretrain_1b" if script == "run_ddp.sh" else "pretrain_7b"
    given = [f"configs/recipes/{own}.yaml", *behind] if behind else []
    words = words_for_train([script, *given, "--learning_rate", "2e-4"], tmp_path)
    _, data, training = parse_pretraining(words, monkeypatch)
    assert training.learning_rate == 2e-4
    assert bool(training.fsdp) == (script == "run_fsdp.sh")
    assert data.token_store == "data/corpus-tokens"
    if behind:
        assert training.output_dir == "runs/try_small"
        return
    assert training.output_dir == f"runs/{own}"
    # the arithmetic in the script's head
    assert training.global_batch_size * data.max_seq_length == 524_288


def words_for_train(command: list[str], folder: Path, **environment) -> list[str]:
    """What a launcher script gives train.py, by a python that prints the words it is given."""
    program = folder / "python"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$RECIPE" "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"} | environment
    words = ["bash", str(ROOT / "scripts" / command[0]), *command[1:]]
    printed = processes.run(words, timeout=60, env=environment, cwd=ROOT)
    assert printed.returncode == 0, printed.stderr
    recipe, *words = printed.stdout.splitlines()
    at, end = words.index("train.py"), words.index("--")
    assert "8" in words[:at]
    given = launch_py().user_words(words[end + 1 :], environment | {"RECIPE": recipe}, ROOT)
    return words[at + 1 : end] + given


@pytest.mark.parametrize("path", PRETRAIN_RECIPES, ids=lambda path: path.stem)
def test_a_run_that_goes_on_is_not_told_that_shares_of_it_are_steps(
    path, tmp_path, monkeypatch, caplog
):
    """Symptom: `eval_steps: 0.34 (from args) != 31 (from trainer_state.json)` on every resume."""
    from transformers import TrainerState, trainer_utils

    words = [str(path), *required(path, tmp_path), "--save_steps", "0.07", "--eval_steps", "0.34"]
    training = parse_pretraining([*words, "--logging_steps", "0.01"], monkeypatch)[-1]
    training.fix_length(rows_per_epoch=1000)
    state = TrainerState(train_batch_size=training.per_device_train_batch_size)
    state.compute_steps(training, training.max_steps)
    monkeypatch.setattr(trainer_utils.logger, "propagate", True)
    caplog.clear()
    trainer_utils.compare_trainer_and_checkpoint_args(training, state)
    assert not caplog.records
    assert training.save_steps == math.ceil(0.07 * training.max_steps)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/corpora").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_corpus_file_parses(path):
    from data_prep.arguments import CorpusArguments

    assert parse([CorpusArguments], [str(path), "--output_dir", "x"], description="").sources


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_quickstart"])
def test_a_tokenizer_recipe_parses_and_no_line_repeats_a_default(name):
    from tokenizer.arguments import TokenizerArguments

    path = ROOT / f"configs/recipes/{name}.yaml"
    words = [str(path), "--corpus", "x", "--output_dir", "y"]
    values = vars(parse([TokenizerArguments], words, description=""))
    defaults = defaults_of([TokenizerArguments])
    keys = yaml.safe_load(path.read_text()) or {}
    assert [key for key in keys if values[key] == defaults.get(key)] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_script_stops_at_the_first_error(script):
    assert "set -euo pipefail" in script.read_text()
