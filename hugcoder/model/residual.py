"""Finds the parameters that write into a model's residual stream, by their names.

A layer adds the output of each of its branches (attention, MLP, experts) to the stream, and the
last matrix of a branch decides how much. Initialization scales these matrices and must find all of
them: scaling only half follows no recipe. tests/test_residual.py tries every model type of
transformers: in those that are not refused here, zeros turn each layer into the identity.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from hugcoder.engines.sharded_parameters import are_zero, own_name, whole_shape, write_whole
from hugcoder.refusal import Refusal

OUTPUTS = (
    "o_proj",  # Llama, Qwen, Mistral, Gemma, OLMo and most others
    "down_proj",  # the same, also all experts in one tensor
    "c_proj",  # GPT-2, GPTBigCode, the MLP of StarCoder2
    "out_proj",  # OPT, GPT-J, CodeGen, state space models
    "attention.dense",  # GPT-NeoX
    "self_attention.dense",  # Falcon, Bloom
    "self_attn.dense",  # Phi
    "dense_4h_to_h",
    "fc2",
    "fc_out",
    "w2",
    "output_linear",
    "linear_out",
)
# Their layers normalize or weight the stream itself, so zero outputs would still change it.
NOT_PLAIN_SUMS = {
    "bart",
    "beam",
    "blenderbot-small",
    "marian",
    "minimax",
    "mvp",
    "openai-gpt",
    "plbart",
    "trocr",
}


def writes_to_residual(name: str) -> bool:
    """Tell whether a parameter of this name is the last matrix of a branch."""
    path = "." + own_name(name).removesuffix(".weight")
    return path.endswith(tuple(f".{output}" for output in OUTPUTS))


def check_residual_init(model: nn.Module, config: PretrainedConfig, residual_init: str) -> None:
    """Check that every branch of every layer has a known output. Raises: Refusal when not."""
    reason = ""
    if config.model_type in NOT_PLAIN_SUMS or not _adds_before_normalizing(config):
        reason = "its layers do more than add to the residual stream"
    for name, layer in layers_of(model):
        if branches := _branches_without_output(layer):
            branch = f"{name}.{branches[0]}".rstrip(".")
            reason = f"the matrix with which {branch} adds to the residual stream is not known"
            break
    if reason:
        raise Refusal(
            f"residual_init {residual_init} is not known for model type {config.model_type}: "
            f"{reason}; give --residual_init normal, which keeps the weights that the model's "
            "class draws."
        )


def layers_of(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the elements, by name, of the outermost lists of modules that have parameters."""
    for child_name, child in model.named_children():
        name = f"{prefix}{child_name}"
        if not isinstance(child, nn.ModuleList):
            yield from layers_of(child, f"{name}.")
        elif next(child.parameters(), None) is not None:
            yield from ((f"{name}.{index}", layer) for index, layer in child.named_children())


def _adds_before_normalizing(config: PretrainedConfig) -> bool:
    """Tell whether the settings of OPT, Bloom and Falcon keep the stream unnormalized."""
    is_before = getattr(config, "do_layer_norm_before", True)
    return is_before and not getattr(config, "apply_residual_connection_post_layernorm", False)


def _branches_without_output(layer: nn.Module) -> list[str]:
    """List branches of a layer that have matrices but no known output.

    A branch is a module of the layer, or the matrices in the layer itself (OPT). Inside it, each
    expert, shared expert and element of a list is a branch too.
    """
    outputs: dict[str, list[bool]] = defaultdict(list)
    for name, parameter in layer.named_parameters():
        if len(whole_shape(parameter)) < 2:
            continue
        parts = name.removesuffix(".weight").split(".")
        branches = {parts[0] if len(parts) > 1 else ""}
        for depth, part in enumerate(parts[:-1]):
            if "expert" in part or part.startswith("shared") or part.isdigit():
                branches.add(".".join(parts[: depth + 1]))
        for branch in branches:
            outputs[branch].append(writes_to_residual(name))
    return [branch for branch, known in outputs.items() if not any(known)]


@contextmanager
def with_noisy_residual_outputs(model: PreTrainedModel) -> Iterator[None]:
    """Give residual outputs that are zero (`residual_init zero`) noise inside the block.

    With zeros, layers do not affect the logits, and a leak could not be seen. Works on all ranks,
    on whole and on sharded parameters; every rank gets its part of the same noise.
    """
    outputs = [p for name, p in model.named_parameters() if writes_to_residual(name)]
    silent = [p for p, is_zero in zip(outputs, are_zero(outputs), strict=True) if is_zero]
    generator = torch.Generator().manual_seed(0)
    spread = getattr(model.config, "initializer_range", 0.02)  # OPT, Bloom and others have none
    for parameter in silent:
        noise = torch.empty(whole_shape(parameter))
        write_whole(parameter, noise.normal_(0.0, spread, generator=generator))
    try:
        yield
    finally:
        for parameter in silent:
            write_whole(parameter, torch.zeros(whole_shape(parameter)))
