"""How large a model is: parameters and work, against published figures."""

import pytest
import torch

from data.base import BaseData
from models import ResNet34
from models.mlp import MLP
from utils.watch.model_summary import print_summary, summary


class Squares(BaseData):
    """Pictures with a bright square on the left, or on the right."""

    classes = ("left", "right")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        picture = torch.zeros(3, 64, 64, dtype=torch.uint8)
        picture[:, 24:40, 40 * (index % 2) : 40 * (index % 2) + 16] = 255
        return picture, index % 2

    def prepare(self, input, target, generator):
        return input.float() / 255, target


class Points(Squares):
    def __getitem__(self, index):
        return torch.zeros(1, 2), 0

    def prepare(self, input, target, generator):
        return input, target


def test_the_size_of_resnet34_is_the_published_one(capsys):
    model = ResNet34(num_classes=1000)
    sizes = summary(model, torch.zeros(1, 3, 224, 224))
    assert sizes["parameters"] == sizes["trainable"] == 21_797_672  # torchvision's figure
    assert sizes["flops"] / 2 == pytest.approx(3.664e9, rel=1e-3)  # torchvision: 3.66 GMACs

    model, perceptron = ResNet34(num_classes=2), MLP()
    model.freeze_body()
    model.train()
    modes, generator = [module.training for module in model.modules()], torch.get_rng_state()
    print_summary(model, Squares(), Squares())
    print_summary(perceptron, Points(), Points())
    data, first, _, second = capsys.readouterr().out.splitlines()
    assert data.startswith("Squares: ") and " samples to train on, " in data
    assert first == "ResNet34: 21,285,698 parameters (1,026 trainable), 598.1 MFLOPs for one sample"
    assert second == "MLP: 2,881 parameters, 5.5 kFLOPs for one sample"  # 2 x (2 x 72 + 72 x 36 + 36)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator) and all(p.grad is None for p in model.parameters())
