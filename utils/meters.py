"""torchnet's meters, fed without waiting for the device: `add` only queues work there, `value` fetches the result.

Their state is plain numbers and tensors, so that a checkpoint can hold an unfinished epoch's.
"""

import torch
from torchnet import meter

BLOCK = 64  # losses that wait on the device before they are fetched in one go


class LossMeter(meter.AverageValueMeter):
    """Mean and standard deviation of the batch losses added since the last reset."""

    def add(self, value):
        """Add one batch's loss, a scalar tensor."""
        self.waiting.append(value.detach())
        if len(self.waiting) == BLOCK:
            self._fetch()

    def value(self):
        """(mean, standard deviation) as floats; nan before the first loss."""
        self._fetch()
        return float(self.mean), float(self.std)

    def reset(self):
        """Forget everything."""
        super().reset()
        self.waiting = []

    def state_dict(self):
        """What load_state_dict needs to go on counting, plain floats."""
        self._fetch()
        return {name: float(value) for name, value in vars(self).items() if name != "waiting"}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        vars(self).update(state)

    def _fetch(self):
        waiting, self.waiting = self.waiting, []
        for value in torch.stack(waiting).float().tolist() if waiting else ():
            super().add(value)


class ConfusionMeter(meter.ConfusionMeter):
    """Counts [k, k] of (true class, predicted class), kept on the device."""

    def __init__(self, classes):
        self.classes = list(classes)
        super().__init__(len(self.classes))

    def reset(self):
        """Forget everything."""
        self.counts = torch.zeros(self.k * self.k, dtype=torch.int64)

    def add(self, predicted, target):
        """Add a batch: predicted = scores or probabilities [N, k], any float type; target = true classes [N] int64."""
        cells = target * self.k + predicted.detach().argmax(dim=1)
        if self.counts.device != cells.device:
            self.counts = self.counts.to(cells.device)
        self.counts.index_add_(0, cells, torch.ones_like(cells))

    def value(self):
        """The counts as a numpy array [k, k] of its own, int64: rows are true classes, columns predicted ones."""
        return self.counts.reshape(self.k, self.k).cpu().numpy().copy()

    def summary(self):
        """{"accuracy": percentage of right predictions}; nan before the first."""
        matrix = self.value()
        right, total = matrix.trace().item(), matrix.sum().item()
        return {"accuracy": 100.0 * right / total if total else float("nan")}

    def report(self, folder):
        """Write the matrix to confusion.csv and confusion.png in `folder`, with the class names."""
        from . import plots

        plots.confusion(self.value(), self.classes, folder)

    def state_dict(self):
        """What load_state_dict needs to go on counting."""
        return {"counts": self.counts}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        self.counts = state["counts"]
