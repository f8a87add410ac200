"""AlexNet (Krizhevsky 2014, "One weird trick", arXiv:1404.5997)."""

import torch

from utils import UserError

from .basic_module import BasicModule


class AlexNet(BasicModule):
    """torchvision's AlexNet with a head for `num_classes`. Images [N, 3, H, W] of at least 63x63 -> scores [N, C]."""

    head = "classifier"

    def __init__(self, num_classes: int = 2):
        super().__init__()
        from torchvision.models import alexnet  # here, not above: it takes as long to load as torch itself

        whole = alexnet(weights=None, num_classes=num_classes)
        self.features = whole.features
        self.pool = whole.avgpool
        self.classifier = whole.classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, C]"""
        height, width = x.shape[2:]
        if min(height, width) < 63:
            raise UserError(f"AlexNet needs pictures of 63x63 or more, not {height}x{width}: give --image-size=64")
        x = self.pool(self.features(x))  # [N, 256, 6, 6]
        return self.classifier(x.flatten(1))
