"""DeepLabV3 for segmentation (Chen et al. 2017, arXiv:1706.05587)."""

import torch

from utils import UserError

from .basic_module import BasicModule


class DeepLabV3(BasicModule):
    """torchvision's DeepLabV3 on ResNet50, without its auxiliary loss. [N, 3, H, W] of any size -> [N, C, H, W].

    torchvision's own checkpoints fit by name; those of 21 classes lose their last layer, all lose the auxiliary one.
    """

    task = "segmentation"
    head = "net.classifier"
    inner = "net"

    def __init__(self, num_classes: int = 2):
        super().__init__()
        from torchvision.models.segmentation import deeplabv3_resnet50  # here, not above: it is slow to load

        self.net = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, C, H, W]. Raises UserError for a batch of one in training."""
        if self.training and len(x) == 1:
            raise UserError(
                "DeepLabV3 cannot learn from a batch of one picture (a BatchNorm of it sees one value per channel): "
                "give --batch-size=2 or more, and two pictures at least"
            )
        return self.net(x)["out"]
