"""torchnet's meters, fed without waiting for the device: `add` only queues work there, `value` fetches the result.

Their state is plain numbers and tensors, so that a checkpoint can hold an unfinished epoch's.
"""

import math

import torch
from torchnet import meter

BLOCK = 64  # batches whose numbers wait on the device before they are fetched, or counted, in one go
ROOM = 2**20  # numbers of all of them together, of which many classes have many


class LossMeter(meter.AverageValueMeter):
    """Mean and standard deviation of the batch losses added since the last reset, and the mean of each component.

    What is not finite counts for nothing: one such batch would hide all the others.
    """

    def add(self, losses, samples=1):
        """Add one batch's {name: scalar tensor}; its loss is their sum. An empty dict adds nothing. In the summary a
        batch weighs as much as `samples` says."""
        if len(self.waiting) == BLOCK or [*losses] != self.names:
            self._fetch()
        if losses:
            self.names = [*losses]
            self.waiting.append(torch.stack([value.detach().float() for value in losses.values()]))
            self.samples.append(samples)

    def value(self):
        """(mean, standard deviation) as floats; nan before the first loss."""
        self._fetch()
        return float(self.mean), float(self.std)

    def summary(self):
        """{"loss": mean} and, where it is a sum of several, their means as loss_<name>; {} before the first loss."""
        self._fetch()
        weight = self.weight or math.nan
        parts = {f"loss_{name.removeprefix('loss_')}": total / weight for name, total in self.sums.items()}
        return {"loss": sum(self.sums.values()) / weight, **(parts if len(parts) > 1 else {})} if parts else {}

    def reset(self):
        """Forget everything."""
        super().reset()
        self.waiting, self.samples, self.names, self.sums, self.weight = [], [], [], {}, 0

    def state_dict(self):
        """What load_state_dict needs to go on counting, plain values."""
        self._fetch()
        lists = {"waiting": [], "samples": [], "names": list(self.names), "sums": dict(self.sums)}
        return {name: lists[name] if name in lists else float(value) for name, value in vars(self).items()}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        vars(self).update(state)

    def merge(self, states):
        """Go on from the state_dict()s of several meters, as if this one had been given all that they were."""
        self.reset()
        for state in (state for state in states if state["n"]):
            # Chan, Golub & LeVeque 1983, The American Statistician 37: the variance of parts put together.
            apart, total = state["mean"] - self.mean_old, self.n + state["n"]
            self.m_s += state["m_s"] + apart**2 * self.n * state["n"] / total
            self.n, self.sum, self.var = total, self.sum + state["sum"], self.var + state["var"]
            self.mean = self.mean_old = self.sum / total
            self.std = math.sqrt(self.m_s / (total - 1)) if total > 1 else math.inf
            self.weight += state["weight"]
            for name, value in state["sums"].items():
                self.sums[name] = self.sums.get(name, 0.0) + value

    def _fetch(self):
        rows = torch.stack(self.waiting).tolist() if self.waiting else ()
        for parts, samples in zip(rows, self.samples, strict=True):
            old = [self.sums.setdefault(name, 0.0) for name in self.names]
            if math.isfinite(sum(parts)):
                super().add(sum(parts))
                self.weight += samples
                new = (total + part * samples for total, part in zip(old, parts, strict=True))
                self.sums |= zip(self.names, new, strict=True)
        self.waiting, self.samples = [], []


class ConfusionMeter(meter.ConfusionMeter):
    """Counts [k, k] of (true class, predicted class), kept on the device; batches wait there, to be counted in one go:
    one at a time they would be a dozen small tasks for it in every step."""

    def __init__(self, classes):
        self.classes = list(classes)
        super().__init__(len(self.classes))

    def reset(self):
        """Forget everything."""
        self.counts = torch.zeros(self.k * self.k, dtype=torch.int64)
        self.waiting = []

    def add(self, predicted, target):
        """Add a batch: predicted = scores or probabilities [N, k], any float type; target = true classes [N] int64, or
        shares of the classes [N, k] float, of which the largest is true."""
        if predicted.shape != (len(target), self.k):
            raise ValueError(f"the scores are {list(predicted.shape)}, for {len(target)} targets of {self.k} classes")
        target = target.argmax(dim=1) if target.is_floating_point() else target
        self.waiting.append((predicted.detach(), target))
        if len(self.waiting) == BLOCK or sum(score.numel() for score, _ in self.waiting) > ROOM:
            self._count()

    def _count(self):
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        predicted, target = (torch.cat(values) for values in zip(*waiting, strict=True))
        label, lost = predicted.argmax(dim=1), predicted.isnan().any(dim=1)
        label = torch.where(lost, (target + 1) % self.k, label)  # nan is never right
        cells = target * self.k + label
        if self.counts.device != cells.device:
            self.counts = self.counts.to(cells.device)
        self.counts.index_add_(0, cells, torch.ones_like(cells))

    def value(self):
        """The counts as a numpy array [k, k] of its own, int64: rows are true classes, columns predicted ones."""
        self._count()
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
        self._count()
        return {"counts": self.counts}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        self.waiting, self.counts = [], state["counts"]

    def merge(self, states):
        """Go on from the state_dict()s of several meters."""
        self.waiting, self.counts = [], sum(state["counts"] for state in states)


def named(part, measures):
    """{"accuracy": 97.0} of the part "val" -> {"val_accuracy": 97.0}"""
    return {f"{part}_{name}": value for name, value in measures.items()}
