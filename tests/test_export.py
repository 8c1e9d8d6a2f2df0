"""export.py: a checkpoint of any engine becomes the model that the run would have ended with."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from rank_programs_init import LiveBytes
from ranks import variant
from run_in_ranks import TinyRun, assert_same_weights
from safetensors.torch import load_file, save_file
from tiny_models import small_config
from transformers import AutoConfig, AutoModelForCausalLM

import export
from hugcoder.model import manifest
from hugcoder.refusal import Refusal
from hugcoder.run.export_weights import complete_model, export_checkpoint, weight_shapes

ENGINES = ["ddp.yaml", "fsdp.yaml", "deepspeed.yaml"]
ENGINES += [pytest.param(f"deepspeed_zero{n}.yaml", marks=pytest.mark.slow) for n in (1, 2)]


@pytest.fixture(scope="module")
def runs(ranks, store, model_config, tmp_path_factory) -> TinyRun:
    """Runs of two steps, whose last checkpoint is of the last step."""
    return TinyRun(ranks, store, model_config, tmp_path_factory.mktemp("runs"), max_steps=2)


def words(source: Path, output: Path, *more: str) -> list[str]:
    return [str(source), "--output_dir", str(output), *more]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for path in folder.glob("*.safetensors") for n, t in load_file(path).items()}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_exported_checkpoint_equals_the_final_model_of_its_step(engine, runs, tmp_path):
    run = runs.whole(engine)
    export.main(words(run / "checkpoint-2", tmp_path / "out"))
    exported, final = tensors(tmp_path / "out"), tensors(run / "model")
    assert_same_weights(exported, final)
    same = [path.name for path in (run / "model").glob("*.json") if path.name != "manifest.json"]
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= set(same)
    for name in same:
        assert (tmp_path / "out" / name).read_text() == (run / "model" / name).read_text()
    assert manifest.damage(tmp_path / "out") == ""


def test_what_fsdp_wrote_in_one_file_is_exported_too(runs, tmp_path):
    full = {"fsdp_state_dict_type": "FULL_STATE_DICT"}
    run = runs.whole(variant(runs.folder, "fsdp.yaml", fsdp_config=full))
    export.main(words(run / "checkpoint-2", tmp_path / "out"))
    assert_same_weights(tensors(tmp_path / "out"), tensors(run / "model"))


@pytest.mark.parametrize("engine", ENGINES)
def test_every_checkpoint_folder_holds_config_and_tokenizer(engine, runs):
    folder = runs.whole(engine) / "checkpoint-2"
    config = json.loads((folder / "config.json").read_text())
    assert config["use_cache"] is True
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).is_file()


@pytest.mark.parametrize("engine", ["fsdp.yaml", "ddp.yaml"])
def test_large_models_go_into_several_files_that_transformers_opens(engine, runs, tmp_path):
    source = runs.whole(engine) / "checkpoint-2"
    export_checkpoint(source, tmp_path / "out", torch.bfloat16, max_file_bytes=100_000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    final = tensors(runs.whole(engine) / "model")
    state = model.state_dict()
    assert all(state[name].equal(final[name].bfloat16()) for name in final)


@pytest.mark.parametrize("engine", ["fsdp.yaml", "ddp.yaml"])
def test_memory_is_taken_for_one_file_at_a_time(engine, runs, tmp_path):
    config = json.loads(runs.words["config_file"].read_text()) | {"num_hidden_layers": 12}
    (tmp_path / "deep.json").write_text(json.dumps(config))
    runs.run(tmp_path / "run", engine, config_file=tmp_path / "deep.json")
    source = tmp_path / "run" / "checkpoint-2"
    with LiveBytes() as live:
        export_checkpoint(source, tmp_path / "out", max_file_bytes=300_000)
    largest = max(tensor.nbytes for tensor in tensors(tmp_path / "out").values())
    num_files = len(list((tmp_path / "out").glob("*.safetensors")))
    assert num_files == 7
    # beside the file, the pieces that torch puts its largest tensor together from
    assert largest <= live.peak <= 300_000 + largest


@pytest.mark.parametrize("family", ["llama", "mixtral"])  # of the second, files name other pieces
def test_only_a_folder_with_all_weights_becomes_a_finished_model(family, tmp_path):
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    config = AutoConfig.for_model(family, num_attention_heads=2, num_key_value_heads=2, **shape)
    model = AutoModelForCausalLM.from_config(config)
    expected = weight_shapes(model)
    model.save_pretrained(tmp_path / "whole")
    complete_model(tmp_path / "whole", expected, {"step": 1})
    assert manifest.manifest_of(tmp_path / "whole")["kind"] == "model"

    weights = tensors(tmp_path / "whole")
    first = next(name for name in weights if "down_proj" in name or "w2" in name)
    for damaged in ({first: weights[first][:0]}, {first: weights[first][:4].clone()}, None):
        folder = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "manifest.json").unlink()
        kept = weights | damaged if damaged else {n: t for n, t in weights.items() if n != first}
        save_file(kept, folder / "model.safetensors")
        with pytest.raises(Refusal, match=r"is not the whole model: .* first"):
            complete_model(folder, expected, {"step": 1})
        assert not (folder / "manifest.json").exists()
        shutil.rmtree(folder)


def test_a_damaged_checkpoint_a_full_folder_and_missing_words_are_refused(runs, tmp_path):
    source = shutil.copytree(runs.whole("fsdp.yaml") / "checkpoint-2", tmp_path / "checkpoint-2")
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


@pytest.mark.parametrize(
    ("layers", "said"),
    [(3, r"model\.layers\.2\.\S+ is missing"), (1, r"model\.layers\.1\.\S+ is in the files but")],
)
@pytest.mark.parametrize("engine", ["ddp.yaml", "fsdp.yaml", "deepspeed.yaml"])
def test_weights_that_are_not_the_configs_are_refused(engine, layers, said, runs, tmp_path):
    source = shutil.copytree(runs.whole(engine) / "checkpoint-2", tmp_path / "checkpoint-2")
    config = json.loads((source / "config.json").read_text())
    changes = {"num_hidden_layers": layers, "layer_types": ["full_attention"] * layers}
    (source / "config.json").write_text(json.dumps(config | changes))
    manifest.complete(source, manifest.facts_of(source))
    with pytest.raises(Refusal, match=rf"not those of its config\.json: {said}"):
        export_checkpoint(source, tmp_path / "out")


def test_widths_that_are_not_the_configs_are_refused(runs, tmp_path):
    source = shutil.copytree(runs.whole("fsdp.yaml") / "checkpoint-2", tmp_path / "checkpoint-2")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    manifest.complete(source, manifest.facts_of(source))
    with pytest.raises(Refusal, match="has another shape"):
        export_checkpoint(source, tmp_path / "out")


def test_a_tied_weight_that_is_there_twice_with_other_values_is_refused(runs, tmp_path):
    source = shutil.copytree(runs.whole("ddp.yaml") / "checkpoint-2", tmp_path / "checkpoint-2")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = 2 * weights["model.embed_tokens.weight"]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    manifest.complete(source, manifest.facts_of(source))
    with pytest.raises(Refusal, match=r"ties lm_head\.weight to model\.embed_tokens\.weight"):
        export_checkpoint(source, tmp_path / "out")


def test_a_file_beside_the_weights_is_not_exported_for_them(runs, tmp_path):
    source = shutil.copytree(runs.whole("ddp.yaml") / "checkpoint-2", tmp_path / "checkpoint-2")
    own = load_file(source / "model.safetensors")
    others = {name: torch.zeros_like(value) for name, value in own.items()}
    save_file(others, source / "model_before.safetensors", metadata={"format": "pt"})
    export_checkpoint(source, tmp_path / "out")
    assert_same_weights(tensors(tmp_path / "out"), own)


def test_experts_that_transformers_saves_under_other_names_are_exported(runs, tmp_path):
    """Symptom: a KeyError for every checkpoint of such a model that no engine had sharded."""
    config = tmp_path / "moe.json"
    config.write_text(small_config("qwen3_moe").to_json_string())
    run = runs.whole(max_steps=2, config_file=config, residual_init="normal")
    export.main(words(run / "checkpoint-2", tmp_path / "exported"))
    assert_same_weights(tensors(tmp_path / "exported"), tensors(run / "model"))
    loaded, expected = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (tmp_path / "exported", run / "model")
    )
    assert_same_weights(loaded, expected)
