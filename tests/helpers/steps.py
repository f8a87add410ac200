"""A small model and one step of it, as main.py makes them, for the tests of the training room."""

import copy

import torch
from torch import nn

from models.basic_module import BasicModule


class Net(BasicModule):
    """Small, with BatchNorm and dropout where asked for."""

    def __init__(self, norm=True, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.LazyLinear(3),
        )
        self(torch.zeros(2, 3, 8, 8))

    def forward(self, x):
        return self.layers(x)


def a_batch(size=8, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, 8, 8, generator=random), torch.randint(0, 3, (size,), generator=random)


def take(model, step, input, target, number=0, spoil=None, meters=None):
    """One step as main.py has it; `spoil` changes the losses."""
    torch.manual_seed(number)
    for part in step.micro_batches(input, target):
        score = losses = None  # noqa: F841
        with step.attempt():
            score, losses = step.objective(*part)
            loss = step.backward(spoil(losses) if spoil else losses, score)
    step.apply(number)
    if meters:
        meters.add(step)
    return loss


def everything(model, optimizer):
    """Copies of all that a step may change."""
    state = {f"{i}.{name}": value for i, one in optimizer.state_dict()["state"].items() for name, value in one.items()}
    return copy.deepcopy({**model.state_dict(), **state})


def equal(one, other):
    """The names whose values differ."""
    return [name for name in one if not torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name]))]


OPTIMIZERS = {
    "Adam": lambda model: model.get_optimizer("Adam", 0.1, 0.01, 0.9),
    "AdamW": lambda model: model.get_optimizer("AdamW", 0.1, 0.01, 0.9),
    "SGD": lambda model: model.get_optimizer("SGD", 0.1, 0.01, 0.9),
    "not fused": lambda model: torch.optim.RMSprop(model.parameters(), 0.1, momentum=0.9),
}
