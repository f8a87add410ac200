"""--slim adds the gradient of an L1 penalty on BatchNorm's scales, and nothing else."""

import pytest
import torch
from torch import nn

from models.basic_module import BasicModule
from utils import UserError
from utils.train.step import TrainStep


class Net(BasicModule):
    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(self.norm(x))


def gradients(slim):
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1.0, -2.0, 0.0, 0.5]))
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.1), slim=slim)
    for input, target in step.micro_batches(torch.randn(6, 4), torch.tensor([0, 1] * 3)):
        score, losses = step.objective(input, target)
        step.backward(losses, score)
    step.apply(0)
    return [one.grad.clone() for one in model.parameters()]


def test_the_penalty_is_on_the_scales_alone():
    (scale, *others), (slimmed, *same) = gradients(0.0), gradients(0.25)
    assert torch.allclose(slimmed - scale, torch.tensor([0.25, -0.25, 0.0, 0.25]))
    assert all(torch.equal(one, other) for one, other in zip(others, same, strict=True))


def test_a_model_without_scales_is_refused():
    model = nn.Linear(2, 2)
    model.model_name = "Flat"
    with pytest.raises(UserError, match="--slim=0.1: Flat has no BatchNorm"):
        TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.1), slim=0.1)
