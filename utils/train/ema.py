"""A moving average of the weights: what is validated and kept as best.pth with --ema."""

import copy
from typing import Any

import torch
from torch import nn

from .device import flatten_buffers


class Ema:
    """Follows a model's weights and buffers with `average = decay * average + (1 - decay) * weights` after every step.

    A skipped step leaves no trace here either. The first steps count for more, so that the initial weights are soon
    forgotten: the decay is at most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage.

    Args:
        model: the model, on its device, with the weights that the run begins with.
        buffers: its buffers, flat, see flatten_buffers.
        decay: 0 for no average: then ema_model is the model itself, and nothing is done.

    Attributes:
        ema_model: the averaged model, a copy with all that the other has.
    """

    def __init__(self, model: nn.Module, buffers: list[torch.Tensor], decay: float):
        self.decay, self.ema_model = decay, model
        if decay:
            self.ema_model = copy.deepcopy(model)
            pairs: list[tuple[Any, Any]] = list(zip(self.ema_model.parameters(), model.parameters(), strict=True))
            pairs += zip(flatten_buffers(self.ema_model.buffers()), buffers, strict=True)
            self.averages, self.weights = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
            self.counts = [pair for pair in pairs if not pair[0].is_floating_point()]  # batches that BatchNorm has seen
            self.steps = torch.zeros((), device=self.weights[0].device)  # those that were not skipped

    @torch.no_grad()
    def update(self, was_skipped: torch.Tensor) -> None:
        """Follow one step; was_skipped, scalar tensor, is 1 where the step had no effect and else 0."""
        if self.decay:
            decay = ((1 + self.steps) / (10 + self.steps)).clamp(max=self.decay)
            effect = 1 - was_skipped  # the device alone knows, and the host does not wait
            self.steps += effect
            share = (1 - decay) * effect
            torch._foreach_lerp_(self.averages, self.weights, [share] * len(self.weights))
            for average, own in self.counts:
                average.copy_(own)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, and how many steps are in them; nothing where there is no average."""
        return {"steps": self.steps, "weights": self.ema_model.state_dict()} if self.decay else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state_dict()."""
        if self.decay:
            self.steps.copy_(state["steps"])
            self.ema_model.load_state_dict(state["weights"])
