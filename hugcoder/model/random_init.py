"""Makes random initial weights that depend on the seed alone, also under FSDP2 and ZeRO-3.

Values are made in float32 on the CPU, one block (a layer, or a module outside the layers) at a
time, from a random stream that the seed and the module's name decide. So one process, DDP, FSDP2,
HSDP and ZeRO at any world size begin with the same weights, and a rank needs memory for its own
shards and one block. Every rank makes all values and none are sent: 7 to 11 ns each, 52 s and 77 s
for 7B on one thread (benchmarks/random_init_cpu.md). `hugcoder.engines.sharded_parameters` writes
them into sharded parameters.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from hugcoder.engines.sharded_parameters import local_part, own_name, write_whole
from hugcoder.model.copying import CopyHeads, check_copy_heads
from hugcoder.model.residual import check_residual_init, writes_to_residual
from hugcoder.refusal import Refusal, reason_of

SAMPLE = 64  # first values of a tensor; they show whether it has been drawn, or drawn again

# Takes the name of a parameter or buffer and its initial value, which is overwritten later.
Write = Callable[[str, torch.Tensor], None]


# ---- values --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomWeights:
    """Makes a model's initial weights.

    residual_init is for the matrices that write into the residual stream. transformers gives all
    matrices of Llama-like models one standard deviation. "scaled" divides these matrices by
    sqrt(2 x layers) (GPT-2, Radford et al. 2019), unless the model's class has scaled them already
    (GPT-2, GPTBigCode, Mamba; NanoChat's attention). "zero" makes every layer start as the
    identity. "normal" keeps what the class draws. copy_heads: see `hugcoder.model.copying`.
    """

    model_class: type[PreTrainedModel]
    config: PretrainedConfig
    seed: int
    residual_init: str
    copy_heads: int = 0

    def make(self, write: Write, only_buffers: bool = False) -> None:
        """Make every parameter (tied ones once) and every buffer, and pass it to `write`.

        All blocks of a skeleton on the meta device use the same memory, one after the other.
        Allocating it again for each block left holes, as large as one more block over 32 layers.
        """
        with torch.device("meta"):
            skeleton = self.model_class(self.config)
        wanted = {name for name, _ in skeleton.named_buffers()}
        if not only_buffers:
            wanted |= {name for name, _ in skeleton.named_parameters()}
        blocks = [block for block in _blocks(skeleton) if wanted & {name for name, _ in block}]
        size = max((block.num_bytes for block in blocks), default=0)
        memory = torch.empty(size, dtype=torch.uint8)
        for block in blocks:
            with block.in_memory(memory):
                self._fill(skeleton, block)
                for name, tensor in block:
                    if name in wanted:
                        write(name, tensor.detach())

    @torch.no_grad()
    def _fill(self, skeleton: PreTrainedModel, block: "Block") -> None:
        """Run the model's own initialization on a block, children before parents as it does.

        If a module draws a residual output again, the class scales that output itself.

        Raises: Refusal when the class does not draw a tensor, whose memory holds random bytes here.
        """
        factor = self.residual_factor
        for _, tensor in block:
            if tensor.is_floating_point():
                _sample(tensor).fill_(math.nan)
        drawn: dict[str, torch.Tensor] = {}
        with torch.random.fork_rng(devices=[]):
            for name, module in reversed(block.modules):
                torch.default_generator.manual_seed(seed_of(self.seed, name))
                _owner(skeleton, name)._init_weights(module)
                for own, parameter in module.named_parameters(name, recurse=False):
                    if writes_to_residual(own):
                        drawn[own] = _sample(parameter).clone()
        for name, tensor in block:
            if tensor.is_floating_point() and _sample(tensor).isnan().any():
                raise Refusal(
                    f"model type {self.config.model_type} cannot be given random weights: its "
                    f"class does not draw {name} in _init_weights; take another model_type in the "
                    "config, or continue a model of this type with --model_name_or_path."
                )
            if name in drawn:
                is_redrawn = not torch.equal(_sample(tensor), drawn[name])
                tensor.mul_(1.0 if self.residual_init == "scaled" and is_redrawn else factor)
            if self.copy_heads:
                CopyHeads(self.config, self.copy_heads, self.seed).write(name, tensor)

    @property
    def residual_factor(self) -> float:
        scaled = 1 / math.sqrt(2 * self.config.num_hidden_layers)
        return {"scaled": scaled, "zero": 0.0, "normal": 1.0}[self.residual_init]


def seed_of(seed: int, name: str) -> int:
    """Return the seed of one module's random stream."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """Return the first values of a tensor, enough to see whether it has been written."""
    return tensor.detach().view(-1)[:SAMPLE]


@dataclass(frozen=True)
class Block:
    """Holds modules that are filled together: those of a layer, or of a part outside the layers."""

    modules: list[tuple[str, nn.Module]]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield parameters and buffers by name, also those tied to another block's."""
        for prefix, module in self.modules:
            yield from module.named_parameters(prefix, recurse=False)
            yield from module.named_buffers(prefix, recurse=False)

    @property
    def num_bytes(self) -> int:
        return sum(_aligned(tensor.nbytes) for _, tensor in self)

    @contextmanager
    def in_memory(self, memory: torch.Tensor) -> Iterator[None]:
        """Place the block's tensors in `memory` inside the with block."""
        modules, meta, offset = dict(self.modules), dict(self), 0
        for name, tensor in meta.items():
            parent, _, leaf = name.rpartition(".")
            values = memory[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            is_parameter = isinstance(tensor, nn.Parameter)
            setattr(modules[parent], leaf, nn.Parameter(values) if is_parameter else values)
            offset += _aligned(tensor.nbytes)
        yield
        for name, tensor in meta.items():
            setattr(modules[name.rpartition(".")[0]], name.rpartition(".")[2], tensor)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // 64) * 64


def _blocks(model: nn.Module, prefix: str = "") -> Iterator[Block]:
    """Yield blocks that together hold every tensor once.

    A layer, which is an element of a list of modules, is one block, because some models (GPT-2,
    StarCoder) initialize the matrices of a layer in the modules around them. A part without such
    lists is one block too, for the same reason (the output layer of ModernBERT).
    """
    yield Block([(prefix, model)])
    for child_name, child in model.named_children():
        name = f"{prefix}.{child_name}" if prefix else child_name
        has_lists = any(isinstance(module, nn.ModuleList) for module in child.modules())
        if isinstance(model, nn.ModuleList) or not has_lists:
            yield Block(list(child.named_modules(prefix=name)))
        else:
            yield from _blocks(child, name)


def _owner(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Find the innermost model around a module, whose `_init_weights` initializes it."""
    owner, module = model, model
    for part in filter(None, name.split(".")):
        module = getattr(module, part)
        owner = module if isinstance(module, PreTrainedModel) else owner
    return owner


# ---- models --------------------------------------------------------------------------------------


def build_random(
    config: PretrainedConfig,
    attn_implementation: str,
    *,
    seed: int,
    residual_init: str,
    copy_heads: int = 0,
    on_meta: bool,
) -> PreTrainedModel:
    """Build a model with random weights in float32 on the CPU; under ZeRO-3 already sharded.

    Args:
        on_meta: leave it without memory; `fill_shards` gives it weights once FSDP2 has sharded it.

    Raises: Refusal when residual_init or copy_heads is not known for the model.
    """
    is_zero3 = is_deepspeed_zero3_enabled()  # then each module is sharded as soon as it is built
    try:
        with nullcontext() if is_zero3 else torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation=attn_implementation
            )
    except (ImportError, ValueError) as error:  # the kernel is missing, or not for this model
        raise Refusal(
            f"attn_implementation {attn_implementation} is not available for model type "
            f"{config.model_type}: {reason_of(error)}; give another, such as eager."
        ) from None
    if residual_init != "normal":
        check_residual_init(model, model.config, residual_init)
    if copy_heads:
        names = {own_name(name) for name, _ in model.named_parameters()}
        check_copy_heads(names, model.config, copy_heads)
    model.random_weights = RandomWeights(type(model), model.config, seed, residual_init, copy_heads)
    if is_zero3:
        model.random_weights.make(_writer(model))
    elif not on_meta:
        model.to_empty(device="cpu")
        model.tie_weights()
        model.random_weights.make(_writer(model))
    return model


def is_on_meta(model: nn.Module) -> bool:
    """Tell whether the model has no weights yet."""
    return any(parameter.is_meta for parameter in model.parameters())


def _writer(model: nn.Module) -> Write:
    """Return a function that writes values into a model's tensors, sharded or not, on all ranks."""
    tensors = {own_name(name): parameter for name, parameter in model.named_parameters()}
    tensors |= {own_name(name): buffer for name, buffer in model.named_buffers()}
    return lambda name, tensor: write_whole(tensors[name], tensor)


# ---- FSDP2 ---------------------------------------------------------------------------------------
# accelerate shards a meta model like any other, with its wrapping, precision, activation
# checkpointing and mesh. But it finds the optimizer's parameters by their addresses, which are all
# 0 on the meta device. So this file puts them back by name.


def expect_shards(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> list[list[str]]:
    """Prepare accelerate for sharding a meta model; return the parameter names of each group."""
    accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = False  # rank 0 has nothing to send
    names = {id(parameter): own_name(name) for name, parameter in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def fill_shards(
    accelerator: Accelerator,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    names: list[list[str]],
    is_resuming: bool,
) -> None:
    """Give the shards of a meta model memory and values, and the optimizer its parameters.

    Args:
        names: of the optimizer's parameters, from `expect_shards`.
        is_resuming: a checkpoint is read next, so values are not made. A value that the checkpoint
            lacks stays NaN and is noticed.
    """
    offload = accelerator.state.fsdp_plugin.cpu_offload
    model.to_empty(device="cpu" if isinstance(offload, CPUOffloadPolicy) else accelerator.device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(accelerator.device))  # never offloaded
    if is_resuming:
        for parameter in model.parameters():
            local_part(parameter).fill_(math.nan)
    model.random_weights.make(_writer(model), only_buffers=is_resuming)
    parameters = {own_name(name): parameter for name, parameter in model.named_parameters()}
    for group, group_names in zip(optimizer.param_groups, names, strict=True):
        group["params"] = [parameters[name] for name in group_names]
