"""Weights are those of the files: what is missing, left over, cut or no number is one sentence."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from evaluation_fixtures import tiny_llama
from safetensors.torch import load_file, save_file

from hugcoder.model import manifest
from hugcoder.model.pretrained import check_files, load_causal_lm
from hugcoder.refusal import Refusal


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A model in one file; its output layer is tied."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    model = tiny_llama()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def shards(saved, tmp_path) -> Path:
    """The same model in several files with an index."""
    model = load(saved)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    return tmp_path / "shards"


def load(folder, dtype=torch.float32):
    return load_causal_lm(str(folder), dtype)


def configure(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refusal_of(folder, dtype=torch.float32) -> str:
    with pytest.raises(Refusal) as refused:
        load(folder, dtype)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ---- weights that are not the config's -----------------------------------------------------------


def test_more_layers_in_the_config_are_not_drawn_at_random(folder, capsys, caplog):
    configure(folder, num_hidden_layers=3)
    said = refusal_of(folder)
    assert "model.layers.2.input_layernorm.weight" in said
    assert said.count("model.layers.2") == 3
    assert "6 more are missing in the files" in said
    assert "LOAD REPORT" not in caplog.text + capsys.readouterr().err


def test_fewer_layers_in_the_config_leave_nothing_out(folder):
    configure(folder, num_hidden_layers=1)
    assert "6 more are in the files and not in the model" in refusal_of(folder)


def test_other_widths_name_both_shapes(folder):
    width = json.loads((folder / "config.json").read_text())["intermediate_size"]
    configure(folder, intermediate_size=width + 8)
    assert f"{width}] in the file, " in refusal_of(folder)
    assert f"{width + 8}] by the config)" in refusal_of(folder)


def test_an_output_layer_that_the_config_does_not_tie_must_be_there(folder):
    configure(folder, tie_word_embeddings=False)
    assert "lm_head.weight is missing in the files" in refusal_of(folder)


def test_a_tied_output_layer_may_be_saved_twice_or_once(folder):
    embedding = "model.embed_tokens.weight"
    change_weights(folder, lambda w: w.update({"lm_head.weight": w[embedding].clone()}))
    model = load(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_output_layer_of_its_own_is_not_lost_to_a_config_that_ties_it(folder, tmp_path, caplog):
    own = 2 * load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change_weights(folder, lambda w: w.update({"lm_head.weight": own}))
    model = load(folder)
    assert model.config.tie_word_embeddings is False
    assert f"{folder}: its config.json says tie_word_embeddings" in caplog.text
    model.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors")["lm_head.weight"].equal(own)
    assert load(tmp_path / "again").lm_head.weight.equal(own)


@pytest.mark.parametrize("engine", ["ddp.yaml", "fsdp.yaml", "deepspeed.yaml"])
def test_every_engine_trains_and_saves_an_untied_output_layer(engine, tiny, tmp_path):
    if not (tiny.folder / "source").is_dir():
        tiny.run("source", max_steps=1)
    model = shutil.copytree(tiny.folder / "source" / "model", tmp_path / "model")
    (model / "manifest.json").unlink()
    own = 2 * load_file(model / "model.safetensors")["model.embed_tokens.weight"]
    change_weights(model, lambda w: w.update({"lm_head.weight": own}))
    configure(model, tie_word_embeddings=True)
    words = {"config_file": None, "model_name_or_path": model, "max_steps": 1}
    tiny.run(tmp_path / "next", engine, **words, learning_rate=0)
    after = tmp_path / "next" / "model"
    assert json.loads((after / "config.json").read_text())["tie_word_embeddings"] is False
    assert load_file(after / "model.safetensors")["lm_head.weight"].equal(own)


def test_buffers_of_old_releases_are_ignored_as_transformers_does(folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_weights(folder, lambda w: w.update({name: torch.ones(4)}))
    assert load(folder).config.num_hidden_layers == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder, value):
    change_weights(folder, lambda w: w["model.norm.weight"][3:4].fill_(value))
    assert "model.norm.weight of" in refusal_of(folder)
    assert "nan or infinite as float32" in refusal_of(folder)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64, torch.bool])
def test_weights_that_are_stored_as_whole_numbers_are_refused(folder, dtype):
    name = "model.layers.0.mlp.up_proj.weight"
    change_weights(folder, lambda w: w.update({name: w[name].to(dtype)}))
    assert f"{name} in {folder / 'model.safetensors'} is stored as " in refusal_of(folder)


def test_weights_that_half_precision_cannot_hold_are_refused(folder):
    change_weights(folder, lambda w: w["model.norm.weight"][3:4].fill_(1e6))
    assert load(folder).model.norm.weight.max() == 1e6
    assert "infinite as float16" in refusal_of(folder, torch.float16)


# ---- files ---------------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 269060552\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (POINTER, "is a git-lfs pointer"),
        (None, "is cut or holds no weights .*incomplete metadata"),
        (b"\x80\x00", "is cut or holds no weights"),
    ],
    ids=["empty", "lfs", "half", "garbage"],
)
def test_a_broken_file_is_named(folder, content, words):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(Refusal, match=rf"model\.safetensors {words}"):
        load(folder)


@pytest.mark.parametrize("content", [b"", POINTER, None, b"garbage"])
def test_a_broken_file_of_torch_save_is_named(folder, content):
    path = folder / "pytorch_model.bin"
    torch.save(load_file(folder / "model.safetensors"), path)
    (folder / "model.safetensors").unlink()
    assert load(folder).config.num_hidden_layers == 2
    path.write_bytes(path.read_bytes()[:20_000] if content is None else content)
    with pytest.raises(Refusal, match=r"pytorch_model\.bin is"):
        load(folder)


def test_a_shard_that_is_missing_or_cut_is_named(shards):
    assert load(shards).config.num_hidden_layers == 2
    second = sorted(shards.glob("*.safetensors"))[1]
    second.write_bytes(second.read_bytes()[:1000])
    with pytest.raises(Refusal, match=rf"{second.name} is cut"):
        load(shards)
    second.unlink()
    with pytest.raises(Refusal, match=rf"{second.name} is not there, but the index names it"):
        load(shards)


def test_an_index_that_leaves_a_file_out_does_not_hide_its_weights(shards):
    path = shards / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    last = sorted(set(index["weight_map"].values()))[-1]
    index["weight_map"] = {n: f for n, f in index["weight_map"].items() if f != last}
    path.write_text(json.dumps(index))
    assert "missing in the files" in refusal_of(shards)


def test_a_shard_with_other_weights_than_the_index_gives_it_is_named(shards):
    path = shards / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    given = index["weight_map"]
    files = list(given.values())
    name, file = next((n, f) for n, f in given.items() if files.count(f) > 1)
    less = {other: f for other, f in given.items() if other != name}
    path.write_text(json.dumps(index | {"weight_map": less}))
    assert f"{file} holds {name}, which the index does not list" in refusal_of(shards)
    path.write_text(json.dumps(index | {"weight_map": given | {"another": file}}))
    assert f"{file} lacks another, which the index says" in refusal_of(shards)


NO_METADATA = '{"weight_map": {"a": "b.safetensors"}}'


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": {"a": 1}}', '{"metadata": {}}', NO_METADATA]
)
def test_an_index_that_is_none_is_named(shards, content):
    (shards / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal_of(shards)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_settings_that_are_no_json_are_named_and_not_left_out(folder, name):
    (folder / name).write_text("{,")
    assert f"{name} is not JSON" in refusal_of(folder)


@pytest.mark.parametrize(
    "config",
    [{}, {"model_type": "qwen33"}, {"model_type": "t5"}, {"auto_map": {"AutoConfig": "a.B"}}],
    ids=str,
)
def test_a_config_of_no_causal_model_is_one_sentence(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    assert f"{folder} cannot be loaded: " in refusal_of(folder)


def test_a_key_of_a_models_config_that_has_no_effect_is_told_with_its_nearest(folder, caplog):
    load(folder)
    assert "config.json" not in caplog.text
    configure(folder, rms_norm_epss=1e-3)
    assert load(folder).config.rms_norm_eps != 1e-3
    assert "llama has no setting 'rms_norm_epss' (did you mean 'rms_norm_eps'?)" in caplog.text


def test_a_name_that_is_nowhere_is_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "nobody/nothing cannot be loaded: " in refusal_of("nobody/nothing")


# ---- manifests -----------------------------------------------------------------------------------


def test_a_folder_that_is_not_what_its_manifest_says_is_refused(folder):
    manifest.complete(folder, {"kind": manifest.MODEL, "step": 1})
    assert load(folder).config.num_hidden_layers == 2
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert "is damaged (config.json has" in refusal_of(folder)
    (folder / "manifest.json").unlink()
    assert load(folder).config.num_hidden_layers == 2


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_change_that_keeps_the_size_is_noticed_too(folder, name):
    manifest.complete(folder, {"kind": manifest.MODEL, "step": 1})
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace("5", "4", 1))
    assert (folder / name).read_text() != text
    assert f"is damaged ({name} has changed" in refusal_of(folder)


def test_a_checkpoint_without_its_optimizer_is_a_model(folder):
    (folder / "optimizer.pt").write_bytes(b"1")
    manifest.complete(folder, {"kind": manifest.MODEL, "step": 1})
    (folder / "optimizer.pt").unlink()
    assert load(folder).config.num_hidden_layers == 2


@pytest.mark.parametrize("shard", ["pytorch_model_fsdp_0/__0_0.distcp", "global_step2/x.pt"])
def test_a_checkpoint_of_shards_alone_names_the_command_that_makes_a_model_of_it(folder, shard):
    (folder / "model.safetensors").unlink()
    (folder / shard).parent.mkdir()
    (folder / shard).touch()
    with pytest.raises(
        Refusal, match=r"make a model of it first: python export.py .* --output_dir FOLDER"
    ):
        check_files(str(folder))


def test_another_programs_manifest_is_none_of_ours(folder):
    (folder / "manifest.json").write_text('{"name": "app"}')
    assert load(folder).config.num_hidden_layers == 2


# ---- engines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["ddp.yaml", "fsdp.yaml", "deepspeed.yaml"])
def test_every_engine_continues_whole_weights_and_refuses_others(engine, tiny, tmp_path):
    if not (tiny.folder / "source").is_dir():
        tiny.run("source", max_steps=1)
    model = tiny.folder / "source" / "model"
    words = {"config_file": None, "model_name_or_path": model, "max_steps": 1}
    tiny.run("next", engine, **words, learning_rate=0)
    before, after = (
        load_file(run / "model.safetensors") for run in (model, tiny.folder / "next" / "model")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    (model / "manifest.json").unlink()
    configure(model, num_hidden_layers=1, layer_types=["full_attention"])
    refused = tiny.run("less", engine, code=2, **words)
    assert "are in the files and not in the model" in refused.output
    configure(model, num_hidden_layers=3, layer_types=["full_attention"] * 3)
    refused = tiny.run("more", engine, code=2, **words)
    assert "are missing in the files" in refused.output
    assert "Traceback" not in refused.output
