"""DurableTrainer before a Trainer of trl: a run that was killed goes on to the same losses.

The program is tests/rank_programs_finetune.py, in which no line is about checkpoints or resuming.
"""

import json
from pathlib import Path

import pytest
import torch
from ranks import Ranks
from transformers import AutoModelForCausalLM

from hugcoder.model import manifest

PROGRAM = "rank_programs_finetune:finetune"
SETTINGS = {
    "max_steps": 8,
    "global_batch_size": 4,
    "per_device_train_batch_size": 2,
    "logging_steps": 3,  # a window is open where the run is killed and where it goes on
    "save_steps": 4,
    "eval_strategy": "no",
    "dataloader_num_workers": 0,
    "learning_rate": 1e-3,
    "bf16": "false",
}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    server = Ranks(tmp_path_factory.mktemp("ranks"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    from hugcoder.data.codec import Codec
    from hugcoder.data.tokenizer_files import copy_tokenizer

    folder, size = tmp_path_factory.mktemp("base"), Codec(tokenizer).vocab_size
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=size, num_attention_heads=2, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    copy_tokenizer(tokenizer, folder)
    return folder


def words(base: Path, run: Path, **changes) -> list[str]:
    settings = SETTINGS | {"base": base, "output_dir": run} | changes
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(
    "launch",
    [
        pytest.param({"world": 1}, id="alone"),
        pytest.param({"world": 2, "config": "ddp.yaml"}, id="ddp", marks=pytest.mark.slow),
        pytest.param({"world": 2, "config": "fsdp.yaml"}, id="fsdp", marks=pytest.mark.slow),
        pytest.param({"world": 2, "config": "deepspeed.yaml"}, id="zero3", marks=pytest.mark.slow),
    ],
)
def test_a_finetuning_that_is_killed_goes_on_to_the_losses_and_weights_of_the_unbroken_one(
    launch, lora, ranks, base, tmp_path
):
    settings = {"lora": str(lora).lower()}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ended = ranks.run(words(base, whole, **settings), main=PROGRAM, **launch)
    assert set(ended.codes) == {0}, ended.output
    killed = ranks.run(words(base, broken, kill_at=6, **settings), main=PROGRAM, **launch)
    assert set(killed.codes) == {-9}, killed.output
    assert [folder.name for folder in manifest.checkpoints_in(broken)] == ["checkpoint-4"]
    ended = ranks.run(words(base, broken, **settings), main=PROGRAM, **launch)
    assert set(ended.codes) == {0}, ended.output

    assert losses(broken) == losses(whole)
    assert [step for step, _ in losses(whole)] == [3, 6]
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    assert (broken / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()
    for folder in (whole / "model", whole / "checkpoint-8"):
        assert manifest.damage(folder) == ""
        assert (folder / "config.json").is_file() == (not lora)
        assert (folder / "tokenizer.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("program", ["prefer", "reward"])
def test_dpo_and_grpo_go_on_too(program, ranks, base, tmp_path):
    """GRPO is saved where a generation ends: what it has generated is in no checkpoint."""
    main, changes = f"rank_programs_finetune:{program}", {"logging_steps": 1}
    if program == "reward":
        changes |= {"num_generations": 4, "max_completion_length": 8, "steps_per_generation": 4}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for run, accident, code in ((whole, 0, 0), (broken, 6, -9), (broken, 0, 0)):
        ended = ranks.run(words(base, run, kill_at=accident, **changes), main=main, world=1)
        assert ended.codes == [code], ended.output
    assert losses(broken) == losses(whole)
    weights = [run / "model" / "model.safetensors" for run in (broken, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_adapters_are_merged_where_that_is_asked_for(ranks, base, tmp_path):
    from peft import PeftModel

    for name in ("alone", "merged"):
        given = words(base, tmp_path / name, lora="true", merge=str(name == "merged").lower())
        ended = ranks.run(given, main=PROGRAM, world=1)
        assert ended.codes == [0], ended.output
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged" / "model")
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = PeftModel.from_pretrained(model, tmp_path / "alone" / "model")
    ids = torch.arange(40)[None]
    before = AutoModelForCausalLM.from_pretrained(base)(ids).logits
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits)
    assert not torch.allclose(merged(ids).logits, before)
    config = json.loads((tmp_path / "merged" / "model" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.slow
def test_a_step_with_a_bad_gradient_is_skipped_and_a_signal_ends_the_run(ranks, base, tmp_path):
    run = tmp_path / "run"
    ended = ranks.run(words(base, run, bad_at=3), main=PROGRAM, world=2, config="ddp.yaml")
    assert set(ended.codes) == {0}, ended.output
    (skipped,) = (run / "skipped_steps.jsonl").read_text().splitlines()
    assert json.loads(skipped)["step"] == 3
    assert all(loss == pytest.approx(loss) for _, loss in losses(run))  # no NaN
    again = ranks.run(words(base, tmp_path / "stopped", stop_at=2), main=PROGRAM, world=1)
    assert again.codes == [75], again.output
    assert "SIGTERM: saving a checkpoint after this step, then ending" in again.output
    assert manifest.is_complete(tmp_path / "stopped" / "checkpoint-2")
