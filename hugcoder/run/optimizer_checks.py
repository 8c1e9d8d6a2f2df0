"""Checks --optim and --optim_args: the packages of optimizers, and the arguments they take."""

import importlib.util
from typing import TYPE_CHECKING

import torch

from hugcoder.ranges import NOT_NEGATIVE, plain_value
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import TrainingArguments

MOMENTS = ("adam_beta1", "adam_beta2", "adam_epsilon")
# optimizer -> the settings of AdamW that it reads, and the names it takes in optim_args
OPTIMIZERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "adamw_torch_fused": (MOMENTS, ()),
    "adamw_torch": (MOMENTS, ()),
    "adafactor": ((), ()),
    "sgd": ((), ("momentum", "dampening", "nesterov")),
    "adagrad": ((), ("lr_decay", "eps")),
    "rmsprop": ((), ("momentum", "alpha", "eps", "centered")),
    "adamw_8bit": (MOMENTS, ()),
    "adamw_bnb_8bit": (MOMENTS, ()),
    "paged_adamw_32bit": (MOMENTS, ()),
    "paged_adamw_8bit": (MOMENTS, ()),
    "lion_32bit": (MOMENTS[:2], ()),
    "lion_8bit": (MOMENTS[:2], ()),
    "paged_lion_32bit": (MOMENTS[:2], ()),
    "paged_lion_8bit": (MOMENTS[:2], ()),
}


def check_optimizer(arguments: "TrainingArguments") -> None:
    """Check that an optimizer's package is installed and that optim_args fit it."""
    optim = plain_value(arguments.optim)
    is_elsewhere = not optim.startswith(("adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop"))
    if is_elsewhere and not importlib.util.find_spec("bitsandbytes"):
        raise Refusal(
            f"optim {optim} needs bitsandbytes, which is not installed (requirements-gpu.txt); "
            "install it, or give --optim adamw_torch_fused."
        )
    if not arguments.optim_args:
        return
    names = OPTIMIZERS[optim][1]
    words = [word.partition("=") for word in arguments.optim_args.replace(" ", "").split(",")]
    if any(name not in names or not _is_optimizer_value(name, value) for name, _, value in words):
        takes = f"takes {', '.join(names)}, as in {names[0]}=0.9" if names else "takes none"
        raise Refusal(
            f"optim_args {arguments.optim_args} does not fit optim {optim}, which {takes}."
        )
    _build_optimizer(arguments, f"optim_args {arguments.optim_args} with optim {optim}")


def _is_optimizer_value(name: str, value: str) -> bool:
    """Tell whether an optimizer's argument has a valid value; the libraries accept NaN."""
    if name in ("nesterov", "centered"):
        return value.lower() in ("true", "false")
    try:
        return NOT_NEGATIVE.holds(float(value))
    except ValueError:
        return False


def _build_optimizer(arguments: "TrainingArguments", what: str) -> None:
    """Build the optimizer for one weight, so that its own checks run now."""
    from transformers import Trainer

    try:
        make, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
        make([torch.nn.Parameter(torch.zeros(1))], **settings)
    except (TypeError, ValueError) as error:
        raise Refusal(f"{what} is not possible: {error}.") from None
