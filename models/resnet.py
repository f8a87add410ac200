"""ResNet34 (He et al. 2015, arXiv:1512.03385), built from its residual blocks."""

import torch
from torch import nn
from torch.nn import functional as F

from .basic_module import BasicModule


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them: [N, in, H, W] -> [N, out, H / stride, W / stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.left = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.right: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.right = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in, H, W] -> [N, out, H / stride, W / stride]"""
        return F.relu(self.left(x) + self.right(x))


class ResNet34(BasicModule):
    """A stem, stages of 3, 4, 6 and 3 residual blocks, and a linear head. Images [N, 3, H, W] -> scores [N, C]."""

    head = "classifier"

    def __init__(self, num_classes: int = 2):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        self.layer1 = stage(64, 64, blocks=3, stride=1)
        self.layer2 = stage(64, 128, blocks=4, stride=2)
        self.layer3 = stage(128, 256, blocks=6, stride=2)
        self.layer4 = stage(256, 512, blocks=3, stride=2)
        self.classifier: nn.Module = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, C]"""
        x = self.stem(x)  # [N, 64, H/4, W/4]
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # [N, 512, H/32, W/32]
        return self.classifier(x.mean(dim=(2, 3)))


def stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` residual blocks; the first changes the number of channels and the resolution."""
    first = ResidualBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(ResidualBlock(out_channels, out_channels) for _ in range(1, blocks)))
