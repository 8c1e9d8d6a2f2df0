"""Model configs: what the hub has is read as it is, what is mistyped is refused in one sentence."""

import json
from pathlib import Path

import pytest
from tiny_models import MODEL_TYPES, SMALL_TYPES, small_config
from transformers import CONFIG_MAPPING

from hugcoder.model.config import check_config, read_config
from hugcoder.refusal import Refusal

ROOT = Path(__file__).resolve().parents[1]
TINY = json.loads((ROOT / "configs/models/tiny.json").read_text())
WITHOUT_DEFAULT = {"dots3_note_text", "gemma4_assistant", "moshi", "zamba2", "zaya"}

# As published: keys of old releases, other names of settings, positions that are stretched.
PUBLISHED = {
    "gpt2": {
        "activation_function": "gelu_new",
        "n_ctx": 1024,
        "n_embd": 64,
        "n_head": 4,
        "n_layer": 2,
        "n_positions": 1024,
        "summary_type": "cls_index",
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    },
    "llama": {
        "_name_or_path": "meta/llama",
        "architectures": ["LlamaForCausalLM"],
        "auto_map": {},
        "hidden_size": 64,
        "is_llama_config": True,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pretraining_tp": 1,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0",
    },
    "deepseek_v2": {
        "aux_loss_alpha": 0.001,
        "seq_aux": True,
        "num_experts_per_tok": 6,
        "scoring_func": "softmax",
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
    },
    "starcoder2": {"norm_type": "layer_norm", "mlp_type": "default", "rope_theta": 1e6},
    "phi": {
        "hidden_size": 2560,
        "partial_rotary_factor": 0.4,
        "qk_layernorm": False,
        "rope_scaling": None,
    },
    "qwen2": {"use_mrope": False, "sliding_window": 32768, "max_window_layers": 24},
}


def written(folder: Path, values: dict) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return str(path)


def changed(folder: Path, *without: str, **changes) -> str:
    """tiny.json with other values."""
    return written(folder, {k: v for k, v in TINY.items() if k not in without} | changes)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_transformers_writes_of_a_model_type_is_read_back(model_type, tmp_path):
    if model_type in WITHOUT_DEFAULT:
        pytest.skip("its class refuses its own defaults or sets what it was not given")
    path = tmp_path / "config.json"
    for config in (CONFIG_MAPPING[model_type](), small_config(model_type)):
        for is_short in (True, False):
            path.write_text(config.to_json_string(use_diff=is_short))
            assert read_config(str(path)).to_json_string() == config.to_json_string()


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_published_configs_are_taken_with_their_old_keys(model_type, tmp_path):
    values = PUBLISHED[model_type]
    check_config(written(tmp_path, {"model_type": model_type} | values))


TRIED = ["deepseek_v3", "gpt_neox", "mixtral", "qwen3_moe", "starcoder2"]
REST = [pytest.param(n, marks=pytest.mark.slow) for n in SMALL_TYPES if n not in TRIED]
NO_HEADS = {"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"}


@pytest.mark.parametrize("model_type", [*TRIED, *REST])
def test_a_model_of_every_type_is_tried_without_a_false_alarm(model_type, tmp_path):
    path = written(tmp_path, json.loads(small_config(model_type).to_json_string()))
    if model_type in NO_HEADS:
        with pytest.raises(Refusal, match="has no num_attention_heads"):
            check_config(path)
    else:
        check_config(path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/models").glob("*.json")), ids=str)
def test_our_own_configs_are_taken(path):
    check_config(str(path))


@pytest.mark.parametrize(
    ("right", "typo"),
    [
        ("num_hidden_layers", "num_layers"),
        ("hidden_size", "hidden_sizes"),
        ("tie_word_embeddings", "tie_embeddings"),
        ("num_key_value_heads", "num_kv_heads"),
        ("rms_norm_eps", "rms_norm_epsilon"),
        ("rope_theta", "rope_thetta"),
    ],
)
def test_an_unknown_key_is_refused_with_its_nearest_known_one(right, typo, tmp_path):
    path = changed(tmp_path, right, **{typo: TINY[right]})
    with pytest.raises(Refusal, match=rf"config\.json: .*'{typo}' \(did you mean '{right}'\?\)"):
        read_config(path)


TWICE = {
    "gpt2": [{"n_layer": 2, "num_hidden_layers": 3}, {"n_embd": 64, "hidden_size": 32}],
    "llama": [
        {"dtype": "float32", "torch_dtype": "bfloat16"},
        {"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {
            "rope_scaling": {"type": "linear", "factor": 2.0},
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
        },
    ],
}


@pytest.mark.parametrize(
    ("model_type", "values"), [(name, values) for name in TWICE for values in TWICE[name]], ids=str
)
def test_one_setting_under_two_names_must_have_one_value(model_type, values, tmp_path):
    with pytest.raises(Refusal, match=rf"twice and differently, as .*{next(iter(values))}"):
        read_config(written(tmp_path, {"model_type": model_type} | values))


@pytest.mark.parametrize(
    ("model_type", "values"),
    [
        ("gpt2", {"n_layer": 2, "num_hidden_layers": 2}),
        ("llama", {"dtype": "float32", "torch_dtype": "float32"}),
        ("llama", {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e4}}),
        ("llama", {"rope_scaling": None, "rope_parameters": {"rope_theta": 1e4}}),
        (
            "llama",
            {
                "rope_scaling": {"type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            },
        ),
        ("llama", {"quantization_config": None}),
    ],
    ids=str,
)
def test_one_value_under_two_names_and_an_empty_section_pass(model_type, values, tmp_path):
    config = read_config(written(tmp_path, {"model_type": model_type} | values))
    assert "quantization_config" not in json.loads(config.to_json_string())


def test_another_model_types_name_for_a_setting_is_unknown(tmp_path):
    """n_layer is GPT-2's; here it would leave 32 layers."""
    with pytest.raises(Refusal, match="qwen3 has no setting 'n_layer'"):
        read_config(changed(tmp_path, "num_hidden_layers", n_layer=4))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"rope_parameters": {"rope_type": "yarn", "fctor": 4.0}},
            r"'fctor' \(did .* 'factor'\?\)",
        ),
        ({"rope_scaling": {"type": "lineer", "factor": 4.0}}, "rope_type 'lineer' .* 'linear'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "Missing required keys.*factor"),
        ({"rope_parameters": {"rope_type": "default", "factor": 4.0}}, "Unrecognized keys.*factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "four"}}, "has factor 'four'"),
        ({"rope_parameters": {"full_atention": {"rope_type": "linear"}}}, "'full_attention'"),
    ],
)
def test_positions_are_checked_too(values, words, tmp_path):
    with pytest.raises(Refusal, match=words):
        check_config(changed(tmp_path, "rope_theta", **values))


def test_sections_of_other_configs_are_checked_too(tmp_path):
    values = json.loads(small_config("dbrx").to_json_string())
    values["ffn_config"]["moe_num_expert"] = 8
    with pytest.raises(Refusal, match=r"ffn_config: .*'moe_num_expert' .*'moe_num_experts'"):
        read_config(written(tmp_path, values))


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": "four"},
        {"num_hidden_layers": None},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": -2},
        {"num_hidden_layers": True},
        {"hidden_size": [256]},
        {"hidden_size": 256.5},
        {"num_key_value_heads": 3},
        {"num_key_value_heads": 8},
        {"num_attention_heads": 0},
        {"head_dim": 63},
        {"head_dim": 0},
        {"intermediate_size": 0},
        {"hidden_act": "sillu"},
        {"rms_norm_eps": -1e-6},
        {"initializer_range": 0.0},
        {"initializer_range": -0.02},
        {"attention_dropout": 1.5},
        {"attention_dropout": -1},
        {"rope_theta": 0},
        {"rope_theta": -1.0},
        {"layer_types": ["full_attention"]},
        {"dtype": "float33"},
        {"torch_dtype": []},
        {"quantization_config": {"bits": 4}},
        {"model_type": "qwen33"},
        {"model_type": "t5"},
        {"model_type": ["qwen3"]},
        {"model_type": None},
        {"model_type": "mamba"},
    ],
    ids=str,
)
def test_values_that_make_no_model_are_one_sentence_with_the_file(change, tmp_path):
    path = changed(tmp_path, **change)
    with pytest.raises(Refusal, match=r"config\.json") as refused:
        check_config(path)
    assert "\n" not in str(refused.value)


def test_a_key_that_only_the_models_code_asks_for_is_taken(tmp_path):
    values = json.loads(small_config("starcoder2").to_json_string()) | {"head_dim": 32}
    config = read_config(written(tmp_path, values))
    assert config.head_dim == 32
    with pytest.raises(Refusal, match="no setting 'head_dims'"):
        read_config(written(tmp_path, values | {"head_dims": 32}))


def test_heads_that_cannot_share_keys_are_named(tmp_path):
    with pytest.raises(Refusal, match="num_attention_heads 4 is not a multiple of num_key_value"):
        read_config(changed(tmp_path, num_attention_heads=4, num_key_value_heads=3))


def test_sizes_that_do_not_fit_each_other_are_refused(tmp_path):
    values = {"model_type": "gpt2", "n_embd": 65, "n_head": 4, "n_layer": 2}
    with pytest.raises(Refusal, match=r"config\.json.*divisible"):
        check_config(written(tmp_path, values))
    values = {"model_type": "mixtral", "hidden_size": 64, "num_experts_per_tok": 9}
    with pytest.raises(Refusal, match=r"no model can be made of .*config\.json"):
        check_config(written(tmp_path, values | {"num_hidden_layers": 1}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("[]", "not a JSON object"),
        (
            '{"model_type": "qwen3", "hidden_size": 8, "hidden_size": 16}',
            "'hidden_size' is there tw",
        ),
        ('{"model_type": "qwen3", "rms_norm_eps": NaN}', "NaN is not a number"),
        ("\xff", "utf-8"),
    ],
)
def test_files_that_are_no_config_are_refused(text, words, tmp_path):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(Refusal, match=rf"config\.json is not a Hugging Face model config.*{words}"):
        read_config(str(tmp_path / "config.json"))
    with pytest.raises(Refusal, match=r"nothing\.json is not .*No such file"):
        read_config(str(tmp_path / "nothing.json"))
