"""SqueezeNet 1.1 (Iandola et al. 2016, arXiv:1602.07360)."""

import torch
from torch import nn

from .basic_module import BasicModule
from .submodules import Dropout


class SqueezeNet(BasicModule):
    """torchvision's SqueezeNet 1.1 with a head for `num_classes`. Images [N, 3, H, W] -> scores [N, C].

    Unlike the original there is no ReLU after the last convolution: scores may be negative, so no class is stuck at 0.
    """

    head = "classifier"

    def __init__(self, num_classes: int = 2):
        super().__init__()
        from torchvision.models import squeezenet1_1  # here, not above: it takes as long to load as torch itself

        self.features = squeezenet1_1(weights=None).features
        scores = nn.Conv2d(512, num_classes, kernel_size=1)
        self.classifier = nn.Sequential(Dropout(0.5), scores, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        nn.init.normal_(scores.weight, std=0.01)
        nn.init.zeros_(scores.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, C]"""
        return self.classifier(self.features(x))
