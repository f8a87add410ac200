"""FCN, a fully convolutional network for segmentation (Long et al. 2014, arXiv:1411.4038), on a ResNet34 body."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .resnet import ResNet34
from .submodules import ConvBNReLU, UpConv


class FCN(ResNet34):
    """ResNet34 that scores every pixel. Images [N, 3, H, W] of any size -> scores [N, C, H, W].

    The body has ResNet34's names, so that a ResNet34 checkpoint, trained on labels of whole pictures, fits it.
    Compared with the paper's figure 3 it has one skip more: FCN-4s.
    """

    task = "segmentation"

    def __init__(self, num_classes: int = 2):
        super().__init__(num_classes)
        self.classifier: nn.Module = SkipSum((64, 128, 256, 512), num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, C, H, W]"""
        features, size = [], x.shape[2:]
        x = self.stem(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)  # H/4, H/8, H/16, H/32, rounded up
            features.append(x)
        return F.interpolate(self.classifier(features), size, mode="bilinear", align_corners=False)


class SkipSum(nn.Module):
    """Scores of the coarsest features, doubled in resolution and added to those of the next finer ones, and so on.

    Args:
        channels: of each feature map, finest first.
    """

    def __init__(self, channels: Sequence[int], num_classes: int):
        super().__init__()
        self.context = ConvBNReLU(channels[-1], channels[-1])
        self.scores = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in channels)
        self.ups = nn.ModuleList(UpConv(num_classes) for _ in channels[1:])
        for layer in self.scores[:-1]:  # as in the paper, only the coarsest features count at the start
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """List of [N, channels[i], ceil(H / 2**i), ceil(W / 2**i)] -> [N, C, H, W]"""
        total = self.scores[-1](self.context(features[-1]))
        for feature, score, up in reversed(list(zip(features[:-1], self.scores[:-1], self.ups, strict=True))):
            height, width = feature.shape[2:]
            total = score(feature) + up(total)[:, :, :height, :width]  # twice a side that was rounded up may be 1 more
        return total
