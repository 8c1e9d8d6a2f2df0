"""A tiny random model: what generation and evaluation are tested on. Plain functions; the tests
make fixtures of them, with the corpus and the tokenizer of conftest.py.
"""

import shutil
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

CONTEXT = 256


def tiny_llama(vocab_size: int = 1024, context: int = CONTEXT, seed: int = 0) -> LlamaForCausalLM:
    """A random model whose next token depends visibly on what went before."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config = GenerationConfig(eos_token_id=[0])
    return model


def tiny_gpt2(vocab_size: int = 1024) -> GPT2LMHeadModel:
    """A random model with learned positions, which notices when a position is wrong; rotary ones
    see distances only.
    """
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=CONTEXT,
        initializer_range=0.3,
    )
    return GPT2LMHeadModel(config).eval()


def write_run(folder: Path, tokenizer: Path) -> Path:
    """A run folder with a `model/`."""
    tiny_llama().save_pretrained(folder / "model")
    shutil.copy(tokenizer / "tokenizer.json", folder / "model")
    return folder
