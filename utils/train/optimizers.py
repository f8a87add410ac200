"""Optimizers by name: torch.optim's, or a user's own."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch

from utils import UserError
from utils.options import own

from .muon import Muon

FUSED = "Adam", "AdamW", "SGD"  # on every device


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], name: str, lr: float, weight_decay: float, momentum: float, **options: Any
) -> torch.optim.Optimizer:
    """The class `name` of torch.optim, or my_file.MyOptimizer, over the trainable parameters, without weight decay for
    biases and norms. Momentum is also the first of Adam's betas; `options` are more arguments of the constructor.

    Fused, where it can be: one kernel for all parameters, which can also skip a step without waiting for the host.
    Raises UserError for arguments that the class does not take.
    """
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    made: Any = Muon if name == "Muon" else own.find("optimizer", name, "torch.optim")  # torch's takes matrices alone
    known = inspect.signature(made).parameters
    usual = {"momentum": momentum, "betas": (momentum, 0.999), "fused": name in FUSED}
    given = {argument: value for argument, value in usual.items() if argument in known} | options
    try:
        optimizer: torch.optim.Optimizer = made(groups, lr=lr, **given)
    except (TypeError, ValueError) as error:
        raise UserError(f"--optimizer-options: {error}: {name} takes {', '.join(list(known)[1:])}") from None
    if name == "SGD" and given["momentum"]:  # else it is uninitialized memory when the first step is skipped
        for parameter in trainable:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
