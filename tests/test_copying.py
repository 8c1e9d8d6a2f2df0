"""Heads that copy: what they look at before any training, and which models can have them."""

import pytest
import torch
from transformers import AutoConfig

from hugcoder.model.random_init import build_random
from hugcoder.pretraining.arguments import ModelArguments
from hugcoder.refusal import Refusal

SHAPE = {
    **{"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
}
COPIES = 2


def build(model_type="qwen3", copy_heads=COPIES, seed=1, **changes):
    config = AutoConfig.for_model(model_type, **(SHAPE | {"pad_token_id": 0} | changes))
    settings = {"seed": seed, "residual_init": "zero", "on_meta": False}
    return build_random(config, "eager", copy_heads=copy_heads, **settings).eval()


@torch.no_grad()
def attention_and_losses(model):
    """Attention of layers 0 and 1 over a random text that stands twice, and the losses of both."""
    half = torch.randint(1, 1024, (2, 100), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([half, half], dim=1)
    output = model(ids, output_attentions=True)
    logits = output.logits[:, :-1].transpose(1, 2)
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:], reduction="none")
    return output.attentions[:2], losses[:, :99].mean().item(), losses[:, 100:].mean().item()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_heads_look_at_the_previous_token_and_at_what_followed_its_like(model_type, tied):
    model = build(model_type, tie_word_embeddings=tied)
    (first, second), once, again = attention_and_losses(model)
    for head in (0, 2):  # the first of each group of heads that share keys
        assert first[:, head].diagonal(-1, 1, 2).mean() > 0.4
        # behind the token that was the same a hundred tokens ago
        assert second[:, head].diagonal(-99, 1, 2).mean() > 0.1
    for head in (1, 3):
        assert first[:, head].diagonal(-1, 1, 2).mean() < 0.1
    if tied:
        assert again < once - 0.1


def test_without_copy_heads_nothing_is_copied():
    (_, second), once, again = attention_and_losses(build(copy_heads=0))
    assert second[:, 0].diagonal(-99, 1, 2).mean() < 0.03
    assert again == pytest.approx(once, abs=0.05)


def test_what_takes_no_part_stays_as_it_is_drawn():
    plain, made = build(copy_heads=0).state_dict(), build(copy_heads=1).state_dict()
    changed = {name for name in plain if not torch.equal(plain[name], made[name])}
    attention = {f"model.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 1) for p in "qkvo"}
    assert changed == attention | {"model.embed_tokens.weight", "lm_head.weight"} & set(changed)
    other = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(plain[other][128:], made[other][128:])  # the other heads


def test_the_shared_coordinate_changes_no_prediction():
    model = build(tie_word_embeddings=True)
    hidden = torch.randn(5, 256)
    with torch.no_grad():
        before = model.lm_head(hidden).softmax(-1)
        hidden[:, 0] += 3.0
        assert torch.allclose(model.lm_head(hidden).softmax(-1), before, atol=1e-6)


@pytest.mark.parametrize(
    ("model_type", "copy_heads", "words"),
    [
        ("gpt2", 1, r"copy_heads 1 is not known for model type gpt2.*give --copy_heads 0"),
        ("phi", 1, r"copy_heads 1 is not known for model type phi"),
        ("qwen3", 3, r"copy_heads 3 is more than the model's 2 key-value heads"),
    ],
)
def test_models_that_cannot_have_them_are_refused(model_type, copy_heads, words):
    with pytest.raises(Refusal, match=words):
        build(model_type, copy_heads=copy_heads)


def test_a_model_of_one_layer_is_refused():
    with pytest.raises(Refusal, match="it needs two layers"):
        build(num_hidden_layers=1)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(Refusal, match="copy_heads 2 has no effect: the weights are those of"):
        ModelArguments(model_name_or_path="some/model", copy_heads=2)
    with pytest.raises(Refusal, match="copy_heads -1"):
        ModelArguments(config_file="a.json", copy_heads=-1)
