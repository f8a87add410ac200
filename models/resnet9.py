"""A network of nine layers that learns fast from few pictures."""

import torch
from torch import nn
from torch.nn import functional as F

from utils.options.kinds import height_width

from .basic_module import BasicModule

SMALL = 48  # pixels: pictures whose sides are all smaller keep their size in the first layer


class ResNet9(BasicModule):
    """The shape that is known from DAWNBench's fastest trainings (Page 2018, "How to train your ResNet"): convolutions,
    in pairs with a shortcut in the last three stages. Images [N, 3, H, W] -> scores [N, C].

    A block with a shortcut begins as the identity (Goyal et al. 2017, arXiv:1706.02677, section 5.1).

    Args:
        num_classes: C.
        image_size: pixels; below 48 the first layer keeps the resolution, else it halves it.
        width: factor on the numbers of channels, which are 64 to 512.
    """

    head = "classifier"

    def __init__(self, num_classes: int = 2, image_size: int | str = 224, width: float = 1.0):
        super().__init__()
        stem, first, second, third, fourth = (max(8, round(width * channels)) for channels in (32, 64, 128, 256, 512))
        self.stem = convolution(3, stem, stride=1 if max(height_width(image_size)) < SMALL else 2)
        self.layer1 = nn.Sequential(convolution(stem, first), nn.MaxPool2d(2))
        self.layer2 = nn.Sequential(convolution(first, second), nn.MaxPool2d(2), Shortcut(second))
        self.layer3 = nn.Sequential(convolution(second, third), nn.MaxPool2d(2), Shortcut(third))
        self.layer4 = nn.Sequential(convolution(third, fourth), nn.MaxPool2d(2), Shortcut(fourth))
        self.classifier: nn.Module = nn.Linear(fourth, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, C]"""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))  # [N, 512, H/32, W/32]
        return self.classifier(x.mean(dim=(2, 3)))


class Shortcut(nn.Module):
    """Two 3x3 convolutions beside the identity: [N, C, H, W] -> the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.left = nn.Sequential(
            convolution(channels, channels),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        nn.init.zeros_(self.left[-1].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, C, H, W]"""
        return F.relu(x + self.left(x))


def convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
