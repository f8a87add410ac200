"""What is examined: a training as it would begin; nothing of it changes."""

import contextlib
import copy
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from utils.train.device import one_batch, to_device
from utils.train.loader import make_loader
from utils.train.trial import endless
from utils.watch.model_summary import summary

WORK = 5e11  # floating point operations of a check: ten seconds on two cores, less than one on a GPU
LEAST = 3  # steps


class Case:
    """The parts of a training before its first step.

    Args:
        opt: its options.
        model: on its device.
        train_data, val_data: as main.py makes them.
        start: the content of the checkpoint that its weights are from, or None for a new model.
    """

    def __init__(self, opt: Any, model: Any, train_data: Any, val_data: Any, start: dict[str, Any] | None = None):
        self.opt, self.model, self.train_data, self.val_data, self.start = opt, model, train_data, val_data, start
        self.device = next((one.device for one in model.parameters()), torch.device("cpu"))

    @property
    def losses(self) -> list[str]:
        """The names of the losses of the model's criterion; none where it has its own."""
        return [*getattr(getattr(self.model, "criterion", None), "terms", ())]

    @contextlib.contextmanager
    def copy(self) -> Iterator[Any]:
        """A copy of the model in training mode; the block may train it and draw random numbers, which leave no trace:
        torch's generators are afterwards as they were."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.opt.seed)
            yield copy.deepcopy(self.model).train()

    def optimizer(self, model: Any) -> torch.optim.Optimizer:
        """The optimizer that the options name, of a copy of the model."""
        opt = self.opt
        made: torch.optim.Optimizer = model.get_optimizer(
            opt.optimizer, opt.lr, opt.weight_decay, opt.momentum, **opt.optimizer_options
        )
        return made

    def loader(self) -> Any:
        """The training batches, read by this process."""
        return make_loader(self.train_data, self.opt.batch_size, 0, self.opt.seed, self.device)

    def batches(self, steps: int) -> Iterator[tuple[Any, Any]]:
        """`steps` training batches, or fewer as `bounded` says, as the model gets them in one go: augmented, on the
        device, the parts of --accumulate. They come again where an epoch has fewer. They draw random numbers."""
        steps, most = self.bounded(steps, self.opt.batch_size)
        for input, target in itertools.islice(endless(self.loader(), self.device), steps):
            size = min(most, max(2, -(-len(input) // self.opt.accumulate)))
            yield input[:size], target[:size]

    def bounded(self, steps: int, samples: int) -> tuple[int, int]:
        """(steps, samples of each) that do not take more than WORK: fewer samples, two at least, then
        fewer steps, LEAST at least. That counts work and not seconds: it is the same every time."""
        most = int(WORK / self.work)
        samples = min(samples, max(2, most // steps))
        return max(min(steps, LEAST), min(steps, most // samples)), samples

    @functools.cached_property
    def work(self) -> int:
        """Floating point operations of a training step for each of its samples; backward takes twice as many as
        forward."""
        with contextlib.suppress(Exception):  # a model may raise anything: the first step does, too, and has a line
            return 3 * max(1, summary(self.model, one_batch(self.val_data, [0], self.device)[0])["flops"])
        return 1

    def few(self, count: int) -> tuple[Any, Any]:
        """(input, target) of `count` training samples, of as many classes as they happen to be, not augmented."""
        order = self.train_data.order(torch.Generator().manual_seed(self.opt.seed))[: 8 * count].tolist()
        batch = self.train_data.collate([self.train_data[index] for index in list(dict.fromkeys(order))[:count]])
        return self.val_data.prepare(*to_device(batch, self.device), generator=None)
