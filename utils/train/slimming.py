"""Sparsity of BatchNorm's scales: channels that a network does not need get a scale near 0, and can be pruned."""

from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from utils import UserError


class Slimming:
    """The penalty slim * sum |scale| over the BatchNorms of a model (Liu et al. 2017, arXiv:1708.06519), by its
    gradient; it is not part of the losses that are shown.

    Args:
        module: the model, whose trainable scales are meant.
        slim: its weight; with 0 nothing is done.

    Raises UserError where there is no such scale.
    """

    def __init__(self, module: Any, slim: float):
        norms = [layer for layer in module.modules() if slim and isinstance(layer, _BatchNorm)]
        self.scales = [layer.weight for layer in norms if layer.weight is not None and layer.weight.requires_grad]
        self.slim = slim
        if slim and not self.scales:
            raise UserError(f"--slim={slim:g}: {module.model_name} has no BatchNorm whose scales learn: leave it out")

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add slim * sign(scale) to the gradients of the scales."""
        for scale in self.scales:
            if scale.grad is not None:
                scale.grad.add_(scale.sign(), alpha=self.slim)
