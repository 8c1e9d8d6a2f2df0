"""All files of a tokenizer go where the model goes: store, checkpoint, model folder, export."""

import json
import shutil
from pathlib import Path

import pytest
from run_in_ranks import command_line, tiny_words

import export
import train
from data_prep.tokenize_corpus import tokenize
from hugcoder.data.tokenizer_files import copy_tokenizer, files_in
from hugcoder.generation.loading import load_checkpoint

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% endfor %}"


@pytest.fixture
def source(tokenizer, codec, model_config, tmp_path) -> Path:
    """A chat model's folder with the weights of a random one."""
    from transformers import AutoModelForCausalLM

    from hugcoder.model.build import fit_config
    from hugcoder.model.config import read_config

    folder = shutil.copytree(tokenizer, tmp_path / "source")
    config = fit_config(read_config(str(model_config)), codec, 128)
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = [codec.special_ids["<|im_end|>"]]
    model.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("tools" + TEMPLATE)
    (folder / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 0}, indent=4))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    (folder / "tokenizer.model").write_bytes(b"\x00sentencepiece")
    return folder


@pytest.fixture
def hub(source, tmp_path, monkeypatch) -> str:
    """The same model as it lies in the cache of the hub, which is not asked."""
    cache = tmp_path / "cache" / "models--org--chat"
    shutil.copytree(source, cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.CACHE_DIR", str(cache.parent), raising=False)
    return "org/chat"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in files_in(folder)}


def test_a_copy_has_every_file_byte_for_byte(source, tmp_path):
    copy_tokenizer(source, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(source)
    assert {"additional_chat_templates/tools.jinja", "tokenizer.model"} < contents(source).keys()


def test_a_store_keeps_every_file(source, corpus, tmp_path):
    tokenize(corpus, source, tmp_path / "store")
    assert contents(tmp_path / "store" / "tokenizer") == contents(source)


@pytest.mark.parametrize("kind", ["folder", "hub"])
def test_a_model_that_is_continued_keeps_its_chat_template(kind, source, store, codec, request):
    from transformers import AutoTokenizer

    run = source.parent / "run"
    words = tiny_words(store, "", output_dir=run, max_steps=1, save_steps=1)
    name = str(source) if kind == "folder" else request.getfixturevalue("hub")
    train.main(command_line(words | {"config_file": None, "model_name_or_path": name}))
    export.main([str(run / "checkpoint-1"), "--output_dir", str(run / "exported")])
    for folder in (run / "model", run / "checkpoint-1", run / "exported"):
        assert contents(folder) == contents(source), folder
    theirs, ours = (AutoTokenizer.from_pretrained(folder) for folder in (source, run / "model"))
    assert ours.chat_template == theirs.chat_template
    asked = [{"role": "user", "content": "read a file"}]
    chat = {"chat_template": TEMPLATE, "tokenize": False}
    assert ours.apply_chat_template(asked, **chat) == "<|im_start|>user\nread a file"
    ends = json.loads((run / "model" / "generation_config.json").read_text())["eos_token_id"]
    fim = codec.fim_ids
    assert ends == sorted({*fim.stops, *fim.sentinels.values(), codec.special_ids["<|im_end|>"]})


def test_a_model_of_the_hub_is_found_in_its_cache(hub, codec):
    model, loaded = load_checkpoint(hub, device="cpu")
    assert model.config.num_hidden_layers == 2
    assert loaded.fingerprint == codec.fingerprint
