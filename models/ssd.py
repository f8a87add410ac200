"""SSD, the single shot detector (Liu et al. 2015, arXiv:1512.02325), torchvision's."""

from .detector import Detector


class SSD(Detector):
    """torchvision's SSDLite on a MobileNetV3 (Howard et al. 2019, arXiv:1905.02244), from scratch. Boxes, no masks.

    Of torchvision's two SSDs this one can learn from scratch, because it has BatchNorm, unlike the other's VGG16. With
    0.6 GFLOPs instead of 35 for an image of 320 pixels it trains on a laptop.
    """

    head = "detector.head"

    def __init__(self, num_classes: int = 91):
        from torchvision.models.detection import ssdlite320_mobilenet_v3_large  # here: it takes as long as torch

        super().__init__(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=num_classes))
