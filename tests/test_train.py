"""train.py through its real main(): it runs, resumes, finishes, continues a model and refuses."""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from core_fixtures import make_store
from run_in_ranks import (
    assert_same_weights,
    begin_at,
    command_line,
    exact_losses,
    losses,
    metrics_of,
    model_of,
    tiny_words,
)

import train
from hugcoder.refusal import Refusal, entry_point


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps its state in the process; a run must not see the one before it."""
    from accelerate.state import AcceleratorState, GradientState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def words(store, model_config, tmp_path):
    """A command line of a tiny run, as a dictionary to change."""
    changes = {
        "output_dir": tmp_path / "run",
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_steps": 4,
        "held_out_rows": 8,
    }
    return tiny_words(store, model_config, **changes)


def run(words: dict) -> Path:
    """Run main() and return the run folder."""
    train.main(command_line(words))
    return words["output_dir"]


def test_a_run_learns_scores_held_out_rows_and_leaves_a_model_others_can_open(words):
    metrics, by_step = metrics_of(run(words)), losses(words["output_dir"])
    assert list(by_step) == list(range(1, 9))
    assert by_step[8] < by_step[1] - 0.3
    logged = {name: value for line in metrics for name, value in line.items()}
    for name in ("loss_ar", "loss_middle", "grad_norm", "learning_rate", "tokens_per_second"):
        assert logged[f"train/{name}"] > 0
    assert 0.2 < logged["train/share_fim"] < 0.8
    scored = [line for line in metrics if "eval/bits_per_byte" in line]
    assert [line["step"] for line in scored] == [4, 8]
    assert scored[1]["eval/bits_per_byte"] < scored[0]["eval/bits_per_byte"]

    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    folder = words["output_dir"] / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["use_cache"] is True
    assert config["rope_theta"] == 10000.0
    assert model.config.vocab_size % 128 == 0
    ids = tokenizer("def f(", return_tensors="pt")
    assert torch.isfinite(model(**ids).logits).all()
    generation = GenerationConfig.from_pretrained(folder)
    stops = set(tokenizer.convert_ids_to_tokens(generation.eos_token_id))
    sentinels = {"<fim_prefix>", "<fim_middle>", "<fim_suffix>"}
    assert {"<|endoftext|>", "<fim_pad>", *sentinels} <= stops
    assert set(tokenizer.convert_ids_to_tokens(generation.suppress_tokens)) == sentinels


@pytest.mark.parametrize("use_muon", [False, True])
def test_a_resumed_run_has_the_losses_and_weights_of_the_unbroken_run(words, tmp_path, use_muon):
    words |= {"use_muon": use_muon}
    unbroken = run(words)
    resumed = begin_at(4, unbroken, tmp_path / "resumed")
    assert losses(run(words | {"output_dir": resumed})) == losses(unbroken, after=4)
    assert_same_weights(model_of(resumed), model_of(unbroken))


def test_the_suffix_loss_is_logged_apart_and_goes_on_after_a_resume(words, tmp_path):
    plain = metrics_of(run(words | {"output_dir": tmp_path / "plain"}))
    words |= {"suffix_loss_weight": 0.5, "logging_steps": 3}
    unbroken = run(words)
    found = metrics_of(unbroken)
    assert all(line["train/loss_suffix"] > 0 for line in found if "train/loss" in line)
    assert not any("train/loss_suffix" in line for line in plain)
    resumed = begin_at(4, unbroken, tmp_path / "resumed")
    assert losses(run(words | {"output_dir": resumed})) == losses(unbroken, after=4)
    assert_same_weights(model_of(resumed), model_of(unbroken))


def test_a_suffix_loss_without_suffixes_is_told(words, caplog):
    found = metrics_of(run(words | {"suffix_loss_weight": 0.5, "fim_rate": 0, "max_steps": 1}))
    assert "suffix_loss_weight 0.5 has no effect: fim_rate is 0" in caplog.text
    assert not any("train/loss_suffix" in line for line in found)


@pytest.mark.parametrize(("then", "now"), [(0, 0.5), (0.5, 0)])
def test_the_suffix_loss_may_begin_or_end_when_a_run_goes_on(words, tmp_path, then, now):
    """Symptom: the open window of the log had another number of kinds, a ValueError."""
    words |= {"logging_steps": 3}
    first = run(words | {"suffix_loss_weight": then})
    resumed = begin_at(4, first, tmp_path / "resumed")
    last = metrics_of(run(words | {"suffix_loss_weight": now, "output_dir": resumed}))
    named = ["train/loss_suffix" in one for one in last if one["step"] > 4 and "train/loss" in one]
    assert set(named) == {bool(now)}


def test_a_run_that_lacks_only_its_model_writes_it_and_says_nothing_twice(words):
    """Symptom: the scores and the summary of the last step stood twice in metrics.jsonl."""
    before = metrics_of(run(words))
    shutil.rmtree(words["output_dir"] / "model")
    after = metrics_of(run(words))
    said = [sorted((line["step"], *sorted(line)) for line in lines) for lines in (before, after)]
    assert said[0] == said[1]
    assert (words["output_dir"] / "model" / "manifest.json").is_file()


def test_a_checkpoint_behind_the_end_of_the_run_is_refused(words):
    run(words)
    shutil.rmtree(words["output_dir"] / "model")
    with pytest.raises(Refusal, match=r"max_steps 3 lies before .*checkpoint-8, at step 8; give 8"):
        run(words | {"max_steps": 3})
    assert not (words["output_dir"] / "model").exists()


def test_an_allowed_change_goes_on_with_the_new_value_and_run_json_shows_it(words):
    run(words | {"max_steps": 4})
    folder = words["output_dir"]
    shutil.rmtree(folder / "model")
    run(words | {"max_steps": 6, "fim_rate": 0.9, "allow_changes": "fim_rate"})
    record = json.loads((folder / "run.json").read_text())
    assert record["identity"]["fim_rate"] == 0.9
    assert [start["resumed_from"] for start in record["starts"]] == ["", "checkpoint-4"]
    assert record["starts"][1]["changed"]["fim_rate"] == [0.5, 0.9]


def test_another_learning_rate_takes_effect_when_a_run_goes_on(words):
    words |= {"lr_scheduler_type": "constant", "warmup_steps": 0}
    run(words | {"max_steps": 4})
    metrics = metrics_of(run(words | {"max_steps": 6, "learning_rate": 3e-3}))
    rates = {line["step"]: line["train/learning_rate"] for line in metrics if "train/loss" in line}
    assert rates == {step: 1e-2 if step <= 4 else 3e-3 for step in range(1, 7)}


def test_the_global_batch_size_sets_the_accumulation(words):
    rows = words | {"max_steps": 3, "eval_strategy": "no", "global_batch_size": 8}
    whole = exact_losses(run(rows | {"per_device_train_batch_size": 8}))
    rows |= {"per_device_train_batch_size": 1, "output_dir": words["output_dir"].with_name("parts")}
    assert exact_losses(run(rows)) == pytest.approx(whole, rel=1e-6)


def test_resuming_cuts_metrics_back_and_skips_a_torn_checkpoint(words):
    first = losses(run(words))
    folder = words["output_dir"]
    shutil.rmtree(folder / "model")
    (
        folder / "checkpoint-8" / "optimizer.pt"
    ).unlink()  # as a kill in the middle of saving leaves it
    assert losses(run(words)) == first


def test_a_finished_run_is_not_run_again(words):
    run(words | {"max_steps": 2})
    before = (words["output_dir"] / "metrics.jsonl").read_text()
    run(words | {"max_steps": 2})
    assert (words["output_dir"] / "metrics.jsonl").read_text() == before


def test_a_finished_run_goes_back_to_the_checkpoint_that_a_flag_names_and_only_once(words):
    """Symptom: the flag did nothing, the program said "is finished" and exited with 0."""
    words |= {"max_steps": 4, "save_steps": 2, "eval_strategy": "no"}
    folder = run(words)
    first, model = losses(folder), model_of(folder)
    back = words | {"resume_from_checkpoint": folder / "checkpoint-2"}
    assert losses(run(back)) == first
    assert_same_weights(model_of(folder), model)
    assert {"left-checkpoint-4", "left-model"} <= {path.name for path in folder.iterdir()}
    run(back)  # as babysit.sh repeats it
    starts = json.loads((folder / "run.json").read_text())["starts"]
    assert [start["resumed_from"] for start in starts] == ["", "checkpoint-2"]


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(words):
    words |= {"lr_scheduler_type": "constant", "warmup_steps": 0, "save_steps": 2}
    run(words | {"max_steps": 2})
    assert list(losses(run(words | {"max_steps": 4}))) == [1, 2, 3, 4]
    with pytest.raises(Refusal, match="belongs to another run: its fim_rate"):
        run(words | {"max_steps": 4, "fim_rate": 0.1})


def test_workers_and_accumulation_do_not_change_the_losses(words, tmp_path):
    plain = losses(run(words | {"max_steps": 3}))
    split = words | {
        "max_steps": 3,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 4,
        "dataloader_num_workers": 2,
        "output_dir": tmp_path / "split",
    }
    accumulated = losses(run(split))
    assert accumulated == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("place", ["", "model", "checkpoint-8"])
def test_pretraining_continues_from_a_run_folder_and_from_the_folders_in_it(words, tmp_path, place):
    first = losses(run(words))
    del words["config_file"]
    words |= {"model_name_or_path": words["output_dir"] / place, "output_dir": tmp_path / "next"}
    assert losses(run(words | {"max_steps": 1}))[1] < first[1] - 0.3


def test_a_model_keeps_the_order_that_it_was_trained_in(words, tmp_path):
    first = run(words | {"spm_variant": 1, "max_steps": 1})
    words = words | {"model_name_or_path": first, "output_dir": tmp_path / "next", "max_steps": 1}
    del words["config_file"]
    for folder, variant in (
        (first, 1),
        (run(words), 1),
        (run(words | {"spm_variant": 2, "output_dir": tmp_path / "other"}), 2),
    ):
        assert json.loads((folder / "model" / "config.json").read_text())["spm_variant"] == variant
        assert json.loads((folder / "run.json").read_text())["identity"]["spm_variant"] == variant


def test_a_model_is_not_continued_with_rows_that_it_was_not_made_for(words, tmp_path):
    model = run(words | {"max_steps": 1})
    del words["config_file"]
    words |= {"model_name_or_path": model}
    with pytest.raises(Refusal, match="512 exceeds the model's max_position_embeddings 128"):
        run(words | {"max_seq_length": 512, "output_dir": tmp_path / "longer"})


def test_a_run_says_how_often_it_passes_over_its_corpus(words, tokenizer, tmp_path, caplog):
    texts = [f"def plus_{i}(value):\n    return value + {i}\n" for i in range(20)]
    make_store(tmp_path, tokenizer, texts)
    words |= {"token_store": tmp_path / "store", "held_out_rows": 0, "save_strategy": "no"}
    with caplog.at_level("INFO"):
        folder = run(words)
    counted = json.loads((folder / "epochs.json").read_text())["first_rows"][1]
    passes = 8 * 4 / counted
    assert passes > 4
    assert f", {passes:.3g} passes over {counted * 128:,}, on 1 process" in caplog.text
    assert f"the run passes {passes:.3g} times over its corpus" in caplog.text
    assert f"--num_train_epochs 4, which is {max(1, counted)} steps in place of 8" in caplog.text


def test_weights_have_the_mode_that_the_umask_says(words):
    """Symptom: safetensors writes 0600, and nobody in the group could read a model."""
    before = os.umask(0o027)
    try:
        folder = run(words | {"max_steps": 4})
    finally:
        os.umask(before)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert folder / "model" / "model.safetensors" in files
    odd = [p.name for p in files if p.stat().st_mode & 0o777 != 0o640 and p.suffix != ".lock"]
    assert odd == []


def test_epochs_settle_the_number_of_steps_and_cosine_ends_at_its_floor(words):
    words |= {"num_train_epochs": 0.02, "lr_scheduler_type": "cosine", "min_lr_ratio": 0.1}
    del words["max_steps"]
    metrics = metrics_of(run(words))
    rates = [line["train/learning_rate"] for line in metrics if "train/learning_rate" in line]
    assert len(rates) >= 2
    assert rates[-1] < 0.5 * max(rates)


def test_two_trackers_get_the_names_and_values_of_the_metrics_file(words, tmp_path, monkeypatch):
    import wandb
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    metrics = metrics_of(run(words | {"max_steps": 4, "report_to": "wandb,tensorboard"}))
    logged = {(line["step"], name): value for line in metrics for name, value in line.items()}
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    seen = {
        (event.step, name): event.value
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    }
    named = {key: value for key, value in logged.items() if "/" in key[1]}
    assert seen == pytest.approx(named, rel=1e-4)
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    summary = dict(wandb.run.summary)
    wandb.finish()
    names = {name for _, name in named}
    assert all(name in summary or name.removeprefix("train/") in summary for name in names)


def test_a_nan_ends_the_run_with_a_sentence_and_stays_in_the_log(words):
    words |= {"learning_rate": "1e30", "max_grad_norm": "1e30", "warmup_steps": 0}
    with pytest.raises(Refusal, match=r"3 of the last 4 steps were skipped.* checkpoint is none"):
        run(words | {"max_skipped_steps": 2})
    last = metrics_of(words["output_dir"])[-1]
    assert not all(map(math.isfinite, last.values()))


def test_a_checkpoint_of_another_model_is_refused(words, tmp_path, model_config):
    run(words | {"max_steps": 4})
    config = json.loads(model_config.read_text()) | {"hidden_size": 32, "head_dim": 8}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(config))
    checkpoint = words["output_dir"] / "checkpoint-4"
    with pytest.raises(
        Refusal, match=r"belongs to another run: its model\.head_dim is 16, now it is 8"
    ):
        run(
            words
            | {
                "config_file": other,
                "output_dir": tmp_path / "other",
                "resume_from_checkpoint": checkpoint,
            }
        )


def test_a_run_sent_back_leaves_its_later_checkpoints_and_goes_on_from_the_new_ones(words):
    """Symptom: after a crash, a run sent back to a checkpoint took up the branch it had left."""
    words |= {"lr_scheduler_type": "constant", "warmup_steps": 0, "save_steps": 2}
    run(words | {"max_steps": 6})
    folder = words["output_dir"]
    shutil.rmtree(folder / "model")
    back = {"resume_from_checkpoint": folder / "checkpoint-2", "learning_rate": 3e-3}
    run(words | {"max_steps": 4} | back)
    names = {path.name for path in folder.glob("*checkpoint-*")}
    assert names == {"checkpoint-2", "checkpoint-4", "left-checkpoint-4", "left-checkpoint-6"}
    shutil.rmtree(folder / "model")
    run(words | {"max_steps": 6} | back)  # as babysit.sh repeats it
    record = json.loads((folder / "run.json").read_text())
    assert [start["resumed_from"] for start in record["starts"]] == [
        "",
        "checkpoint-2",
        "checkpoint-4",
    ]


def test_other_steps_between_checkpoints_take_effect_when_a_run_goes_on(words):
    run(words | {"max_steps": 4, "save_steps": 4})
    often = {"save_steps": 1, "eval_steps": 3, "logging_steps": 2}
    metrics = metrics_of(run(words | {"max_steps": 8} | often))
    names = sorted(path.name for path in words["output_dir"].glob("checkpoint-*"))
    assert names == ["checkpoint-6", "checkpoint-7", "checkpoint-8"]
    assert [line["step"] for line in metrics if "eval/loss" in line] == [4, 6, 8]
    assert list(losses(words["output_dir"], after=4)) == [6, 8]


def test_another_fim_rate_over_an_interrupted_run_is_refused_with_both_values(words):
    run(words | {"max_steps": 4})
    shutil.rmtree(words["output_dir"] / "model")
    with pytest.raises(Refusal, match=r"fim_rate is 0\.5, now it is 0\.9"):
        run(words | {"fim_rate": 0.9})


def test_a_full_disk_ends_in_a_sentence_and_room_lets_the_run_go_on(words, disk, capsys):
    folder = disk("size=400k")  # too small for one checkpoint
    words |= {"output_dir": folder / "run", "save_steps": 2, "max_steps": 4}
    with pytest.raises(SystemExit) as end:
        entry_point(lambda: run(words))()
    assert end.value.code == 2
    assert "No space left on device" in capsys.readouterr().err
    disk("size=40m")
    assert list(losses(run(words))) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_seq_length": 32}, "max_seq_length 32 is too small"),
        ({"global_batch_size": 6}, "global_batch_size 6 is not a multiple of 1 devices x 4 rows"),
        (
            {"global_batch_size": 8, "gradient_accumulation_steps": 3},
            r"contradict each other on 1 devices \(that would be 2\)",
        ),
        ({"allow_changes": "weather"}, "allow_changes names weather; what may change is tokenizer"),
        ({"fim_rate": 1.5}, "fim_rate 1.5 is not a probability"),
        ({"fim_spans": "line=1 ast=1"}, "fim_spans"),
        ({"mixture": "cobol=2"}, "mixture names cobol"),
        ({"token_store": "nowhere"}, "nowhere is not a complete token store"),
        ({"config_file": "nowhere.json"}, "config_file nowhere.json does not exist"),
        ({"tokenizer": "nowhere"}, "nowhere has no tokenizer|no tokenizer in nowhere"),
        ({"attn_implementation": "flash_attention_2"}, "needs a GPU and there is none"),
        ({"max_steps": 0}, "max_steps 0 is not a number of steps"),
        ({"ignore_data_skip": True}, "ignore_data_skip True is not possible here"),
        ({"resume_from_checkpoint": "nowhere"}, "nowhere is not a complete checkpoint"),
        ({"decay_ratio": 3}, "decay_ratio 3.0 is not a share"),
        ({"lr_scheduler_type": "greedy"}, "lr_scheduler_type greedy follows a score"),
        ({"output_dir": ""}, "output_dir"),
        ({"learning_rate": "fast"}, "learning_rate: invalid float value: 'fast'"),
        ({"model_name_or_path": "x"}, "give exactly one"),
        ({"fsdp": True}, "fsdp was asked for, but this is one process"),
    ],
)
def test_a_mistake_is_refused_in_one_sentence(words, changes, sentence, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it tries long
    with pytest.raises(Refusal, match=sentence) as refusal:
        run(words | changes)
    assert "\n" not in str(refusal.value)


def test_a_store_of_another_tokenizer_is_refused(words, tokenizer, tmp_path):
    other = tmp_path / "tokenizer"
    shutil.copytree(tokenizer, other)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text + "\n")
    with pytest.raises(Refusal, match="was made with another tokenizer"):
        run(words | {"tokenizer": other})


def test_the_command_line_ends_in_a_sentence_and_exit_code_2(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--fim_rat", "0.5"])
    with pytest.raises(SystemExit) as end:
        entry_point(train.main)()
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "train.py: error: unknown setting '--fim_rat' on the command line. "
        "Did you mean 'fim_rate'?\n"
    )
