"""Steps outside of a run are those of the training itself."""

import copy
import itertools
from types import SimpleNamespace

import torch
from patients import Pictures
from steps import OPTIMIZERS, Net, a_batch, equal, everything
from steps import take as as_in_the_loop

from utils.train.loader import batches, make_loader
from utils.train.step import TrainStep
from utils.train.trial import endless, take


class Drawn(Pictures):
    """Pictures that are augmented: random numbers are added."""

    def prepare(self, input, target, generator):
        input, target = super().prepare(input, target, generator)
        return input + torch.rand(input.shape, generator=generator), target


def test_the_batches_are_those_of_one_epoch_after_the_other():
    loader, cpu, step = make_loader(Drawn(6, 1), 2, 0, seed=3), torch.device("cpu"), itertools.count()
    wanted = [
        input
        for epoch in range(3)
        for batch in range(3)
        for input, _ in itertools.islice(
            batches(loader, SimpleNamespace(epoch=epoch, batch=batch, step=next(step), done=0.0), cpu), 1
        )
    ]
    found = [input for input, _ in itertools.islice(endless(loader, cpu), len(wanted))]
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert not torch.equal(found[0], found[3])


def test_a_step_is_that_of_the_loop_and_its_loss_is_returned():
    torch.manual_seed(0)
    model, batch = Net(dropout=0.5), a_batch()
    other = copy.deepcopy(model)
    one, two = (TrainStep(each, OPTIMIZERS["Adam"](each), accumulate=2) for each in (model, other))
    for number in range(2):
        as_in_the_loop(other, two, *batch, number=number)
        torch.manual_seed(number)
        assert take(one, number, batch) == two.losses["loss"].item()
    assert equal(everything(model, one.optimizer), everything(other, two.optimizer)) == []
