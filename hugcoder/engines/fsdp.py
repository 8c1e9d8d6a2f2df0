"""Sets up FSDP2 for pretraining: gradients are summed in float32 and never whole on one device.

Corrects two defaults of accelerate 1.15 on the accelerator that the Trainer made. The YAML
(configs/fsdp.yaml) says which layers are wrapped and the kind of checkpoint.
"""

from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers import PreTrainedModel

from hugcoder.refusal import Refusal


def configure_fsdp(accelerator: Accelerator, model: PreTrainedModel) -> None:
    """Set how gradients are summed, before the model is wrapped. Does nothing for other engines.

    Raises: Refusal when the model does not have a layer that should be wrapped.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    plugin = accelerator.state.fsdp_plugin
    _check_wrapped_layers(plugin, model)
    if plugin.mixed_precision_policy is not None:
        # accelerate would sum gradients of ranks and micro-batches in bf16, which keeps 8 bits
        plugin.mixed_precision_policy = replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32
        )
    # Otherwise accumulation keeps the gradients of the whole model on each device (28 GB of float32
    # for 7B parameters) to save one reduce-scatter for each micro-batch.
    accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True


def _check_wrapped_layers(plugin: FullyShardedDataParallelPlugin, model: PreTrainedModel) -> None:
    """Check the names that were given; without any, accelerate takes the model's own."""
    if plugin.auto_wrap_policy is not transformer_auto_wrap_policy:
        return
    known = {type(module).__name__ for module in model.modules()}
    for name in plugin.transformer_cls_names_to_wrap or ():
        if name not in known:
            usual = set(model._no_split_modules or ())
            names = ", ".join(sorted(known, key=lambda one: (one not in usual, one)))
            raise Refusal(
                f"transformer_layer_cls_to_wrap names {name!r}, which the model does not have; "
                f"leave it out, or give some of {names}."
            )
