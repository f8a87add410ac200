"""How large a model is: parameters and work, against published figures."""

import pytest
import torch
from toy_data import Points, Squares

from models import ResNet34
from models.mlp import MLP
from utils.watch.model_summary import print_summary, summary


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
