"""torchnet's meters, fed without waiting for the device: `add` only queues work there, `value` fetches the result.

Their state is plain numbers and tensors, so that a checkpoint can hold an unfinished epoch's.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torchnet import meter

from utils import UserError
from utils.files import write_csv
from utils.train.device import BLOCK, DeviceNumbers
from utils.train.processes import ALONE, World

ROOM = 2**20  # numbers that wait on the device at most, of all batches together: many classes have many


class LossMeter(meter.AverageValueMeter):
    """Mean and standard deviation of the batch losses added since the last reset, and the mean of each component.

    What is not finite is ignored: one such batch would hide all the others.
    """

    n: float  # these are torchnet's
    sum: float
    var: float
    mean_old: float

    def add(self, losses: dict[str, torch.Tensor], samples: float | torch.Tensor = 1) -> None:
        """Add one batch's {name: scalar tensor}; its loss is their sum. An empty dict adds nothing. In the summary a
        batch weighs as much as its number of samples, or the sum of their weights, a number or scalar tensor."""
        if losses:
            self.waiting.add(samples, losses)

    def value(self) -> tuple[float, float]:
        """(mean, standard deviation); nan before the first loss."""
        self.waiting.fetch()
        return float(self.mean), float(self.std)

    def summary(self) -> dict[str, float]:
        """{"loss": mean} and, where it is a sum of several, their means as loss_<name>; {} before the first loss."""
        self.waiting.fetch()
        weight = self.weight or math.nan
        parts = {f"loss_{name.removeprefix('loss_')}": total / weight for name, total in self.sums.items()}
        return {"loss": sum(self.sums.values()) / weight, **(parts if len(parts) > 1 else {})} if parts else {}

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.waiting = DeviceNumbers(self._take)
        self.sums: dict[str, float] = {}
        self.weight = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What load_state_dict needs to continue counting, plain values."""
        self.waiting.fetch()
        numbers = {name: float(value) for name, value in vars(self).items() if name not in ("waiting", "sums")}
        return {**numbers, "sums": dict(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state_dict()."""
        self.reset()
        self.__dict__.update({name: value for name, value in state.items() if name in vars(self) and name != "waiting"})

    def merge(self, states: list[dict[str, Any]]) -> None:
        """Continue from the state_dict()s of several meters, as if this one had been given all that they were."""
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

    def _take(self, samples: float | torch.Tensor, losses: dict[str, float]) -> None:
        samples, finite = float(samples), math.isfinite(sum(losses.values()))
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + (value * samples if finite else 0.0)
        if finite:
            super().add(sum(losses.values()))
            self.weight += samples


class ConfusionMeter(meter.ConfusionMeter):
    """Counts [k, k] of (true class, predicted class), kept on the device; batches wait there, to be counted in one go:
    one at a time they would be a dozen small tasks for it in every step."""

    def __init__(self, classes: Any):
        self.classes = list(classes)
        super().__init__(len(self.classes))

    def reset(self) -> None:
        """Forget everything."""
        self.counts = torch.zeros(self.k * self.k, dtype=torch.int64)
        self.waiting: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, predicted: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch: predicted = scores or probabilities [N, k], any float type; target = true classes [N] int64, or
        shares of the classes [N, k] float: the largest one's class is true."""
        target = target.argmax(dim=1) if target.is_floating_point() else target
        self.check(predicted, target)
        self.waiting.append((predicted.detach(), target))
        if len(self.waiting) == BLOCK or sum(score.numel() for score, _ in self.waiting) > ROOM:
            self._count()

    def check(self, predicted: torch.Tensor, target: torch.Tensor) -> None:
        """Raise UserError where predicted is not [N, k, ...] for true classes [N, ...]."""
        if predicted.shape != (len(target), self.k, *target.shape[1:]):
            raise UserError(
                f"the scores are {list(predicted.shape)}, for targets {list(target.shape)} of {self.k} classes: the "
                "model's last layer needs an output per class, as many as its argument num_classes says"
            )

    def _count(self) -> None:
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        predicted, target = (torch.cat(values) for values in zip(*waiting, strict=True))
        label, lost = predicted.argmax(dim=1), predicted.isnan().any(dim=1)
        label = torch.where(lost, (target + 1) % self.k, label)  # nan is never right
        cells = target * self.k + label
        self.counts = self.counts.to(cells.device)
        self.counts.index_add_(0, cells, torch.ones_like(cells))

    def value(self) -> Any:
        """The counts as a numpy array [k, k] of its own, int64: rows are true classes, columns predicted ones."""
        self._count()
        return self.counts.reshape(self.k, self.k).cpu().numpy().copy()

    def summary(self) -> dict[str, float]:
        """{"accuracy": percentage of right predictions}; nan before the first."""
        matrix = self.value()
        right, total = matrix.trace().item(), matrix.sum().item()
        return {"accuracy": 100.0 * right / total if total else float("nan")}

    def report(self, folder: Any) -> Any:
        """Write the matrix to confusion.csv and confusion.png in `folder`, with the class names."""
        from . import plots

        plots.confusion(self.value(), self.classes, folder)

    def state_dict(self) -> dict[str, Any]:
        """What load_state_dict needs to continue counting."""
        self._count()
        return {"counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state_dict()."""
        self.waiting, self.counts = [], state["counts"]

    def merge(self, states: list[dict[str, Any]]) -> None:
        """Continue from the state_dict()s of several meters."""
        self.waiting, self.counts = [], sum(state["counts"] for state in states)


def named(part: str, measures: dict[str, float]) -> dict[str, float]:
    """{"accuracy": 97.0} of the part "val" -> {"val_accuracy": 97.0}"""
    return {f"{part}_{name}": value for name, value in measures.items()}


def val_losses(metrics: dict[str, float]) -> dict[str, float]:
    """Those of an epoch's numbers that are losses of the validation, val_loss and val_loss_<name>."""
    return {name: value for name, value in metrics.items() if name.startswith("val_loss")}


def write_report(meter: Any, losses: dict[str, float], folder: Path) -> None:
    """Write what the data set's meter reports about a validation into `folder`, and measures.csv, a row `name,value` of
    every measure of its summary, of what its report returns, and of the validation's `losses` by name."""
    measures = {**meter.summary(), **(getattr(meter, "report", no_report)(folder) or {}), **losses}
    write_csv(folder / "measures.csv", ["name", "value"], ([name, f"{n:.10g}"] for name, n in measures.items()))


def no_report(folder: Any) -> None:
    """The report of a meter that has none."""


def plain(meter: Any) -> Any:
    """A meter's value: a small array or tensor as nested lists, anything else as it is; of one without, its summary."""
    value = getattr(meter, "value", meter.summary)()
    if getattr(value, "size", 0) > 400:  # twenty classes: more is no line to read
        return f"{len(value)} x {len(value)}"
    return value.tolist() if hasattr(value, "tolist") else value


class TrainMeters:
    """What an epoch measures: the losses of its steps, the data set's meter, fed with the scores of training, and the
    losses of validation.

    Args:
        scores: the data set's meter.
        world: the World, whose first process counts for all.

    Raises UserError for a data set's meter that cannot be used.
    """

    def __init__(self, scores: Any, world: World = ALONE):
        needed = ["reset", "add", "summary", *(["state_dict", "merge"] if world.size > 1 else [])]
        missing = [name for name in needed if not callable(getattr(scores, name, None))]
        if missing:
            why = " for several processes" if world.size > 1 else ""
            raise UserError(f"the data set's meter, {type(scores).__name__}, needs a method {missing[0]}{why}")
        self.losses, self.scores, self.val_losses, self.world = LossMeter(), scores, LossMeter(), world

    def add(self, step: Any) -> None:
        """Count a finished TrainStep: its losses, means over all processes already, and its own scores."""
        self.losses.add(step.losses)
        outputs, step.outputs = step.outputs, []  # scores may be large: nothing keeps them any longer
        for score, target in outputs:
            self.scores.add(score, target)

    def reduce(self) -> None:
        """Let the first process have counted what all have."""
        self.world.reduce_meters(self.scores)

    def reduce_late(self, position: tuple[int, ...]) -> bool:
        """The same after an error, if all processes are at this position. Returns whether it could, to the first."""
        return self.world.reduce_meters_late(position, self.scores)

    def summary(self) -> dict[str, float]:
        """Losses and measures so far, by name; of several processes all have to ask."""
        self.reduce()
        return {**self.losses.summary(), **self.scores.summary()}

    def epoch_summary(self, val_meter: Any) -> dict[str, float]:
        """The numbers of a finished epoch: its losses, train_<measure>, val_<measure> and val_<loss>."""
        self.reduce()
        measures = named("train", self.scores.summary())
        measures |= named("val", val_meter.summary() | self.val_losses.summary())
        return {**self.losses.summary(), **measures}

    def reset(self) -> None:
        """Forget everything."""
        self.losses.reset()
        self.scores.reset()

    def state_dict(self) -> dict[str, Any]:
        """What load_state_dict needs to continue counting."""
        own = getattr(self.scores, "state_dict", None) or vars(self.scores).copy
        return {"losses": self.losses.state_dict(), "scores": own()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state_dict()."""
        self.losses.load_state_dict(state["losses"])
        load = getattr(self.scores, "load_state_dict", None) or vars(self.scores).update
        load(state["scores"])
