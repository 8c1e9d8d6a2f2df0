"""export.py: a checkpoint of any engine becomes the model that the run would have ended with."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import export
from hugcoder import checkpoint
from hugcoder.export_weights import export_checkpoint
from hugcoder.refusal import Refusal

ENGINES = ["ddp.yaml", "fsdp.yaml", "deepspeed.yaml"]
ENGINES += [pytest.param(f"deepspeed_zero{n}.yaml", marks=pytest.mark.slow) for n in (1, 2)]


@pytest.fixture(scope="module")
def runs(ranks, store, model_config, tmp_path_factory):
    """A finished run of two steps of each engine, whose last checkpoint is of the last step."""
    folder = tmp_path_factory.mktemp("runs")

    def run_of(engine: str) -> Path:
        run = folder / engine
        if run.exists():
            return run
        values = {
            "config_file": model_config,
            "token_store": store,
            "output_dir": run,
            "max_seq_length": 128,
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "eval_strategy": "no",
            "held_out_rows": 0,
            "save_steps": 2,
            "dataloader_num_workers": 0,
        }
        argv = [part for name, value in values.items() for part in (f"--{name}", value)]
        world = ranks.run(argv, config=engine)
        assert world.codes == [0, 0], world.output[-3000:]
        return run

    return run_of


def words(source: Path, output: Path, *more: str) -> list[str]:
    return [str(source), "--output_dir", str(output), *more]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for path in folder.glob("*.safetensors") for n, t in load_file(path).items()}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_exported_checkpoint_equals_the_final_model_of_its_step(engine, runs, tmp_path):
    run = runs(engine)
    export.main(words(run / "checkpoint-2", tmp_path / "out"))
    exported, final = tensors(tmp_path / "out"), tensors(run / "model")
    assert set(exported) == set(final)
    assert all(exported[name].equal(final[name]) for name in final)
    same = [path.name for path in (run / "model").glob("*.json") if path.name != "manifest.json"]
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= set(same)
    for name in same:
        assert (tmp_path / "out" / name).read_text() == (run / "model" / name).read_text()
    assert checkpoint.damage(tmp_path / "out") == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_every_checkpoint_folder_holds_config_and_tokenizer(engine, runs):
    folder = runs(engine) / "checkpoint-2"
    config = json.loads((folder / "config.json").read_text())
    assert config["use_cache"] is True
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).is_file()


@pytest.mark.parametrize("engine", ["fsdp.yaml", "ddp.yaml"])
def test_large_models_go_into_several_files_that_transformers_opens(engine, runs, tmp_path):
    source = runs(engine) / "checkpoint-2"
    export_checkpoint(source, tmp_path / "out", torch.bfloat16, max_file_bytes=100_000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    final = tensors(runs(engine) / "model")
    state = model.state_dict()
    assert all(state[name].equal(final[name].bfloat16()) for name in final)


def test_memory_is_taken_for_one_file_at_a_time(runs, tmp_path, monkeypatch):
    from hugcoder import export_weights

    largest = 0

    def save_and_measure(held, *rest, **settings):
        nonlocal largest
        largest = max(largest, sum(tensor.nbytes for tensor in held.values()))
        save_file(held, *rest, **settings)

    save_file = export_weights.save_file
    monkeypatch.setattr(export_weights, "save_file", save_and_measure)
    source = runs("fsdp.yaml") / "checkpoint-2"
    export_checkpoint(source, tmp_path / "out", max_file_bytes=100_000)
    of_tensors = [tensor.nbytes for tensor in tensors(tmp_path / "out").values()]
    assert largest <= max(100_000, *of_tensors) < sum(of_tensors)


def test_a_damaged_checkpoint_a_full_folder_and_missing_words_are_refused(runs, tmp_path):
    source = shutil.copytree(runs("fsdp.yaml") / "checkpoint-2", tmp_path / "checkpoint-2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(Refusal, match=r"output_dir .*mine is not empty"):
        export.main(words(source, tmp_path / "mine"))
    (source / "optimizer_0" / "__1_0.distcp").unlink()
    with pytest.raises(Refusal, match=r"not a complete checkpoint \(optimizer_0/__1_0\.distcp is"):
        export.main(words(source, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(Refusal, match="no checkpoint is given"):
        export.main(["--output_dir", "out"])
    with pytest.raises(Refusal, match="output_dir is not given"):
        export.main([str(source)])
