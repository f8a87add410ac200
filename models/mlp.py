"""A small perceptron for points of the plane."""

import torch
from torch import nn

from utils import UserError

from .basic_module import BasicModule


class MLP(BasicModule):
    """2-72-36-1 with ReLU, and a sigmoid at the end. Points [N, 1, 2] -> probability of the second class [N, 1]."""

    task = "points"
    head = "layers.5"
    loss = "bce"

    def __init__(self, num_classes: int = 2):
        super().__init__()
        if num_classes != 2:
            raise UserError(f"MLP tells two classes apart, not {num_classes}: take another --model")
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(2, 72),
            nn.ReLU(),
            nn.Linear(72, 36),
            nn.ReLU(),
            nn.Linear(36, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 1, 2] -> [N, 1]"""
        return self.layers(x)

    def decode(self, score: torch.Tensor) -> torch.Tensor:
        """The score is the probability already."""
        return score.float()
