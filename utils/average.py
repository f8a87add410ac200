"""A moving average of the weights: what is validated and kept as best with --ema."""

import copy

import torch

from .update import share_memory


class Average:
    """Follows a model's weights and buffers with `average = decay * average + (1 - decay) * weights` after every step.

    A step without effect leaves no trace here either. The first steps count for more, so that the initial weights are
    soon forgotten: the decay is at most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage.

    Args:
        module: the model, on its device, with the weights that the run begins with.
        update: the Update that changes them.
        decay: 0 for no average: then `module` is the model itself, and nothing is done.

    Attributes:
        module: the averaged model, a copy with all that the other has.
    """

    def __init__(self, module, update, decay):
        self.update, self.decay, self.module = update, decay, module
        if decay:
            self.module = copy.deepcopy(module)
            pairs = list(zip(self.module.parameters(), module.parameters(), strict=True))
            flat = list(zip(share_memory(self.module.buffers()), update.buffers, strict=True))
            pairs += [pair for pair in flat if pair[0].is_floating_point()]
            self.averages, self.weights = zip(*pairs, strict=True)
            self.steps = torch.zeros((), device=self.weights[0].device)  # that had an effect
            self.counts = [pair for pair in flat if not pair[0].is_floating_point()]  # batches that BatchNorm has seen

    @torch.no_grad()
    def step(self):
        """Follow the step that the Update has just made."""
        if self.decay:
            decay = ((1 + self.steps) / (10 + self.steps)).clamp(max=self.decay)
            effect = 1 - self.update.void  # the device alone knows whether there was one
            self.steps += effect
            share = (1 - decay) * effect
            torch._foreach_lerp_(self.averages, self.weights, [share] * len(self.weights))
            for average, own in self.counts:
                average.copy_(own)

    def state_dict(self):
        """The averaged weights, and how many steps are in them; nothing where there is no average."""
        return {"steps": self.steps, "weights": self.module.state_dict()} if self.decay else {}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        if self.decay:
            self.steps.copy_(state["steps"])
            self.module.load_state_dict(state["weights"])
