"""Initial weights of what writes into the residual stream: all of it or a refusal, never half."""

import pytest
import torch
from tiny_models import SMALL_TYPES, small_config

from hugcoder.model.random_init import build_random
from hugcoder.model.residual import layers_of, with_noisy_residual_outputs, writes_to_residual
from hugcoder.refusal import Refusal

COMMON = [
    "deepseek_v3",
    "falcon",
    "gemma2",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "gptj",
    "llama",
    "mistral",
    "mixtral",
    "nanochat",
    "olmo2",
    "opt",
    "phi",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "starcoder2",
]
ALL = [pytest.param(n, marks=[] if n in COMMON else pytest.mark.slow) for n in SMALL_TYPES]
CLASS_SCALES = {
    **dict.fromkeys(["gpt2", "gpt-sw3", "gpt_bigcode"], ("attn.c_proj", "mlp.c_proj")),
    "recurrent_gemma": ("linear_out", "o_proj"),
    "nanochat": ("self_attn.o_proj",),
    **dict.fromkeys(["falcon_mamba", "mamba", "mamba2", "nemotron_h"], ("mixer.out_proj",)),
}
NOT_DRAWN = {"apertus", "data2vec-text", "falcon_h1", "openai-gpt"}
REFUSED = {
    "bart", "beam", "bert", "bert-generation", "big_bird", "blenderbot-small", "camembert",
    "cpmant", "ctrl", "data2vec-text", "deepseek_v4", "electra", "ernie", "gemma3n_text",
    "gemma4_text", "hy_v4", "inkling2_text", "inkling_text", "marian", "megatron-bert",
    "minimax", "modernbert-decoder", "moshi", "mvp", "openai-gpt", "plbart", "prophetnet",
    "qwen4_exp_text", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "rwkv", "trocr", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xlstm",
}  # fmt: skip


def build(config, residual_init, seed=1):
    return build_random(config, "eager", seed=seed, residual_init=residual_init, on_meta=False)


def moved_by_layers(model) -> list[float]:
    """How far each layer takes the hidden states from what came in, at most."""
    moved = []

    def measure(module, args, kwargs, output):
        came = args[0] if args else kwargs["hidden_states"]
        went = output[0] if isinstance(output, (tuple, list)) else output
        moved.append((went - came).abs().max().item())

    hooks = [
        layer.register_forward_hook(measure, with_kwargs=True)
        for _, layer in layers_of(model)
        if next(layer.parameters(), None) is not None
    ]
    with torch.no_grad():
        model.eval()(input_ids=torch.arange(5, 13)[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return moved


@pytest.mark.parametrize("model_type", ALL)
def test_zeros_make_every_layer_the_identity_or_are_refused(model_type):
    config = small_config(model_type)
    if model_type in REFUSED:
        with pytest.raises(
            Refusal, match=rf"residual_init zero .*{model_type}.*residual_init norm"
        ):
            build(config, "zero")
        return
    if model_type in NOT_DRAWN:
        with pytest.raises(
            Refusal, match=rf"{model_type} cannot be given random weights: its class"
        ):
            build(config, "zero")
        return
    model = build(config, "zero")
    assert set(moved_by_layers(model)) == {0.0}
    with with_noisy_residual_outputs(model):
        assert min(moved_by_layers(model)) > 0
    assert set(moved_by_layers(model)) == {0.0}


@pytest.mark.parametrize("model_type", [p for p in ALL if p.values[0] not in REFUSED | NOT_DRAWN])
def test_scaled_divides_once_and_changes_nothing_else(model_type):
    plain, scaled = (build(small_config(model_type), how) for how in ("normal", "scaled"))
    by_class, factor = (
        CLASS_SCALES.get(model_type, ()),
        (2 * plain.config.num_hidden_layers) ** -0.5,
    )
    drawn, outputs = plain.state_dict(), 0
    for name, tensor in scaled.state_dict().items():
        is_scaled = writes_to_residual(name) and not any(part in name for part in by_class)
        assert torch.equal(tensor, drawn[name] * factor if is_scaled else drawn[name]), name
        outputs += writes_to_residual(name)
    assert outputs >= len(list(layers_of(plain)))


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_bigcode"])
def test_scaled_gives_gpt_2_one_over_the_root_of_its_branches(model_type):
    model = build(small_config(model_type), "scaled")
    outputs = [p for name, p in model.named_parameters() if name.endswith("c_proj.weight")]
    wanted = model.config.initializer_range / 6**0.5
    assert [p.std().item() for p in outputs] == pytest.approx([wanted] * 6, rel=0.05)


@pytest.mark.parametrize(
    ("model_type", "setting"),
    [
        ("opt", {"do_layer_norm_before": False}),
        ("bloom", {"apply_residual_connection_post_layernorm": True}),
    ],
)
def test_layers_that_normalize_the_stream_are_refused(model_type, setting):
    config = small_config(model_type, **setting)
    with pytest.raises(Refusal, match="do more than add to the residual stream"):
        build(config, "scaled")
    assert build(config, "normal").config.model_type == model_type


def test_a_layer_with_one_unknown_branch_is_refused_and_left_as_drawn_with_normal():
    with pytest.raises(
        Refusal,
        match=r"residual_init scaled is not known for model type rwkv: the matrix with which "
        r"rwkv\.blocks\.0\.attention adds to the residual stream is not known; give",
    ):
        build(small_config("rwkv"), "scaled")
